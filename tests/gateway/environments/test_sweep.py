"""Mark and sweep, on real environments and real processes in them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from bainmarie.environments.disk import disk, written
from bainmarie.environments.environment import MARKER, Environment
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Environment]:
    """Makes a directory that looks finished, asked for long ago."""
    root = tmp_path / "environments"
    (root / "locks").mkdir(parents=True)

    def make(digest: str, finished: bool = True) -> Path:
        path = root / digest
        (path / "bin").mkdir(parents=True)
        (path / "bin" / "python").symlink_to("/bin/sleep")
        (path / "big").write_bytes(b"x" * 100_000)
        if finished:
            record = f'"digest": "{digest}", "names": ["e"], "python_version": "", "versions": {{}}'
            (path / MARKER).write_text(f'{{{record}, "accelerator": "", "created": "", "spec": {{}}, "lock": ""}}')
        return path

    return make


def verdicts(tmp_path: Path, *wanted: EnvironmentSpec, dry_run: bool = False) -> dict[str, str]:
    return {v.path.name: v.kept for v in EnvironmentStore(tmp_path).sweep(wanted, dry_run=dry_run)}


def test_what_nobody_wants_goes_and_rubble_with_it(tmp_path: Path, make: Callable[..., Path]) -> None:
    gone, rubble = make("aa"), make("bb", finished=False)
    assert verdicts(tmp_path, dry_run=True) == {"aa": "", "bb": ""}
    assert gone.exists()
    assert [v.freed >= 100_000 for v in EnvironmentStore(tmp_path).sweep([])] == [True, True]
    assert not gone.exists()
    assert not rubble.exists()


async def test_what_is_wanted_stays(tmp_path: Path, spec: EnvironmentSpec) -> None:
    store = EnvironmentStore(tmp_path)
    one = await store.ensure(spec, lambda progress: None)
    two = await store.ensure(replace(spec, packages=("six==1.17.0",)), lambda progress: None)
    assert verdicts(tmp_path, spec) == {
        one.digest: "a model wants it",
        two.digest: "it was asked for minutes ago",
    }
    old = time.time() - 3600
    os.utime(tmp_path / "environments" / "locks" / f"{two.digest}.used", (old, old))
    assert verdicts(tmp_path, spec) == {one.digest: "a model wants it", two.digest: ""}
    assert [environment.digest for environment in store.list()] == [one.digest]


def test_what_a_process_runs_in_stays(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = make("aa")
    with subprocess.Popen([str(path / "bin" / "python"), "600"]) as process:
        try:
            assert verdicts(tmp_path) == {"aa": f"process {process.pid} runs in it"}
        finally:
            process.kill()
    assert verdicts(tmp_path) == {"aa": ""}


def test_what_is_being_built_stays(tmp_path: Path, make: Callable[..., Path]) -> None:
    make("aa", finished=False)
    with FileLock(tmp_path / "environments" / "locks" / "aa.build.lock"):
        assert verdicts(tmp_path) == {"aa": "it is being built"}
    assert verdicts(tmp_path) == {"aa": ""}


def test_hard_links_are_counted_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a").write_bytes(b"x" * 40_960)
    os.link(tmp_path / "one" / "a", tmp_path / "two" / "a")
    (tmp_path / "two" / "b").write_bytes(b"x" * 8_192)
    one, two = disk([tmp_path / "one"]), disk([tmp_path / "two"])
    assert (one.size, one.own, two.own) == (40_960, 0, 8_192)
    assert one.shared == 40_960
    both = disk([tmp_path / "one", tmp_path / "two"])
    assert (both.size, both.own) == (49_152, 49_152)


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (2048, "2 KiB"), (5 << 20, "5 MiB"), (3 << 29, "1.50 GiB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert written(size) == text
