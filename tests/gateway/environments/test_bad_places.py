"""Full disks and homes that cannot be written: real ones, mounted in a namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .builders import BUILDER

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
_MAY = (
    shutil.which("unshare") and subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
)
pytestmark = pytest.mark.skipif(not _MAY, reason="mounting needs user namespaces, which this machine does not allow")


def build_on(place: Path, mount: str, *packages: str, **environ: str) -> tuple[str, list[str]]:
    """The builder's last line with `place` mounted like that, and what is left under `place`/environments."""
    place.mkdir()
    script = (
        f'mount -t tmpfs {mount} tmpfs "$1" && shift && "$@"; cd "$PLACE"; find environments -mindepth 1 -maxdepth 1'
    )
    command = [*_NAMESPACE, "sh", "-c", script, "sh", str(place), sys.executable, "-c", BUILDER, str(place), *packages]
    environment = {**os.environ, "PLACE": str(place), **environ}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    lines = told.stdout.splitlines()
    (end,) = [number for number, line in enumerate(lines) if line.startswith(("failed", "made"))] or [
        pytest.fail(told.stderr)
    ]
    return lines[end], sorted(lines[end + 1 :])


def test_a_disk_that_is_too_small_from_the_start(tmp_path: Path) -> None:
    told, left = build_on(tmp_path / "home", "-o size=6m", "six==1.16.0")
    assert told.startswith("failed disk_full")
    assert "needs room for 16 MiB at the least" in told
    assert left == ["environments/locks"]


def test_a_disk_that_fills_while_installing(tmp_path: Path, make_wheel: Callable[..., Path]) -> None:
    wheels = make_wheel("large", "1.0", source=f"'''{'x' * (40 << 20)}'''\n")
    told, left = build_on(tmp_path / "home", "-o size=30m", "large", UV_FIND_LINKS=str(wheels))
    assert told.startswith("failed disk_full"), told
    assert left == ["environments/locks"], "nothing half-made stays"


def test_a_home_that_is_read_only(tmp_path: Path) -> None:
    told, left = build_on(tmp_path / "home", "-o ro", "six==1.16.0")
    assert told.startswith("failed home_not_writable"), told
    assert left == []
