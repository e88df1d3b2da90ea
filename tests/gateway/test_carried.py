"""The wheels of the worker: complete, the same for the same sources, and made without network."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest
from tests.conftest import ROOT
from uv import find_uv_bin

from bainmarie import carried


def built(checkout: Path, target: Path) -> dict[str, bytes]:
    """The bytes of each wheel by its name."""
    carried.build_wheels(checkout, target, find_uv_bin())
    return {wheel.name: wheel.read_bytes() for wheel in target.iterdir()}


def copied(target: Path) -> Path:
    for package in carried.WHEELS:
        shutil.copytree(ROOT / "packages" / package, target / "packages" / package)
    return target


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, at another time, with nothing in uv's cache, and whatever the user wishes of uv."""
    one = built(ROOT, tmp_path / "one")
    other = copied(tmp_path / "other")
    for file in other.rglob("*"):
        os.utime(file, (1e9, 1e9))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_REQUIRE_HASHES", "1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/")
    assert sorted(one) == [f"bainmarie_{name}-0.1.0-py3-none-any.whl" for name in ("protocol", "worker")]
    assert built(other, tmp_path / "two") == one
    with (other / "packages" / "worker" / "src" / "bainmarie_worker" / "limits.py").open("a") as file:
        file.write("# changed\n")
    changed = built(other, tmp_path / "three")
    assert [changed[name] == one[name] for name in sorted(one)] == [True, False]


@pytest.mark.parametrize("package", carried.WHEELS)
def test_every_file_of_a_package_is_in_its_wheel(package: str) -> None:
    (wheel,) = (wheel for wheel in carried.worker_wheels() if wheel.name.startswith(f"bainmarie_{package}-"))
    sources = ROOT / "packages" / package / "src"
    expected = {
        file.relative_to(sources).as_posix(): file.read_bytes()
        for file in sources.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in inside if ".dist-info/" in name}
    assert {name: inside[name] for name in inside.keys() - metadata} == expected
    assert {Path(name).name for name in metadata} == {"METADATA", "RECORD", "WHEEL"}
    assert (package == "protocol") or any(name.endswith("/decoder.c") for name in inside)


def test_a_checkout_builds_them_once() -> None:
    first = [(wheel, wheel.stat().st_mtime_ns) for wheel in carried.worker_wheels()]
    assert [(wheel, wheel.stat().st_mtime_ns) for wheel in carried.worker_wheels()] == first


def test_what_cannot_be_built_says_why(tmp_path: Path) -> None:
    checkout = copied(tmp_path / "checkout")
    (checkout / "packages" / "worker" / "pyproject.toml").write_text("[project\n")
    with pytest.raises(RuntimeError, match=r"packages/worker cannot be built: [\s\S]*TOML"):
        carried.build_wheels(checkout, tmp_path / "wheels", find_uv_bin())


def test_a_folder_made_by_many_at_once_is_whole(tmp_path: Path) -> None:
    together, made = threading.Barrier(8), []

    def make(folder: Path) -> None:
        made.append(folder)
        together.wait(30)
        for number in range(50):
            (folder / str(number)).write_text("x")

    def ask() -> None:
        assert len(list(carried.whole(tmp_path / "whole", make).iterdir())) == 50

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise subprocess.SubprocessError

    with pytest.raises(subprocess.SubprocessError):
        carried.whole(tmp_path / "whole", make)
    assert list(tmp_path.iterdir()) == []
