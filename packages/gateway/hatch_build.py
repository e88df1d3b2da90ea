"""Puts the worker's wheels and the demo models into the wheel; an editable install takes them from the checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODELS = ("demo", "demo-pirate", "demo-pirate-merged")


class CarriedFiles(BuildHookInterface):
    def dependencies(self) -> list[str]:
        return [] if _uv() else ["uv>=0.9"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        checkout = Path(self.root).parents[1]
        self._wheels = Path(tempfile.mkdtemp())
        _carried(Path(self.root)).build_wheels(checkout, self._wheels, _uv())
        carried = {str(wheel): f"wheels/{wheel.name}" for wheel in self._wheels.iterdir()}
        carried |= {str(checkout / "models" / name): f"models/{name}" for name in MODELS}
        build_data["force_include"].update({file: f"bainmarie/_carried/{place}" for file, place in carried.items()})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self._wheels)


def _uv() -> str | None:
    """The uv that runs this build, else one that is there."""
    try:
        from uv import find_uv_bin
    except ImportError:
        return os.environ.get("UV") or shutil.which("uv")
    return find_uv_bin()


def _carried(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("carried", root / "src" / "bainmarie" / "carried.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
