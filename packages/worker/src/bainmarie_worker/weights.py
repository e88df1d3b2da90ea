"""How far the weights are, told from inside transformers' own loop over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bainmarie_protocol import Progress
from bainmarie_worker.engine.engine import Report


@contextmanager
def weights_progress(paths: list[str], report: Report) -> Iterator[None]:
    """Reports `weights` while from_pretrained runs inside.

    Since version 5 transformers shows a bar over tensors, before that one over weight files (only if there are
    several). Both are counted where they are made. First and last report count the bytes of all files.
    """
    from transformers.utils import logging

    sizes = [os.path.getsize(path) for path in paths]
    total = sum(sizes)
    report(Progress("weights", 0, total, "bytes"))

    def make(factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        text = str(options.get("desc", ""))
        if not args or "oading" not in text or not hasattr(args[0], "__len__"):
            return factory(*args, **options)
        return _Counted(args[0], sizes if "shard" in text else None, total, report)

    with _every_bar(logging, make):
        yield
    report(Progress("weights", total, total, "bytes"))


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
    """Stands where a bar would: iterates, and reports what has passed."""

    def __init__(self, items: Any, sizes: list[int] | None, total: int, report: Report) -> None:
        self._items = items
        self._sizes = sizes
        self._total = total
        self._report = report

    def __iter__(self) -> Iterator[Any]:
        count = len(self._items)
        for place, item in enumerate(self._items, 1):
            yield item
            if self._sizes is not None and len(self._sizes) == count:
                self._report(Progress("weights", sum(self._sizes[:place]), self._total, "bytes"))
            else:
                self._report(Progress("weights", place, count, "tensors"))

    def __getattr__(self, name: str) -> Any:
        """The other methods of a bar (set_postfix, close, ...) have nothing to do here."""
        return lambda *args, **options: None

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *error: object) -> None:
        return None
