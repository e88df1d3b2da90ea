"""What twelve environments take on the disk, hard links counted once.

`BAIN_LONG=1 ./run test tests/gateway/environments/test_shared_disk.py` makes twelve with torch and transformers; the
usual suite twelve with one large package.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.environments.disk import Disk, disk, written
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore

MANY = 12
MOST = 1.15
"""Of the largest one, beside the packages by which they differ."""
DIFFERENT = (
    *("six==1.16.0", "six==1.17.0", "einops==0.8.0", "toolz==1.0.0", "attrs==24.2.0", "decorator==5.1.1"),
    *("iniconfig==2.0.0", "pluggy==1.5.0", "colorama==0.4.6", "zipp==3.20.0", "wheel==0.44.0", "cachetools==5.5.0"),
)


async def made(store: EnvironmentStore, specs: list[EnvironmentSpec]) -> tuple[Disk, int]:
    """Disk of all, and bytes of the largest."""
    paths: list[Path] = []
    for spec in specs:
        environment = await store.ensure(spec, lambda progress: None)
        assert environment.path is not None
        paths.append(environment.path)
    assert len(set(paths)) == MANY
    largest = max(disk([path]).size for path in paths)
    together = disk(paths)
    print(f"{MANY} environments: {written(together.size)}, the largest {written(largest)}")
    return together, largest


async def test_twelve_environments_share_a_large_package(tmp_path: Path, make_wheel: Callable[..., Path]) -> None:
    make_wheel("large", "1.0", source=f"'''{'x' * (64 << 20)}'''\n")
    for number in range(MANY):
        wheels = make_wheel(f"small{number}", "1.0")
    base = EnvironmentSpec(name="e", find_links=(str(wheels),))
    specs = [replace(base, packages=("large", f"small{number}")) for number in range(MANY)]
    together, largest = await made(EnvironmentStore(tmp_path), specs)
    assert together.size <= MOST * largest


@pytest.mark.skipif(not os.environ.get("BAIN_LONG"), reason="twelve torch environments: BAIN_LONG=1 makes them")
@pytest.mark.timeout(3600)
async def test_twelve_environments_share_torch(tmp_path: Path) -> None:
    base = ("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0")
    specs = [EnvironmentSpec(name="e", packages=(*base, package)) for package in DIFFERENT]
    together, largest = await made(EnvironmentStore(tmp_path), specs)
    assert together.size <= MOST * largest
