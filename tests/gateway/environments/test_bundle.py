"""Bundles: packed here, made again elsewhere without network."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.environments.bundle import Bundle, pack, read_bundle
from bainmarie.environments.environment import Environment, read_marker
from bainmarie.environments.lock_file import write_lock_file
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress

NOWHERE = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_OFFLINE": "1"}


async def packed(home: Path, spec: EnvironmentSpec, file: Path) -> tuple[Bundle, Environment]:
    store = EnvironmentStore(home)
    environment = await store.ensure(spec, lambda progress: None)
    assert environment.path is not None
    lock = await store.lock(spec, lambda progress: None)
    pack(spec, lock.exported, environment.path, file)
    return read_bundle(file), environment


def without_network(tmp_path: Path) -> EnvironmentStore:
    return EnvironmentStore(tmp_path / "öther", {**os.environ, **NOWHERE, "UV_CACHE_DIR": str(tmp_path / "cold")})


def first_line(path: Path) -> str:
    return path.read_text().splitlines()[0]


def run(script: Path) -> int:
    return subprocess.run([str(script), "--version"], capture_output=True, check=False).returncode


@pytest.mark.parametrize("name", ["e.tar", "e.tar.gz"])
async def test_what_was_packed_is_made_without_network(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress], name: str
) -> None:
    bundle, there = await packed(tmp_path / "here", spec, tmp_path / name)
    store = without_network(tmp_path)
    wanted = replace(spec, name="another-name", extra_index_urls=("http://127.0.0.1:9/more",))
    made = await store.unpack(bundle, [wanted], seen.append)
    assert made.path is not None
    assert (made.digest, dict(made.versions)) == (there.digest, dict(there.versions))
    assert made == read_marker(made.path)
    assert {progress.stage for progress in seen} == {"install", "preflight"}
    for asked in (spec, wanted):
        assert (await store.ensure(asked, seen.append)).digest == made.digest
    script = made.path / "bin" / "uvicorn"
    assert first_line(script) == f"#!{made.python}"
    assert run(script) == 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


async def test_the_interpreter_and_compiled_files_stay_behind(tmp_path: Path, spec: EnvironmentSpec) -> None:
    bundle, _ = await packed(tmp_path / "here", spec, tmp_path / "e.tar")
    with tarfile.open(bundle.path) as archive:
        names = archive.getnames()
    assert names[:2] == ["bundle.json", "requirements.lock"]
    assert any(name.endswith("/six.py") for name in names)
    assert not [name for name in names if name.endswith((".pyc", "/python", "pyvenv.cfg", "environment.json"))]


async def test_a_bundle_for_another_platform_is_refused(tmp_path: Path, spec: EnvironmentSpec) -> None:
    bundle, _ = await packed(tmp_path / "here", spec, tmp_path / "e.tar")
    other = replace(bundle, lock=replace(bundle.lock, platform="plan9-mips"))
    with pytest.raises(EnvironmentFailed, match="locked for cpython-311 on plan9-mips") as failure:
        await without_network(tmp_path).unpack(other, [], lambda progress: None)
    assert failure.value.code == "lock_other_platform"


async def test_what_does_not_pass_the_preflight_leaves_nothing(tmp_path: Path, make_wheel: Callable[..., Path]) -> None:
    wheels = make_wheel("peft", "1.0")
    spec = EnvironmentSpec(name="e", packages=("peft",), find_links=(str(wheels),))
    bundle, _ = await packed(tmp_path / "here", spec, tmp_path / "e.tar")
    broken = tmp_path / "broken.tar"
    with tarfile.open(bundle.path) as old, tarfile.open(broken, "w") as new:
        for member in old:
            if not member.name.endswith("/peft.py"):
                new.addfile(member, old.extractfile(member))
    store = without_network(tmp_path)
    with pytest.raises(EnvironmentFailed, match="peft"):
        await store.unpack(read_bundle(broken), [], lambda progress: None)
    assert store.list() == []
    assert os.listdir(tmp_path / "öther" / "environments") == ["locks"]


def added(bundle: Path, name: str, link: str = "") -> None:
    entry = tarfile.TarInfo(f"files/{name}")
    if link:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
    with tarfile.open(bundle, "a") as archive:
        archive.addfile(entry)


@pytest.mark.parametrize(("name", "link"), [("../evil", ""), ("inside", "/etc/passwd"), ("inside", "../../evil")])
async def test_files_that_would_lie_elsewhere_are_refused(
    tmp_path: Path, spec: EnvironmentSpec, name: str, link: str
) -> None:
    bundle, _ = await packed(tmp_path / "here", spec, tmp_path / "e.tar")
    added(bundle.path, name, link)
    store = without_network(tmp_path)
    with pytest.raises(EnvironmentFailed) as failure:
        await store.unpack(bundle, [], lambda progress: None)
    assert failure.value.code == "bundle_unreadable"
    assert store.list() == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("no")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        (tmp_path / "bundle.json").write_text(json.dumps({"format": 2}))
        archive.add(tmp_path / "bundle.json", "bundle.json")
    for name in ("a.tar", "b.tar", "c.tar", "absent.tar"):
        with pytest.raises(EnvironmentFailed, match=name) as failure:
            read_bundle(tmp_path / name)
        assert failure.value.code == "bundle_unreadable"


async def test_a_bundle_of_a_lock_answers_no_other_wish(tmp_path: Path, spec: EnvironmentSpec) -> None:
    _, there = await packed(tmp_path / "here", spec, tmp_path / "e.tar")
    (tmp_path / "six.lock").write_text(write_lock_file(read_bundle(tmp_path / "e.tar").lock))
    locked = EnvironmentSpec(name="locked", lock=str(tmp_path / "six.lock"))
    bundle, _ = await packed(tmp_path / "here", locked, tmp_path / "locked.tar")
    store = without_network(tmp_path)
    nothing = EnvironmentSpec(name="auto")
    made = await store.unpack(bundle, [nothing, locked], lambda progress: None)
    assert made.digest == there.digest
    assert store.find(nothing) is None
    assert (await store.ensure(locked, lambda progress: None)).digest == made.digest


async def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, spec: EnvironmentSpec) -> None:
    store = EnvironmentStore(tmp_path / "home")
    lock = await store.lock(spec, lambda progress: None)
    with pytest.raises(EnvironmentFailed, match="cannot be written: No such file or directory") as failure:
        pack(spec, lock.exported, tmp_path, tmp_path / "absent" / "x.tar.gz")
    assert failure.value.code == "bundle_not_written"
