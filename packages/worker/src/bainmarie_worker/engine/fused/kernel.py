"""decoder.c as a library: compiled for this processor when it is first needed, and kept.

What it takes is a C compiler (`cc`, or what CC names). Without one models are computed by their own code. What a
compiler could not do is noted beside the library: the next worker does not ask it again for the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_SOURCE = Path(__file__).with_name("decoder.c")
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
_NATIVE = {"x86_64": "-march=native", "amd64": "-march=native", "arm64": "-mcpu=native", "aarch64": "-mcpu=native"}
_SECONDS = 120
_NOTED = 24 * 3600
"""Seconds after which a compiler that failed is asked again: what it lacked, headers say, may be there."""


class NoKernel(Exception):
    """Why there is no compiled code here, in words."""


@functools.cache
def kernel() -> ctypes.CDLL:
    """The library. NoKernel where it cannot be had; a compiler takes some seconds, once."""
    path = _directory() / f"decoder-{_digest()}.so"
    if not path.exists():
        _compile(path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NoKernel(f"the compiled decoder cannot be loaded: {error}") from error
    library.bainmarie_forward.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    library.bainmarie_forward.restype = ctypes.c_int
    return library


def _compile(path: Path) -> None:
    if sys.platform == "win32":
        raise NoKernel("the decoder was never compiled on Windows")
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or ""]
    if not compiler[0]:
        raise NoKernel("there is no C compiler (cc); with one, generating is about twice as fast")
    native = _NATIVE.get(platform.machine().lower())
    if native is None:
        raise NoKernel(f"the decoder was never compiled for {platform.machine()}")
    note = path.with_suffix(f".{_identity(compiler[0])}.failed")
    _recall(note)
    command = [compiler[0], native, *_FLAGS, *compiler[1:], "-o", path.name, str(_SOURCE), "-lm"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=_SECONDS, check=False)
            if done.returncode:
                first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:])
                reason = f"{compiler[0]} could not compile the decoder: {first.strip()}"
                _put(note, f"{reason} (noted in {note})", Path(scratch))
                raise NoKernel(reason)
            (Path(scratch) / path.name).replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernel(f"{compiler[0]} could not compile the decoder into {path.parent}: {error}") from error


def _recall(note: Path) -> None:
    """NoKernel where the compiler has failed lately."""
    with suppress(OSError):
        if time.time() - note.stat().st_mtime < _NOTED:
            raise NoKernel(note.read_text(encoding="utf-8"))


def _put(note: Path, text: str, scratch: Path) -> None:
    """Readers see all of it or nothing."""
    draft = scratch / note.name
    draft.write_text(text, encoding="utf-8")
    draft.replace(note)


def _identity(compiler: str) -> str:
    """Another one where the compiler has been exchanged."""
    place = os.path.realpath(shutil.which(compiler) or compiler)
    with suppress(OSError):
        found = os.stat(place)
        place += f" {found.st_size} {found.st_mtime_ns}"
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def _directory() -> Path:
    """Where compiled code is kept: BAIN_KERNELS, which the gateway sets, or the user's cache."""
    kept = os.environ.get("BAIN_KERNELS")
    if kept:
        return Path(kept)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bainmarie" / "kernels"


def _digest() -> str:
    """Of the sources, the flags and the processor: a home may be seen by several machines."""
    sources = [path.read_bytes() for path in sorted((*_SOURCE.parent.glob("*.c"), *_SOURCE.parent.glob("*.h")))]
    parts = (*sources, repr(_FLAGS).encode(), _processor().encode(), os.environ.get("CC", "").encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What this processor can do, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            told = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    except OSError:
        told = [platform.processor()]
    return platform.machine() + "".join(sorted(set(told)))
