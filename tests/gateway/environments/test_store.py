"""Real builds with the real uv; the packages are small, uv's cache is the machine's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bainmarie.environments.environment import MARKER
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress

from .builders import start_builder


def version_inside(python: Path, package: str) -> str:
    program = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([str(python), "-I", "-c", program], capture_output=True, text=True, check=True).stdout.strip()


async def test_builds_what_the_spec_says(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    store = EnvironmentStore(tmp_path)
    assert store.find(spec) is None
    environment = await store.ensure(replace(spec, variables=(("A", "b"),)), seen.append)
    assert version_inside(environment.python, "six") == "1.16.0"
    assert environment.versions["six"] == "1.16.0"
    assert {"starlette", "uvicorn", "jinja2"} <= set(environment.versions)
    assert environment.python_version == ".".join(map(str, sys.version_info[:3]))
    assert environment.path == tmp_path / "environments" / environment.digest
    assert environment.variables == {"A": "b"}
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["resolve", "download", "install", "preflight"]
    assert {progress.stage for progress in seen if progress.fraction == 1.0} == set(stages)


async def test_second_ask_builds_and_runs_nothing(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    seen.clear()
    monkeypatch.setenv("UV_OFFLINE", "1")
    second = await EnvironmentStore(tmp_path).ensure(replace(spec, name="other"), seen.append)
    assert seen == []
    assert (second.digest, second.created) == (first.digest, first.created)
    assert second.name == "other"
    assert [environment.digest for environment in EnvironmentStore(tmp_path).list()] == [first.digest]


async def test_two_versions_stand_side_by_side(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    store = EnvironmentStore(tmp_path)
    other = replace(spec, packages=("six==1.17.0",))
    one, two = await asyncio.gather(store.ensure(spec, seen.append), store.ensure(other, seen.append))
    assert one.path != two.path
    assert (version_inside(one.python, "six"), version_inside(two.python, "six")) == ("1.16.0", "1.17.0")
    assert len(store.list()) == 2


async def test_same_lock_from_another_wish_shares_the_directory(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    store = EnvironmentStore(tmp_path)
    one = await store.ensure(spec, seen.append)
    two = await store.ensure(replace(spec, packages=("six>=1.16,<1.17",)), seen.append)
    assert (one.digest, one.created) == (two.digest, two.created)


async def test_twenty_asks_in_one_process_are_one_build(tmp_path: Path, spec: EnvironmentSpec) -> None:
    store = EnvironmentStore(tmp_path)
    reports: list[list[Progress]] = [[] for _ in range(20)]
    environments = await asyncio.gather(*(store.ensure(spec, report.append) for report in reports))
    assert len({environment.created for environment in environments}) == 1
    for report in reports:
        assert [progress.stage for progress in report].count("preflight") == 2, "its begin and its end, once"
        assert report[-1].fraction == 1.0


def test_asks_from_many_processes_are_one_build(tmp_path: Path) -> None:
    builders = [start_builder(tmp_path, "six==1.16.0") for _ in range(20)]
    outputs = [builder.communicate(timeout=120) for builder in builders]
    assert [builder.returncode for builder in builders] == [0] * 20, outputs
    made = {out.splitlines()[-1] for out, _ in outputs}
    assert len(made) == 1, "all see the same moment of creation"
    assert sum("preflight" in out for out, _ in outputs) == 1, "one of them did the work"


async def test_killed_builders_leave_nothing_that_is_used(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    store = EnvironmentStore(tmp_path)
    for stage in ("resolve", "download", "install", "preflight"):
        builder = start_builder(tmp_path, *spec.packages)
        assert builder.stdout is not None
        assert builder.stderr is not None
        while (line := builder.stdout.readline().strip()) != stage:
            assert line, f"{stage} never came: {builder.stderr.read()}"
        children = psutil.Process(builder.pid).children(recursive=True)
        builder.kill()
        builder.communicate(timeout=30)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "what a killed builder had started ends with it"
        assert store.find(spec) is None
        assert store.list() == []
    environment = await store.ensure(spec, seen.append)
    assert version_inside(environment.python, "six") == "1.16.0"


async def test_half_removed_environment_is_built_again(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    store = EnvironmentStore(tmp_path)
    first = await store.ensure(spec, seen.append)
    assert first.path is not None
    (first.path / MARKER).unlink()
    (first.path / "leftover").write_text("x")
    second = await store.ensure(spec, seen.append)
    assert second.digest == first.digest
    assert second.created != first.created
    assert not (first.path / "leftover").exists()


async def test_one_of_two_callers_leaves_and_the_build_goes_on(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    store = EnvironmentStore(tmp_path)
    installing = asyncio.Event()

    def report(progress: Progress) -> None:
        if progress.stage == "download":
            installing.set()

    leaver = asyncio.create_task(store.ensure(spec, report))
    await installing.wait()
    stayer = asyncio.create_task(store.ensure(spec, seen.append))
    await asyncio.sleep(0)
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    environment = await stayer
    assert environment.versions["six"] == "1.16.0"
    assert "resolve" not in {progress.stage for progress in seen}, "it joined the build that was under way"


async def test_the_last_caller_leaves_and_the_build_ends(tmp_path: Path, make_wheel: Callable[..., Path]) -> None:
    """The build is caught in the preflight, in a package whose import says that it runs and never ends."""
    fifo = tmp_path / "imported"
    os.mkfifo(fifo)
    source = f"import time\nwith open({str(fifo)!r}, 'w') as file:\n    file.write('yes')\ntime.sleep(600)\n"
    spec = EnvironmentSpec(name="slow", packages=("peft",), find_links=(str(make_wheel("peft", "1.0", source)),))
    store = EnvironmentStore(tmp_path)
    task = asyncio.create_task(store.ensure(spec, lambda progress: None))
    assert await asyncio.to_thread(fifo.read_text) == "yes"
    before = psutil.Process().children(recursive=True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, alive = psutil.wait_procs(before, timeout=10)
    assert len(before) >= 2
    assert not alive
    assert store.find(spec) is None
    assert [path.name for path in (tmp_path / "environments").iterdir()] == ["locks"]


async def test_cancel_at_any_step_leaves_nothing(tmp_path: Path, spec: EnvironmentSpec) -> None:
    for step in range(12):
        store = EnvironmentStore(tmp_path / str(step))
        events = asyncio.Semaphore(0)
        task = asyncio.create_task(store.ensure(spec, lambda progress, events=events: events.release()))
        for _ in range(step // 2):
            await events.acquire()
        for _ in range(step % 2):
            await asyncio.sleep(0)
        children = psutil.Process().children(recursive=True)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
        assert store.list() == []
        assert not [path for path in (tmp_path / str(step)).glob("environments/*") if path.name != "locks"]
    assert (await store.ensure(spec, lambda progress: None)).versions["six"] == "1.16.0"


async def test_asking_while_an_abandoned_build_ends(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    store = EnvironmentStore(tmp_path)
    started = asyncio.Event()
    leaver = asyncio.create_task(store.ensure(spec, lambda progress: started.set()))
    await started.wait()
    leaver.cancel()
    await asyncio.sleep(0)
    environment = await store.ensure(spec, seen.append)
    assert environment.versions["six"] == "1.16.0"
    with pytest.raises(asyncio.CancelledError):
        await leaver


@pytest.mark.parametrize("columns", ["20", "78", "80", "250"])
async def test_unknown_package_is_named(tmp_path: Path, seen: list[Progress], columns: str) -> None:
    """However wide the user's terminal is: uv breaks its sentences at COLUMNS."""
    missing = "bainmarie-has-no-such-package"
    spec = EnvironmentSpec(name="broken", packages=(missing,))
    with pytest.raises(EnvironmentFailed) as failure:
        await EnvironmentStore(tmp_path, {**os.environ, "COLUMNS": columns}).ensure(spec, seen.append)
    assert failure.value.code == "package_not_found", failure.value.message
    assert missing in failure.value.message
    assert "environments: broken: packages:" in failure.value.hint
    assert EnvironmentStore(tmp_path).list() == []


async def test_version_that_does_not_exist(tmp_path: Path, seen: list[Progress]) -> None:
    spec = EnvironmentSpec(name="broken", packages=("six==99.1",))
    with pytest.raises(EnvironmentFailed, match=r"six==99\.1") as failure:
        await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    assert failure.value.code == "no_version_fits"


async def test_packages_that_exclude_one_another(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    wheels = make_wheel("demanding", "1.0", requires="six<1.17")
    spec = EnvironmentSpec(name="broken", packages=("demanding", "six==1.17.0"), find_links=(str(wheels),))
    with pytest.raises(EnvironmentFailed, match="unsatisfiable") as failure:
        await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    assert failure.value.code == "packages_conflict"


async def test_no_network(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    environ = {**os.environ, **nowhere, "UV_CACHE_DIR": str(tmp_path / "cold")}
    with pytest.raises(EnvironmentFailed) as failure:
        await EnvironmentStore(tmp_path, environ).ensure(spec, seen.append)
    assert failure.value.code == "no_network"
    assert "UV_OFFLINE=1" in failure.value.hint


async def test_offline_from_the_cache_says_so(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    await EnvironmentStore(tmp_path / "warm").ensure(spec, lambda progress: None)
    offline = EnvironmentStore(tmp_path / "offline", {**os.environ, "UV_OFFLINE": "1"})
    assert (await offline.ensure(spec, seen.append)).versions["six"] == "1.16.0"
    assert "offline: from uv's cache" in seen[0].detail


async def test_offline_without_the_cache_names_what_is_not_there(tmp_path: Path, spec: EnvironmentSpec) -> None:
    environ = {**os.environ, "UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cold")}
    with pytest.raises(EnvironmentFailed) as failure:
        await EnvironmentStore(tmp_path, environ).ensure(spec, lambda progress: None)
    assert failure.value.code == "no_network"
    assert "is not in uv's cache, and UV_OFFLINE forbids to fetch it" in failure.value.hint


async def test_python_that_is_not_there(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    store = EnvironmentStore(tmp_path, {**os.environ, "UV_PYTHON_DOWNLOADS": "never"})
    with pytest.raises(EnvironmentFailed, match=r"no Python 3\.99") as failure:
        await store.ensure(replace(spec, python="3.99"), seen.append)
    assert failure.value.code == "python_not_found"
    assert ".".join(map(str, sys.version_info[:3])) in failure.value.hint


async def test_python_too_old(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    with pytest.raises(EnvironmentFailed, match=r"3\.9 or newer"):
        await EnvironmentStore(tmp_path).ensure(replace(spec, python="3.7"), seen.append)


async def test_broken_import_fails_the_preflight(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    wheels = make_wheel("peft", "9.9", source="raise OSError('libabsent.so: cannot open shared object file')\n")
    spec = EnvironmentSpec(name="broken", packages=("peft==9.9",), find_links=(str(wheels),))
    store = EnvironmentStore(tmp_path)
    with pytest.raises(EnvironmentFailed, match=r"peft cannot be imported: OSError: libabsent\.so") as failure:
        await store.ensure(spec, seen.append)
    assert failure.value.code == "import_broken"
    assert store.find(spec) is None
    assert [path.name for path in (tmp_path / "environments").iterdir()] == ["locks"]


async def test_needs_of_the_engine_are_checked(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    store = EnvironmentStore(tmp_path)
    await store.ensure(spec, seen.append)
    with pytest.raises(EnvironmentFailed, match="has no torch, transformers") as failure:
        await store.ensure(replace(spec, needs=("torch", "transformers", "six")), seen.append)
    assert failure.value.code == "package_missing"


async def test_home_with_spaces_and_other_letters(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    environment = await EnvironmentStore(tmp_path / "höme of 鍋").ensure(spec, seen.append)
    assert version_inside(environment.python, "six") == "1.16.0"


async def test_home_that_cannot_be_made(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailed) as failure:
        await EnvironmentStore(tmp_path / "file").ensure(spec, seen.append)
    assert failure.value.code == "home_not_writable"
    assert "BAIN_HOME" in failure.value.hint


async def test_marker_says_what_was_built_and_no_secret(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    wheels = make_wheel("tiny", "1.0")
    spec = EnvironmentSpec(
        name="small", packages=("tiny",), find_links=(str(wheels),), variables=(("HF_TOKEN", "secret-token"),)
    )
    environment = await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    assert environment.path is not None
    text = (environment.path / MARKER).read_text()
    record = json.loads(text)
    assert record["names"] == ["small"]
    assert record["versions"]["tiny"] == "1.0"
    assert record["spec"]["packages"] == ["tiny"]
    assert "tiny==1.0 \\\n    --hash=sha256:" in record["lock"]
    assert "secret-token" not in text
    assert str(wheels) not in record["lock"]


async def test_changed_file_is_refused(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    wheels = make_wheel("changing", "1.0")
    spec = EnvironmentSpec(name="local", packages=("changing",), find_links=(str(wheels),))
    store = EnvironmentStore(tmp_path)
    environment = await store.ensure(spec, seen.append)
    assert environment.path is not None
    (environment.path / MARKER).unlink()
    make_wheel("changing", "1.0", source="print('not what was locked')\n")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cold-cache"))
    with pytest.raises(EnvironmentFailed) as failure:
        await store.ensure(spec, seen.append)
    assert failure.value.code == "hash_mismatch"
    assert "changing" in failure.value.message
    assert store.list() == []
