"""A builder whose whole tree is killed at random instants: what it leaves is never used and needs no hand.

`BAIN_LONG=1 ./run test tests/gateway/environments/test_kills.py` kills fifty times; the usual suite five times.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from bainmarie.environments.environment import Environment
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.environments.worker_packages import WorkerPackages

from .builders import kill_tree, start_builder

PACKAGES = ("six==1.16.0", "markupsafe")
SHORT, LONG = 5, 50


@pytest.mark.timeout(1800)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    kills = LONG if os.environ.get("BAIN_LONG") else SHORT
    whole = duration(tmp_path / "measured")
    seed = random.randrange(10**6)
    print(f"seed {seed}, {kills} kills within {whole:.1f} s")
    instants = random.Random(seed)
    home, late = 0, 0
    for number in range(kills):
        place = tmp_path / str(home)  # most asks meet what earlier kills have left
        builder = start_builder(place, *PACKAGES)
        time.sleep(instants.uniform(0.1, whole))  # the instant is what is tested
        kill_tree(builder)
        if finished := EnvironmentStore(place).list():
            check_whole(finished[0])
            late += 1
        if finished or number % 5 == 4:
            check_repaired(place)
            home += 1
    print(f"{late} of them came after the end of a build")


@pytest.mark.timeout(1800)
def test_killed_while_it_takes_files_over(tmp_path: Path, newer: WorkerPackages) -> None:
    """The builder of a new bainmarie: the environment that gives its files stays whole, and gives them again."""
    kills = LONG if os.environ.get("BAIN_LONG") else SHORT
    home, wheels = tmp_path / "home", {"WORKER_WHEELS": os.pathsep.join(map(str, newer.wheels))}
    duration(home)
    store = EnvironmentStore(home, worker=newer)
    (old,) = store.list()
    whole = duration(home, wheels)
    (_, new) = store.list()
    assert (new.lock, new.worker) == (old.lock, newer.digest)
    seed = random.randrange(10**6)
    print(f"seed {seed}, {kills} kills within {whole:.1f} s")
    instants = random.Random(seed)
    for _ in range(kills):
        assert new.path is not None
        shutil.rmtree(new.path)
        builder = start_builder(home, *PACKAGES, environ=wheels)
        time.sleep(instants.uniform(0.1, whole))  # the instant is what is tested
        kill_tree(builder)
        check_whole(old)
        if found := store.find(EnvironmentSpec(name="small", packages=PACKAGES)):
            check_whole(found)
        duration(home, wheels)
        (still, new) = store.list()
        assert still == old
        check_whole(new)


def check_repaired(home: Path) -> None:
    """The next ask gets a whole environment, without a hand."""
    duration(home)
    store = EnvironmentStore(home)
    (environment,) = store.list()
    check_whole(environment)
    assert store.find(EnvironmentSpec(name="small", packages=PACKAGES)) == environment


def duration(home: Path, environ: Mapping[str, str] | None = None) -> float:
    """Seconds of one whole build."""
    begin = time.monotonic()
    out, err = start_builder(home, *PACKAGES, environ=environ).communicate(timeout=300)
    assert out.splitlines()[-1].startswith("made"), (out, err)
    return time.monotonic() - begin


def check_whole(environment: Environment) -> None:
    """Every file that the installed packages record is there and has its size."""
    program = """
import importlib.metadata, pathlib, sys
for distribution in importlib.metadata.distributions():
    for file in distribution.files or ():
        place = pathlib.Path(file.locate())
        assert place.exists() and (file.size is None or place.stat().st_size == file.size), place
import six, markupsafe, starlette, uvicorn, jinja2
"""
    told = subprocess.run([str(environment.python), "-I", "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
