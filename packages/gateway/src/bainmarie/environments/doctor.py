"""What a machine offers for building environments and running models: findings, each with its remedy."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import uv

from bainmarie.catalog import Catalog
from bainmarie.environments.checkpoint import check_model_files
from bainmarie.environments.commands import clean_variables, run_command
from bainmarie.environments.disk import written
from bainmarie.environments.failures import uv_failed
from bainmarie.environments.indexes import Indexes, indexes, without_credentials
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import BainError
from bainmarie.workers.accelerators import Accelerators
from bainmarie.workers.isolation import isolation
from bainmarie.workers.sizes import card

_LOW_DISK = 10 << 30
"""Bytes: about one environment with a CUDA torch, and what uv unpacks on the way."""
_INDEX_LIMIT = 60.0
"""Seconds for an index to answer."""
_INDEX = ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX", "UV_FIND_LINKS")
_DRIVERS: Sequence[tuple[str, str]] = (("/proc/driver/nvidia/version", "NVIDIA driver"), ("/dev/kfd", "AMD driver"))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `grade`: good | note | bad."""

    grade: str
    subject: str
    text: str
    remedy: str = ""


async def examine(
    catalog: Catalog, home: Path, environ: Mapping[str, str], gpu_budget: str | None = None
) -> AsyncIterator[Finding]:
    """All findings, in the order in which an environment would meet them. `gpu_budget` is `memory.gpu`."""
    variables = clean_variables(environ)
    program = uv.find_uv_bin()
    version = await run_command((program, "--version"), variables=variables, cwd=Path.cwd())
    yield Finding("good", "uv", f"{version.stdout.strip()}, {program}")
    yield _home(home)
    cache = await run_command((program, "cache", "dir"), variables=variables, cwd=Path.cwd())
    yield _cache(Path(cache.stdout.strip()), home)
    settings = indexes(EnvironmentSpec(name="doctor"), variables, Path.cwd())
    yield await _index(program, settings)
    yield await asyncio.to_thread(_isolation)
    accelerator = await _accelerator()
    yield accelerator
    yield await asyncio.to_thread(_accelerator_memory, Accelerators(gpu_budget, environ=environ))
    for finding in _environments(EnvironmentStore(home, environ), accelerator.grade == "good"):
        yield finding
    for finding in await asyncio.to_thread(lambda: list(_models(catalog))):
        yield finding


def _isolation() -> Finding:
    """What keeps the processes of a worker together, whoever is killed."""
    found = isolation()
    subject = "process isolation"
    if found.kind == "pid":
        return Finding("good", subject, found.level)
    if found.kind == "user":
        return Finding(
            "good", subject, f"{found.level}; child subreaper for the engine `command`, which may need setuid"
        )
    text = f"{found.level} ({found.reason})"
    if found.level != "child subreaper":
        return Finding("note", subject, text)
    remedy = (
        "Only a murder of gateway and shim at once can leave processes behind, which the next start ends. To close "
    )
    return Finding(
        "note",
        subject,
        text,
        f"{remedy}this gap allow user namespaces (sysctl user.max_user_namespaces, "
        "kernel.apparmor_restrict_unprivileged_userns=0; in a container: CAP_SYS_ADMIN or a seccomp profile).",
    )


def _home(home: Path) -> Finding:
    """Whether the home can be written and the disk has room."""
    remedy = "Set BAIN_HOME to a folder of your own on a disk with room."
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("bad", "home", f"{there} cannot be written", remedy)
    free = shutil.disk_usage(there).free
    if free < _LOW_DISK:
        return Finding("note", "home", f"{home} has {written(free)} free", f"{remedy} `bain env gc` frees some.")
    return Finding("good", "home", f"{home} has {written(free)} free")


def _cache(cache: Path, home: Path) -> Finding:
    """Files are shared by hard links, which do not cross disks."""
    places = [next(folder for folder in (path, *path.parents) if folder.exists()) for path in (cache, home)]
    if not os.access(places[0], os.W_OK | os.X_OK):
        return Finding("bad", "cache", f"{cache} cannot be written", "Set UV_CACHE_DIR to a folder of your own.")
    if places[0].stat().st_dev != places[1].stat().st_dev:
        text = f"{cache} and {home} are on different disks: every environment is a full copy"
        return Finding("note", "cache", text, "Set UV_CACHE_DIR to a folder on the disk of BAIN_HOME.")
    return Finding("good", "cache", f"{cache}, on the disk of the environments: they share files")


async def _index(program: str, settings: Indexes) -> Finding:
    """Whether the configured indexes answer, by resolving one small package anew."""
    if settings.offline:
        return Finding(
            "note", "indexes", "UV_OFFLINE is set: environments are built from uv's cache and find-links alone"
        )
    named = [f"{name} {settings.variables[name]}" for name in settings.variables if name.startswith(_INDEX)]
    where = without_credentials("; ".join(named)) or "uv's default"
    command = (program, "pip", "compile", "-", "--no-deps", "--refresh", "--color", "never", *settings.arguments)
    wish = "import sys, subprocess; sys.exit(subprocess.run(sys.argv[1:], input=b'jinja2').returncode)"
    try:
        async with asyncio.timeout(_INDEX_LIMIT):
            answer = await run_command(
                (sys.executable, "-I", "-S", "-c", wish, *command), variables=settings.variables, cwd=Path.cwd()
            )
    except TimeoutError:
        text = f"{where} does not answer within {_INDEX_LIMIT:.0f} s"
        return Finding("bad", "indexes", text, "Check the network, the proxy and the address.")
    if answer.code:
        error = uv_failed("resolve", "doctor", answer.stderr)
        return Finding("bad", "indexes", f"{where}: {error.message.partition(': ')[2]}", error.hint)
    return Finding("good", "indexes", f"they answer ({where})")


async def _accelerator() -> Finding:
    name = _driver()
    if not name:
        return Finding("note", "accelerator", "no NVIDIA or AMD driver: models run on the CPU")
    program = shutil.which("nvidia-smi") if name.startswith("NVIDIA") else None
    if program is None:
        return Finding("good", "accelerator", f"{name} is loaded")
    query = (program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    told = await run_command(query, variables=os.environ, cwd=Path.cwd())
    if told.code:
        remedy = "Reinstall the driver, or reboot after its update."
        return Finding("bad", "accelerator", f"{name}: nvidia-smi fails: {told.stdout.strip()}", remedy)
    return Finding("good", "accelerator", "; ".join(told.stdout.strip().splitlines()))


def _accelerator_memory(accelerators: Accelerators) -> Finding:
    """Whether it is measured, and kept within a budget."""
    subject, cards, budgets = "accelerator memory", accelerators.cards(), accelerators.budgets()
    if not cards:
        reason = accelerators.reason or "NVIDIA's driver knows no accelerator"
        if accelerators.budget is None:
            return Finding("note", subject, f"not measured: {reason}")
        return Finding(
            "bad",
            subject,
            f"`memory: {{gpu: {accelerators.budget}}}` has no effect: {reason}",
            "Install NVIDIA's driver (libnvidia-ml.so.1 comes with it), or take memory.gpu out of bain.yaml.",
        )
    told = [
        f"{place} ({one.name}) {written(one.free)} of {written(one.total)} free"
        + (f", budget {written(budgets[place])}" if place in budgets else "")
        for one in cards
        for place in (card(one.number),)
    ]
    text = f"measured by the driver: {'; '.join(told)}"
    if any(not psutil.pid_exists(pid) for one in cards for pid in one.holders):
        text += "; it names processes that are not seen here (a container?): what a worker holds is estimated"
        return Finding("note", subject, text, "Give the container the system's PID namespace (`--pid=host`).")
    return Finding("good", subject, text)


def _driver() -> str:
    return next((name for place, name in _DRIVERS if Path(place).exists()), "")


def _environments(store: EnvironmentStore, has_gpu: bool) -> Iterator[Finding]:
    found = store.list()
    for environment in found:
        if has_gpu and environment.accelerator == "cpu":
            text = f"{environment.name} {environment.digest[:12]}: its torch ({environment.torch_build}) sees no GPU"
            remedy = "Set `torch_backend: auto` (or cu126, cu130, ...) for it, or point find_links at CUDA wheels."
            yield Finding("bad", "environment", text, remedy)
    others = sum(environment.worker != store.worker.digest for environment in found)
    text = f"{len(found)} built, {others} of them with the worker of another bainmarie"
    if others:
        yield Finding("note", "environments", text, "`bain env gc` removes those that nothing runs in.")
    else:
        yield Finding("good", "environments", f"{len(found)} built, with the worker {store.worker.version}")


def _models(catalog: Catalog) -> Iterator[Finding]:
    for model in catalog:
        try:
            check_model_files(model)
        except BainError as error:
            yield Finding("bad", "model", error.message, error.hint)
    yield Finding("good", "models", f"{len(list(catalog))} in the configuration")
