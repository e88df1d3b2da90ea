"""uv's lines while it installs, as progress: sizes where uv says them, names where it does not."""

from __future__ import annotations

import re

from bainmarie.progress import Progress, Report

_DOWNLOADING = re.compile(r"^\s*Downloading (\S+) \(([\d.]+) ?([KMGT]?i?B)\)")
_DOWNLOADED = re.compile(r"^\s*Downloaded (\S+)")
_BUILDING = re.compile(r"^\s*Building (\S+)")
_PREPARED = re.compile(r"^\s*Prepared (\d+) packages?")
_INSTALLED = re.compile(r"^\s*Installed (\d+) packages?")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class SyncProgress:
    """Give it each line of `uv pip sync`; it reports `download` and `install`.

    uv announces a file of a megabyte or more with its size when its download begins, and says when it is there.
    `current` and `total` are bytes of the announced files; `current` counts whole files.
    """

    def __init__(self, packages: int, report: Report) -> None:
        self._report = report
        self._packages = packages
        self._sizes: dict[str, int] = {}
        self._open: dict[str, str] = {}
        self._done = 0
        self._prepared = False
        report(Progress("download", None, f"{packages} packages"))

    def line(self, line: str) -> None:
        if match := _DOWNLOADING.match(line):
            name, number, unit = match.groups()
            self._sizes[name] = int(float(number) * _UNITS.get(unit, 1))
            self._open[name] = f"{name} {number} {unit}"
            self._download()
        elif match := _DOWNLOADED.match(line):
            self._open.pop(match[1], None)
            self._done += self._sizes.get(match[1], 0)
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

    def _download(self) -> None:
        total = sum(self._sizes.values())
        waiting = ", ".join(self._open.values())
        self._report(Progress("download", self._done / total if total else None, waiting, self._done, total, "bytes"))

    def _prepare(self, detail: str) -> None:
        self._prepared = True
        total = sum(self._sizes.values())
        self._report(Progress("download", 1.0, detail, total, total, "bytes" if total else ""))
        self._report(Progress("install", None, f"{self._packages} packages"))
