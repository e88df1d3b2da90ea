"""Builds the environment in which tests/worker runs, with the code that builds every model's environment.

Prints the interpreter's path on stdout, progress on stderr. Run by `./run test`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
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


async def main() -> None:
    environment = await EnvironmentStore(Path(os.environ["BAIN_TEST_HOME"])).ensure(SPEC, report)
    print(environment.python)


if __name__ == "__main__":
    asyncio.run(main())
