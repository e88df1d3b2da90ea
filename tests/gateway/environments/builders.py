"""A program that asks for an environment, as another process; for tests that kill it or start many."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

BUILDER = """
import asyncio, os, sys
from pathlib import Path
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.environments.worker_packages import worker_packages
from bainmarie.errors import BainError

def report(progress):
    print(progress.stage, flush=True)

async def main():
    spec = EnvironmentSpec(name="small", packages=tuple(sys.argv[2:]))
    wheels = [Path(place) for place in os.environ.get("WORKER_WHEELS", "").split(os.pathsep) if place]
    worker = worker_packages(wheels) if wheels else None
    try:
        environment = await EnvironmentStore(Path(sys.argv[1]), worker=worker).ensure(spec, report)
    except BainError as error:
        print("failed", error.code, error.message, flush=True)
        sys.exit(error.exit_code)
    print("made", environment.digest, environment.created, flush=True)

asyncio.run(main())
"""


def start_builder(home: Path, *packages: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`WORKER_WHEELS` of its variables names the worker's wheels; without it those of this bainmarie are installed."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(home), *packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environ or {})},
    )


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the builder and all below it, and no process left."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in tree:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(tree[1:], timeout=10)
    assert not alive
