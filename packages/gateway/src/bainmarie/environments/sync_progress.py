"""uv's lines while it installs, as progress: sizes where uv says them, names where it does not."""

from __future__ import annotations

import re

from bainmarie.progress import Progress, Report

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FRAME = "Preparing packages..."
_BAR = re.compile(r"([\w.-]*\w)\s+-{10,}\s+([\d.]+) ([KMGT]?i?B)/([\d.]+) ([KMGT]?i?B)")
_STEP = 0.005
"""Report when another such part of all bytes is there."""
_MOST_NAMED = 3
_DOWNLOADING = re.compile(r"^\s*Downloading (\S+) \(([\d.]+) ?([KMGT]?i?B)\)")
_DOWNLOADED = re.compile(r"^\s*Downloaded (\S+)")
_BUILDING = re.compile(r"^\s*Building (\S+)")
_PREPARED = re.compile(r"^\s*Prepared (\d+) packages?")
_INSTALLED = re.compile(r"^\s*Installed (\d+) packages?")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class SyncProgress:
    """Give it each line of `uv pip sync`; it reports `download` and `install`.

    On a terminal uv draws a frame of bars, one for each running download, many times a second: `current` and `total`
    are the bytes of all downloads begun so far. Elsewhere it announces files of a megabyte or more with their size and
    says when they are there: then `current` counts whole files.
    """

    def __init__(self, packages: int, report: Report) -> None:
        self._report = report
        self._packages = packages
        self._sizes: dict[str, int] = {}
        self._got: dict[str, int] = {}
        self._open: dict[str, str] = {}
        self._told = -1
        self._prepared = False
        report(Progress("download", None, f"{packages} packages"))

    def line(self, line: str) -> None:
        line = _ANSI.sub("", line)
        if _FRAME in line:
            self._frame(line)
        elif match := _DOWNLOADING.match(line):
            name, number, unit = match.groups()
            self._sizes[name] = _bytes(number, unit)
            self._open[name] = f"{name} {number} {unit}"
            self._download()
        elif match := _DOWNLOADED.match(line):
            self._open.pop(match[1], None)
            self._got[match[1]] = self._sizes.get(match[1], 0)
            self._download()
        elif match := _BUILDING.match(line):
            self._report(Progress("download", None, f"building {match[1]}"))
        elif match := _PREPARED.match(line):
            self._prepare(f"{match[1]} packages fetched")
        elif match := _INSTALLED.match(line):
            if not self._prepared:
                self._prepare("everything was in the cache")
            count = int(match[1])
            self._report(Progress("install", 1.0, f"{count} packages", count, count, "packages"))

    def _frame(self, line: str) -> None:
        bars = {name: (done, size, text) for name, done, size, text in map(_bar, _BAR.finditer(line))}
        for name, (done, size, _) in bars.items():
            self._got[name], self._sizes[name] = done, size
        for name in self._open.keys() - bars.keys():  # a bar vanishes when its file is there
            self._got[name] = self._sizes[name]
        if not self._sizes:
            return
        begun_or_ended = self._open.keys() != bars.keys()
        self._open = {name: f"{name} {text}" for name, (_, _, text) in bars.items()}
        if begun_or_ended or self._current - self._told >= sum(self._sizes.values()) * _STEP:
            self._download()

    @property
    def _current(self) -> int:
        return sum(self._got.values())

    def _download(self) -> None:
        current, total = self._current, sum(self._sizes.values())
        self._told = current
        largest = sorted(self._open, key=lambda name: self._sizes[name] - self._got.get(name, 0), reverse=True)
        more = f" and {len(largest) - _MOST_NAMED} more" if len(largest) > _MOST_NAMED else ""
        waiting = ", ".join(self._open[name] for name in largest[:_MOST_NAMED]) + more
        self._report(Progress("download", current / total if total else None, waiting, current, total, "bytes"))

    def _prepare(self, detail: str) -> None:
        self._prepared = True
        total = sum(self._sizes.values())
        self._report(Progress("download", 1.0, detail, total, total, "bytes" if total else ""))
        self._report(Progress("install", None, f"{self._packages} packages"))


def _bar(match: re.Match[str]) -> tuple[str, int, int, str]:
    """Name, bytes that are there, bytes of all, and the latter as uv writes them."""
    name, done, done_unit, size, size_unit = match.groups()
    return name, _bytes(done, done_unit), _bytes(size, size_unit), f"{size} {size_unit}"


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS.get(unit, 1))
