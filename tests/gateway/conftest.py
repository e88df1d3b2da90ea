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
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of another release: one line more."""
    copy = tmp_path_factory.mktemp("checkout")
    for package in (*carried.WHEELS, "gateway"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "packages" / package, copy / "packages" / package, ignore=left_out)
    with (copy / "packages" / "worker" / "src" / "bainmarie_worker" / "__init__.py").open("a") as file:
        file.write("NEWER = True\n")
    return copy


@pytest.fixture(scope="session")
def newer(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkerPackages:
    """The worker of that release."""
    wheels = tmp_path_factory.mktemp("newer")
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
