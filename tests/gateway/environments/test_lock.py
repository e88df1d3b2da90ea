"""Locks: what is in them, and what names them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

from bainmarie.environments.lock import WORKER_NEEDS, Lock, read_lock, save_lock

ROOT = Path(__file__).resolve().parents[3]
TEXT = "six==1.17.0 \\\n    --hash=sha256:aa\ntorch==2.13.0+cpu \\\n    --hash=sha256:bb\n    # via x==1\n"


def lock_of(interpreter: Path) -> Lock:
    return Lock(TEXT, str(interpreter), "3.11.7", "cpython-311", "linux-x86_64", "")


def test_worker_needs_are_those_of_its_project_file() -> None:
    project = tomllib.loads((ROOT / "packages" / "worker" / "pyproject.toml").read_text())["project"]
    assert [need for need in project["dependencies"] if not need.startswith("bainmarie")] == list(WORKER_NEEDS)


def test_digest_follows_packages_interpreter_and_platform(tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{20}", lock.digest)
    assert lock.count == 2
    same = [
        replace(lock, python_version="3.11.9"),
        replace(lock, interpreter="/elsewhere"),
        replace(lock, torch_backend="auto"),
    ]
    assert {other.digest for other in same} == {lock.digest}
    others = [
        replace(lock, text=TEXT.replace("1.17", "1.16")),
        replace(lock, python_version="3.12.1"),
        replace(lock, tag="pypy311"),
        replace(lock, platform="linux-aarch64"),
    ]
    assert len({other.digest for other in [lock, *others]}) == 5


def test_saved_lock_is_read_back_while_its_interpreter_is_there(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.touch()
    lock = lock_of(interpreter)
    file = tmp_path / "lock.json"
    assert read_lock(file) is None
    save_lock(file, lock)
    assert read_lock(file) == lock
    interpreter.unlink()
    assert read_lock(file) is None
    file.write_text("{")
    assert read_lock(file) is None
