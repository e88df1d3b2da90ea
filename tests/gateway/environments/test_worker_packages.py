"""The worker's own packages: installed in environments, renewed by a new bainmarie, and beside the user's interpreters.

Builds are real; the other release has one line more in the worker's source.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import uv

from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.environments.bundle import pack, read_bundle
from bainmarie.environments.disk import disk
from bainmarie.environments.environment import MARKER, Environment, interpreter_in, read_marker
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.environments.worker_packages import PACKAGES, WorkerPackages, carried_packages, worker_packages
from bainmarie.errors import EnvironmentFailed
from bainmarie.events import EventBus
from bainmarie.progress import Progress
from bainmarie.workers.forking import ForkingLauncher
from bainmarie.workers.launch import LocalLauncher
from bainmarie.workers.supervisor import Supervisor

TOLD = """
import bainmarie_protocol, bainmarie_worker, importlib.metadata, json
print(json.dumps([[importlib.metadata.version(name) for name in ("bainmarie-worker", "bainmarie-protocol")],
                  [bainmarie_worker.__file__, bainmarie_protocol.__file__], hasattr(bainmarie_worker, "NEWER")]))
"""


def output(*command: Path | str) -> str:
    """What the command printed; it must not fail."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


def inside(environment: Environment) -> Any:
    """Versions of both packages, where they lie, and whether they are the newer ones."""
    return json.loads(output(environment.python, "-I", "-c", TOLD))


def uninstall(environment: Environment, *packages: str) -> None:
    output(uv.find_uv_bin(), "pip", "uninstall", "--python", environment.python, *packages)


def listing(path: Path) -> dict[str, tuple[int, ...]]:
    """Every file, with what changes when it is written, replaced or touched; links to it may come and go."""
    found = {file: file.lstat() for file in path.rglob("*") if not file.is_dir()}
    return {str(file.relative_to(path)): (s.st_ino, s.st_size, s.st_mtime_ns) for file, s in found.items()}


def directory(environment: Environment) -> Path:
    assert environment.path is not None
    return environment.path


def cold(tmp_path: Path) -> dict[str, str]:
    """No network, and a cache that is empty."""
    cache = tmp_path / "cold"
    shutil.rmtree(cache, ignore_errors=True)
    return {**os.environ, "UV_OFFLINE": "1", "UV_CACHE_DIR": str(cache)}


def heard(seen: Iterable[Progress], stage: str) -> list[str]:
    return [progress.detail for progress in seen if progress.stage == stage]


@asynccontextmanager
async def fake_model(store: EnvironmentStore, spec: EnvironmentSpec, home: Path) -> AsyncIterator[Supervisor]:
    """A model of the fake engine in that environment."""
    model = ModelSpec("m", engine="fake", environment=spec.name, device="cpu")
    launcher = ForkingLauncher(LocalLauncher())
    catalog = Catalog({"m": model}, {spec.name: spec})
    supervisor = Supervisor(catalog, store, launcher, home, EventBus())
    try:
        yield supervisor
    finally:
        await supervisor.close()
        await launcher.close()


async def ask(supervisor: Supervisor) -> int:
    """The pid of the worker that has answered."""
    async with supervisor.lease("m") as lease:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        answer = await lease.client.json("POST", "/v1/chat/completions", body)
    assert answer["choices"]  # type: ignore[index]
    return supervisor.status_of("m").pid


async def test_an_environment_has_them_installed(tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]) -> None:
    store = EnvironmentStore(tmp_path)
    made = await store.ensure(spec, seen.append)
    versions, files, _ = inside(made)
    assert versions == ["0.1.0", "0.1.0"]
    assert all(Path(file).is_relative_to(directory(made)) for file in files)
    assert [made.versions[name] for name in PACKAGES] == versions
    assert (made.worker, made.import_path) == (store.worker.digest, None)
    assert made == replace(read_marker(directory(made)), name=made.name)  # type: ignore[type-var]
    output(uv.find_uv_bin(), "pip", "check", "--python", made.python)
    assert not {name for name in PACKAGES if name in (directory(made) / "requirements.lock").read_text()}
    assert not (tmp_path / "worker").exists()


async def test_the_users_wishes_for_uv_do_not_reach_them(tmp_path: Path, spec: EnvironmentSpec) -> None:
    (tmp_path / "constraints.txt").write_text("bainmarie-worker==99\nbainmarie-protocol==99\n")
    constraint = str(tmp_path / "constraints.txt")
    wishes = {"UV_REQUIRE_HASHES": "1", "UV_CONSTRAINT": constraint, "UV_EXCLUDE_NEWER": "2099-01-01"}
    made = await EnvironmentStore(tmp_path / "home", {**os.environ, **wishes}).ensure(spec, lambda progress: None)
    assert made.versions["bainmarie-worker"] == "0.1.0"


async def test_a_new_bainmarie_needs_no_network_and_no_cache(
    tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages, seen: list[Progress]
) -> None:
    """The old environment stays as it is, and what runs in it goes on, forked and fresh alike."""
    home = tmp_path / "hôme 2"
    home.mkdir()
    old_store = EnvironmentStore(home)
    async with fake_model(old_store, spec, home) as models:
        pid = await ask(models)
        old = await old_store.ensure(spec, lambda progress: None)
        before = listing(directory(old))

        store = EnvironmentStore(home, cold(tmp_path), newer)
        assert store.find(spec) is None
        new = await store.ensure(spec, seen.append)
        assert new.path != old.path
        assert (new.lock, new.worker) == (old.lock, newer.digest)
        assert heard(seen, "install") == [
            f"the files of {old.digest[:12]}, which has the same lock, and bainmarie-worker 0.1.0",
            heard(seen, "install")[1],
        ]
        assert heard(seen, "resolve") == heard(seen, "download") == []
        assert heard(seen, "preflight")[0].endswith(f"importing starlette, uvicorn, jinja2: as in {old.digest[:12]}")
        assert inside(new)[2]
        assert not inside(old)[2]
        assert {**new.versions} == {**old.versions}
        assert listing(directory(old)) == before

        used = home / "environments" / "locks" / f"{old.digest}.used"
        os.utime(used, (time.time() - 3600,) * 2)
        kept = {verdict.path.name: verdict.kept for verdict in store.sweep([spec])}
        assert kept[new.digest] == "a model wants it"
        assert "runs in it" in kept[old.digest]
        assert await ask(models) == pid
        assert listing(directory(old)) == before
    async with fake_model(store, spec, home) as models:
        await ask(models)
    assert {verdict.path.name: verdict.kept for verdict in store.sweep([spec])}[old.digest] == ""
    assert [each.digest for each in store.list()] == [new.digest]
    assert inside(new)[2], "it needs nothing of the one that is gone"
    async with fake_model(store, spec, home) as models:
        await ask(models)


async def test_files_are_shared_and_neither_environment_can_change_the_other(
    tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages, make_wheel: Callable[..., Path]
) -> None:
    """Programs are no links: they name their place. Some have names like those of the interpreter's own."""
    programs = "[console_scripts]\npython-tool = tool:main\nactivate-tool = tool:main\n"
    source = "def main():\n    print(__file__)\n"
    wheels = make_wheel(
        "tool", "1.0", source, **{"{info}/entry_points.txt": programs, "tool_data/lib64/data": "x" * 9999}
    )
    spec = replace(spec, packages=(*spec.packages, "tool"), find_links=(str(wheels),))
    old = await EnvironmentStore(tmp_path).ensure(spec, lambda progress: None)
    (packages,) = directory(old).glob("lib/python*/site-packages")
    (packages / "six.py.cache").write_text("made by six")  # no package says that it is its own
    new = await EnvironmentStore(tmp_path, cold(tmp_path), newer).ensure(spec, lambda progress: None)
    ours, theirs = listing(directory(new)), listing(directory(old))
    place = str(packages.relative_to(directory(old)))
    assert ours[f"{place}/six.py"] == theirs[f"{place}/six.py"]
    compiled = [name for name in theirs if name.endswith(".pyc") and "/bainmarie_" not in name]
    assert len(compiled) > 50
    assert all(ours[name] == theirs[name] for name in compiled)
    assert ours[f"{place}/six.py.cache"][0] != theirs[f"{place}/six.py.cache"][0]
    assert ours[f"{place}/bainmarie_worker/__init__.py"][0] != theirs[f"{place}/bainmarie_worker/__init__.py"][0]
    assert ours[f"{place}/tool_data/lib64/data"] == theirs[f"{place}/tool_data/lib64/data"]
    for environment in (old, new):
        for name in ("python-tool", "activate-tool"):
            script = directory(environment) / "bin" / name
            assert script.read_text().startswith(f"#!{environment.python}\n")
            assert output(script).startswith(str(directory(environment)))
    assert disk([directory(new)]).own < 2 << 20
    theirs = listing(directory(old))  # with what its programs have just compiled
    uninstall(new, "six", "starlette")
    assert listing(directory(old)) == theirs


async def test_a_cancel_while_files_are_taken_over_leaves_nothing(
    tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages
) -> None:
    old = await EnvironmentStore(tmp_path).ensure(spec, lambda progress: None)
    before, taking = listing(directory(old)), asyncio.Event()

    def report(progress: Progress) -> None:
        if progress.detail.startswith("the files of"):
            taking.set()

    store = EnvironmentStore(tmp_path, worker=newer)
    for _ in range(5):
        task = asyncio.create_task(store.ensure(spec, report))
        await taking.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {path.name for path in (tmp_path / "environments").iterdir()} == {old.digest, "locks"}
        assert listing(directory(old)) == before
    assert inside(await store.ensure(spec, report))[2]


async def test_nothing_is_taken_from_one_that_was_never_finished(
    tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages, seen: list[Progress]
) -> None:
    old = await EnvironmentStore(tmp_path).ensure(spec, lambda progress: None)
    (directory(old) / MARKER).unlink()
    await EnvironmentStore(tmp_path, worker=newer).ensure(spec, seen.append)
    assert not [detail for detail in heard(seen, "install") if "the files of" in detail]
    assert heard(seen, "download")


def without_a_file(environment: Environment) -> None:
    (six,) = directory(environment).glob("lib/python*/site-packages/six.py")
    six.unlink()


def with_another_version(environment: Environment) -> None:
    output(uv.find_uv_bin(), "pip", "install", "--python", environment.python, "six==1.17.0")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_a_file, "1 files are gone, "),
        (with_another_version, "six was changed in it"),
        (lambda environment: uninstall(environment, "six"), "six was changed in it"),
    ],
)
async def test_one_that_is_not_whole_any_more_is_not_taken(
    tmp_path: Path,
    spec: EnvironmentSpec,
    newer: WorkerPackages,
    seen: list[Progress],
    change: Callable[[Environment], None],
    reason: str,
) -> None:
    old = await EnvironmentStore(tmp_path).ensure(spec, lambda progress: None)
    change(old)
    new = await EnvironmentStore(tmp_path, worker=newer).ensure(spec, seen.append)
    (said,) = (detail for detail in heard(seen, "install") if "not whole" in detail)
    assert reason in said
    assert "six" in said
    assert heard(seen, "download")
    assert output(new.python, "-I", "-c", "import six; print(six.__version__)") == "1.16.0\n"


async def test_another_lock_gives_no_files(
    tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages, seen: list[Progress]
) -> None:
    await EnvironmentStore(tmp_path).ensure(spec, lambda progress: None)
    other = replace(spec, packages=("six==1.17.0",))
    await EnvironmentStore(tmp_path, worker=newer).ensure(other, seen.append)
    assert not [detail for detail in heard(seen, "install") if "the files of" in detail]


async def test_asks_of_two_releases_at_once(tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages) -> None:
    stores = [EnvironmentStore(tmp_path), EnvironmentStore(tmp_path, worker=newer)]
    made = await asyncio.gather(*(store.ensure(spec, lambda progress: None) for store in stores * 5))
    assert {each.worker: inside(each)[2] for each in made} == {stores[0].worker.digest: False, newer.digest: True}
    assert len({each.created for each in made}) == 2


async def test_a_bundle_is_unpacked_by_another_release_with_its_own(
    tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages
) -> None:
    here = EnvironmentStore(tmp_path / "here")
    packed = await here.ensure(spec, lambda progress: None)
    pack(spec, (await here.lock(spec, lambda progress: None)).exported, directory(packed), tmp_path / "e.tar")
    listed = output("tar", "tf", tmp_path / "e.tar")
    assert "/six.py\n" in listed
    assert "bainmarie" not in listed
    there = EnvironmentStore(tmp_path / "there", cold(tmp_path), newer)
    made = await there.unpack(read_bundle(tmp_path / "e.tar"), [], lambda progress: None)
    assert inside(made)[2]
    assert (made.lock, made.worker, made.imported) == (packed.lock, newer.digest, ())
    assert await there.ensure(spec, lambda progress: None) == made

    older = EnvironmentStore(tmp_path / "there", cold(tmp_path))
    seen: list[Progress] = []
    again = await older.ensure(spec, seen.append)
    assert f"the files of {made.digest[:12]}" in heard(seen, "install")[0]
    assert (inside(again)[2], again.imported) == (False, ()), "nobody has compared its files with the lock's hashes"


@pytest.mark.parametrize("change", ["gone", "other"])
async def test_wheels_that_were_replaced_under_a_running_gateway(
    tmp_path: Path, spec: EnvironmentSpec, newer: WorkerPackages, change: str
) -> None:
    """By `pip install -U`: what it has read first counts, and nothing else is installed in its place."""
    for wheel in newer.wheels:
        shutil.copy(wheel, tmp_path)
    copies = [tmp_path / wheel.name for wheel in newer.wheels]
    store = EnvironmentStore(tmp_path / "home", worker=worker_packages(copies))
    for wheel, other in zip(store.worker.wheels, carried_packages().wheels, strict=True):
        if change == "gone":
            wheel.unlink()
        else:
            shutil.copy(other, wheel)
    own = interpreter_in(directory(await EnvironmentStore(tmp_path / "other").ensure(spec, lambda progress: None)))
    for wish in (spec, EnvironmentSpec("own", python_executable=str(own))):
        with pytest.raises(EnvironmentFailed, match="another bainmarie was installed") as failure:
            await store.ensure(wish, lambda progress: None)
        assert (failure.value.code, failure.value.hint) == (
            "bainmarie_replaced",
            "Start the new one: bain up --replace",
        )
    assert [path.name for path in (tmp_path / "home" / "environments").iterdir()] == ["locks"]
    assert list((tmp_path / "home" / "worker").iterdir()) == []


def make_own(path: Path) -> Path:
    """An environment of the user's: what the worker needs of others, and nothing of ours. Its interpreter."""
    output(uv.find_uv_bin(), "venv", "--no-project", "--python", sys.executable, path)
    needs = ("starlette", "uvicorn", "jinja2")
    output(uv.find_uv_bin(), "pip", "install", "--python", path, "--compile-bytecode", *needs)
    return interpreter_in(path)


async def test_an_interpreter_of_the_users_is_never_changed(tmp_path: Path, newer: WorkerPackages) -> None:
    home = tmp_path / "home"
    home.mkdir()
    spec = EnvironmentSpec("own", python_executable=str(make_own(tmp_path / "own")))
    before = listing(tmp_path / "own")
    for store in (EnvironmentStore(home), EnvironmentStore(home, worker=newer)):
        folder = home / "worker" / store.worker.digest
        async with fake_model(store, spec, home) as models:
            pid = await ask(models)
            assert str(folder) in " ".join(psutil.Process(pid).cmdline())
            old = time.time() - 3600
            os.utime(folder, (old, old))
            other = carried_packages() if store.worker is newer else newer
            verdicts = {verdict.path: verdict.kept for verdict in EnvironmentStore(home, worker=other).sweep([])}
            assert "runs it" in verdicts[folder]
        assert {path.name for path in folder.iterdir() if "dist-info" not in path.name} == {
            "bainmarie_protocol",
            "bainmarie_worker",
        }
    assert listing(tmp_path / "own") == before
    assert len(list((home / "worker").iterdir())) == 2


def test_unpacked_workers_that_nobody_uses_go(tmp_path: Path, newer: WorkerPackages) -> None:
    store, root = EnvironmentStore(tmp_path, worker=newer), tmp_path / "worker"
    ours, theirs = newer.unpacked(root), carried_packages().unpacked(root)
    (root / ".half").mkdir()

    def verdicts(dry_run: bool = False) -> dict[str, str]:
        return {verdict.path.name: verdict.kept for verdict in store.sweep([], dry_run=dry_run)}

    lately = "it was asked for minutes ago"
    assert verdicts() == {ours.name: "this bainmarie's worker", theirs.name: lately, ".half": lately}
    old = time.time() - 3600
    for path in root.iterdir():
        os.utime(path, (old, old))
    assert verdicts(dry_run=True) == {ours.name: "this bainmarie's worker", theirs.name: "", ".half": ""}
    assert len(list(root.iterdir())) == 3
    verdicts()
    assert list(root.iterdir()) == [ours]
    carried_packages().unpacked(root)
    assert verdicts()[theirs.name] == lately


def test_many_ask_for_the_unpacked_worker_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from bainmarie.environments.worker_packages import carried_packages; "
        "print(carried_packages().unpacked(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "worker")]
    asked = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    told = {each.communicate(timeout=60)[0].strip() for each in asked}
    assert told == {str(tmp_path / "worker" / carried_packages().digest)}
    assert [path.name for path in (tmp_path / "worker").iterdir()] == [carried_packages().digest]


async def test_environments_of_the_releases_before_give_their_files(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    """They are named by their lock alone, and hold nothing of ours."""
    store = EnvironmentStore(tmp_path)
    made = await store.ensure(spec, lambda progress: None)
    uninstall(made, *PACKAGES)
    (directory(made) / "worker.lock").unlink()
    record = json.loads((directory(made) / MARKER).read_text())
    del record["worker"], record["lock_digest"]
    record["digest"] = made.lock
    (directory(made) / MARKER).write_text(json.dumps(record))
    directory(made).rename(tmp_path / "environments" / made.lock)
    old = read_marker(tmp_path / "environments" / made.lock)
    assert old is not None
    assert (old.lock, old.worker) == (made.lock, "")
    again = await EnvironmentStore(tmp_path, cold(tmp_path)).ensure(spec, seen.append)
    assert again.digest == made.digest
    assert f"the files of {made.lock[:12]}" in heard(seen, "install")[0]
    assert inside(again)[0] == ["0.1.0", "0.1.0"]
