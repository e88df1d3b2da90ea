"""The exported lock: written, read, built again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.environments.lock_file import LockFile, pins, read_lock_file, write_lock_file
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress

REQUIREMENTS = (
    "six==1.17.0 \\\n    --hash=sha256:aa\nTorch_x==2.13.0+cpu ; python_version > '3' \\\n    --hash=sha256:bb\n"
)
LOCK = LockFile("3.11", "cpython-311", "linux-x86_64", "", REQUIREMENTS)


def written(path: Path, lock: LockFile = LOCK) -> Path:
    path.write_text(write_lock_file(lock))
    return path


@pytest.mark.parametrize("backend", ["", "cpu"])
def test_what_is_written_is_read(tmp_path: Path, backend: str) -> None:
    lock = replace(LOCK, torch_backend=backend)
    assert read_lock_file(written(tmp_path / "a.lock", lock), "e") == lock


def test_pins() -> None:
    text = f"{REQUIREMENTS}tiny[extra]==1.0 \\\n    --hash=sha256:cc\nlocal @ file:///x.whl\n    # via y==1\n"
    assert pins(text) == {"six": "1.17.0", "torch-x": "2.13.0+cpu", "tiny": "1.0", "local": "file:///x.whl"}


@pytest.mark.parametrize("text", ["", "six==1.17.0\n", "# bainmarie-lock: 1\nsix==1.17.0\n", "# bainmarie-lock: 1"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.lock").write_text(text)
    with pytest.raises(EnvironmentFailed, match=r"'e'.*a\.lock") as failure:
        read_lock_file(tmp_path / "a.lock", "e")
    assert failure.value.code == "lock_unreadable"
    assert "bain env lock MODEL" in failure.value.hint


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a.lock")
    file.write_text(file.read_text().replace("bainmarie-lock: 1", "bainmarie-lock: 2"))
    with pytest.raises(EnvironmentFailed, match="the format 2"):
        read_lock_file(file, "e")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="does not exist") as failure:
        read_lock_file(tmp_path / "absent.lock", "e")
    assert failure.value.code == "lock_not_found"


async def test_the_same_lock_is_the_same_environment_elsewhere(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    here = EnvironmentStore(tmp_path / "here")
    first = await here.ensure(spec, seen.append)
    exported = written(tmp_path / "six.lock", (await here.lock(spec, seen.append)).exported)
    there = EnvironmentStore(tmp_path / "there")
    seen.clear()
    second = await there.ensure(EnvironmentSpec(name="other", lock=str(exported)), seen.append)
    assert second.digest == first.digest
    assert second.versions == first.versions
    assert [progress.detail for progress in seen if progress.stage == "resolve"] == [
        f"{len(pins(exported.read_text()))} packages, from {exported}"
    ]


async def test_locking_builds_nothing(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    store = EnvironmentStore(tmp_path)
    one = await store.lock(spec, seen.append)
    assert {progress.stage for progress in seen} == {"resolve"}
    assert await store.lock(spec, seen.append) == one
    assert store.list() == []
    made = await store.ensure(spec, seen.append)
    assert (made.lock, made.digest) == (one.digest, one.environment(store.worker.digest))


async def test_a_lock_for_another_platform_is_refused(tmp_path: Path, seen: list[Progress]) -> None:
    lock = written(tmp_path / "a.lock", replace(LOCK, platform="plan9-mips"))
    with pytest.raises(EnvironmentFailed, match="locked for cpython-311 on plan9-mips") as failure:
        await EnvironmentStore(tmp_path).ensure(EnvironmentSpec(name="e", lock=str(lock)), seen.append)
    assert failure.value.code == "lock_other_platform"


async def test_an_interpreter_used_as_it_is_has_no_lock(tmp_path: Path, seen: list[Progress]) -> None:
    with pytest.raises(EnvironmentFailed, match="nothing to lock"):
        await EnvironmentStore(tmp_path).lock(
            EnvironmentSpec(name="own", python_executable="/usr/bin/python3"), seen.append
        )
