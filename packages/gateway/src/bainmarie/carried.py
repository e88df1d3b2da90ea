"""Where the things are that travel with the gateway: the worker's source and the demo models.

In a wheel they lie in `bainmarie/_carried`; in a checkout in their own folders.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CARRIED = _PACKAGE / "_carried"
_CHECKOUT = _PACKAGE.parents[3]


def worker_path() -> list[Path]:
    """Folders for a worker's import path: they hold bainmarie_worker and bainmarie_protocol and nothing else."""
    if _CARRIED.is_dir():
        return [_CARRIED / "worker"]
    return [_CHECKOUT / "packages" / "worker" / "src", _CHECKOUT / "packages" / "protocol" / "src"]


def demo_model(name: str = "demo") -> Path:
    """The folder of a model that comes with bainmarie: demo, demo-pirate (an adapter) or demo-pirate-merged."""
    root = _CARRIED / "models" if _CARRIED.is_dir() else _CHECKOUT / "models"
    return root / name
