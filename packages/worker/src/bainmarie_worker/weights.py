"""How far the weights are, in bytes, told from inside transformers' own loop over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bainmarie_protocol import Progress
from bainmarie_worker import files
from bainmarie_worker.engine.engine import Report


@contextmanager
def weights_progress(paths: list[str], report: Report) -> Iterator[None]:
    """Reports `weights` while from_pretrained runs inside, from no byte to all of them.

    Since version 5 transformers shows a bar over tensors, before that one over weight files (only if there are
    several). Both are counted where they are made.
    """
    from transformers.utils import logging

    shards = [os.path.getsize(path) for path in paths]
    total = sum(shards)
    tensors = {t.name: t.size for path in paths if path.endswith(".safetensors") for t in files.tensors(path)}
    report(Progress("weights", 0, total, "bytes"))

    def make(factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        items: Any = args[0] if args else options.get("iterable")
        count = len(items) if hasattr(items, "__len__") else int(options.get("total") or 0)
        if "oading" not in str(options.get("desc", "")) or not count:
            return factory(*args, **options)
        steps = shards if count == len(shards) else _bytes_of(items, count, tensors, total)
        return _Counted(items, steps, total, report)

    with _every_bar(logging, make):
        yield
    report(Progress("weights", total, total, "bytes"))


def _bytes_of(items: Any, count: int, tensors: dict[str, int], total: int) -> list[int]:
    """The bytes of each step: of the tensor that it names, or an equal share where the names are others."""
    share = total // max(count, 1)
    names = [item[0] if isinstance(item, tuple) else item for item in items] if items is not None else []
    known = [tensors.get(name, share) if isinstance(name, str) else share for name in names]
    return known or [share] * count


@contextmanager
def _every_bar(logging: Any, make: Any) -> Iterator[None]:
    """Has `make` called for each progress bar that transformers opens inside."""
    if hasattr(logging, "set_tqdm_hook"):
        previous = logging.set_tqdm_hook(make)
        try:
            yield
        finally:
            logging.set_tqdm_hook(previous)
        return
    factory = logging.tqdm
    logging.tqdm = lambda *args, **options: make(factory, args, options)
    try:
        yield
    finally:
        logging.tqdm = factory


class _Counted:
    """Stands where a bar would: iterates or is updated, and reports what has passed."""

    def __init__(self, items: Any, steps: list[int], total: int, report: Report) -> None:
        self._items = items
        self._steps = steps
        self._total = total
        self._report = report
        self._place = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        """So many steps more are done."""
        self._place += count
        done = min(sum(self._steps[: self._place]), self._total)
        self._report(Progress("weights", done, self._total, "bytes"))

    def __getattr__(self, name: str) -> Any:
        """The other methods of a bar (set_postfix, close, ...) have nothing to do here."""
        return lambda *args, **options: None

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *error: object) -> None:
        return None
