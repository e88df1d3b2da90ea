"""What travels with the gateway: the wheels of its worker, and the demo models.

In the gateway's wheel they lie in `bainmarie/_carried`. In a checkout the models lie in their own folder, and the
wheels are built from the sources, once for each content. Standard library and uv alone: `hatch_build.py` loads it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

WHEELS = ("worker", "protocol")
"""Folders of the packages that are installed into a model's environment."""
_PACKAGE = Path(__file__).resolve().parent
_CARRIED = _PACKAGE / "_carried"
_CHECKOUT = _PACKAGE.parents[3]
_KEPT = 8
"""So many builds of different sources stay in a checkout."""


def worker_wheels() -> list[Path]:
    """The wheels of bainmarie_worker and bainmarie_protocol. RuntimeError where a checkout cannot build them."""
    if _CARRIED.is_dir():
        return sorted((_CARRIED / "wheels").glob("*.whl"))
    return _built(_CHECKOUT)


def demo_model(name: str = "demo") -> Path:
    """The folder of a model that comes with bainmarie: demo, demo-pirate (an adapter) or demo-pirate-merged."""
    root = _CARRIED / "models" if _CARRIED.is_dir() else _CHECKOUT / "models"
    return root / name


def build_wheels(checkout: Path, target: Path, uv: str) -> None:
    """Builds them from the sources: the same sources give the same bytes.

    uv is their build backend, so that nothing is downloaded. RuntimeError with uv's own words.
    """
    for package in WHEELS:
        source = str(checkout / "packages" / package)
        command = (uv, "build", "--wheel", "--offline", "--no-config", "--python", sys.executable, "--quiet")
        done = subprocess.run(
            [*command, "--out-dir", str(target), source],
            env={name: value for name, value in os.environ.items() if not name.startswith("UV_")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the wheel of {source} cannot be built: {done.stderr.strip()}")
    (target / ".gitignore").unlink(missing_ok=True)


def whole(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, with what `make` has put into it: made beside it and renamed, so that nobody ever finds half of it.

    Of several who make it at once the first one's stays: theirs must be equal.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        make(new)
        new.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def _built(checkout: Path) -> list[Path]:
    """The checkout's wheels, built now where its sources have changed."""
    from uv import find_uv_bin

    place = checkout / ".cache" / "wheels"
    folder = place / _digest(checkout)
    if not folder.is_dir():
        whole(folder, lambda new: build_wheels(checkout, new, find_uv_bin()))
        for old in sorted(place.glob("*"), key=os.path.getmtime)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return sorted(folder.glob("*.whl"))


def _digest(checkout: Path) -> str:
    """Of all that goes into the wheels."""
    content = hashlib.sha256()
    for package in WHEELS:
        folder = checkout / "packages" / package
        for file in [folder / "pyproject.toml", *sorted((folder / "src").rglob("*"))]:
            if file.suffix != ".pyc" and file.is_file():
                data = file.read_bytes()
                content.update(f"{file.relative_to(folder).as_posix()} {len(data)}\n".encode() + data)
    return content.hexdigest()[:20]
