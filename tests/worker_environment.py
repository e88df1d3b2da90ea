"""Builds the environment in which tests/worker runs, with the code that builds every model's environment.

Prints the interpreter's path on stdout, progress on stderr. Run by `./run test`. And removes what the tests' home keeps
of older workers: each change of the worker's source makes new environments, of hard links.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.environments.sweep import sweep
from bainmarie.progress import Progress

SPEC = EnvironmentSpec(
    name="worker-tests",
    python="3.11",
    packages=(
        "torch==2.13.0",
        "transformers==5.23.0",
        "peft",
        "accelerate",
        "bitsandbytes",
        "compressed-tensors",
        "safetensors",
        "hypothesis",
        "pytest",
        "pytest-asyncio",
        "pytest-timeout",
    ),
)


def report(progress: Progress) -> None:
    print(f"worker tests: {progress.stage} {progress.detail}", file=sys.stderr)


def sweep_older(home: Path) -> None:
    """For each lock the environment with the present worker stays; without one the newest, to take its files over."""
    store = EnvironmentStore(home)
    newest = {environment.lock: environment for environment in store.list()}
    newest |= {each.lock: each for each in store.list() if each.worker == store.worker.digest}
    for _ in sweep(home / "environments", {environment.digest for environment in newest.values()}):
        continue


async def main() -> None:
    sweep_older(Path(os.environ["BAIN_TEST_HOME"]))
    environment = await EnvironmentStore(Path(os.environ["BAIN_TEST_HOME"])).ensure(SPEC, report)
    print(environment.python)


if __name__ == "__main__":
    asyncio.run(main())
