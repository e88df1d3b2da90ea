"""How much memory a worker takes and how long it loads: estimated before the first load, remembered after it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.workers.estimate import estimate
from bainmarie.workers.sizes import MAIN, Sizes


@dataclass(frozen=True)
class Footprint:
    """Of one worker."""

    sizes: Sizes
    load_seconds: float = 0.0
    measured: bool = False
    """False for an estimate; no sizes then say that nothing is known."""


class Footprints:
    """What was measured, in one file of the home."""

    def __init__(self, file: Path, accelerators: Callable[[], Sequence[str]] = tuple) -> None:
        """`accelerators` are the places behind cuda:0, cuda:1, ...; it may block."""
        self._file = file
        self._accelerators = accelerators
        self._known: dict[str, Footprint] = {}
        with suppress(OSError, ValueError, TypeError):
            data = json.loads(file.read_text())
            self._known = {key: Footprint(**value) for key, value in data.items()}

    def of(self, model: ModelSpec) -> Footprint:
        """What is remembered of the model's worker; else the configuration's word; else an estimate. Blocking."""
        if model.worker_key in self._known:
            return self._known[model.worker_key]
        return Footprint(estimate(model, self._accelerators()))

    def remember(self, key: str, sizes: Sizes, load_seconds: float) -> None:
        """Keeps the largest sizes of the latest life; nothing where none was measured."""
        if sizes.get(MAIN):
            self._known[key] = Footprint(dict(sizes), round(load_seconds, 2), measured=True)
            with suppress(OSError):  # what is lost is an estimate's precision
                self._write(json.dumps({k: asdict(v) for k, v in self._known.items()}, indent=1))

    def _write(self, text: str) -> None:
        """Unlike `write_synced` it waits for no disk: the event loop calls it whenever a worker ends."""
        draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._file)
