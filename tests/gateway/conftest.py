"""Wheels made on the spot, and a worker of another release."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ROOT
from uv import find_uv_bin

from bainmarie import carried
from bainmarie.environments.worker_packages import WorkerPackages, worker_packages


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> WorkerPackages:
    """That of another release: it has one line more."""
    checkout, wheels = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("newer")
    for package in carried.WHEELS:
        shutil.copytree(ROOT / "packages" / package, checkout / "packages" / package)
    with (checkout / "packages" / "worker" / "src" / "bainmarie_worker" / "__init__.py").open("a") as file:
        file.write("NEWER = True\n")
    carried.build_wheels(checkout, wheels, find_uv_bin())
    return worker_packages(list(wheels.glob("*.whl")))


@pytest.fixture
def make_wheel(tmp_path: Path) -> Callable[..., Path]:
    """Make a wheel of one module, and of more files by their path in it; returns the folder that holds it."""

    def make(
        name: str, version: str, source: str = "", requires: str = "", folder: str = "wheels", **more: str
    ) -> Path:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += f"Requires-Dist: {requires}\n" if requires else ""
        files = {
            f"{name}.py": source or f"__version__ = {version!r}\n",
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            **{path.format(info=info): text for path, text in more.items()},
        }
        record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
        with zipfile.ZipFile(target / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in {**files, f"{info}/RECORD": record}.items():
                wheel.writestr(path, text)
        return target

    return make
