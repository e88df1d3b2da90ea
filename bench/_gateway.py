"""What the benchmarks share: a gateway of their own, and tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BAIN = Path(sys.executable).with_name("bain")


@contextmanager
def gateway(configuration: str = "version: 1\n") -> Iterator[str]:
    """The address of a fresh gateway on the tests' environments; it ends with the block."""
    kept = Path(os.environ["BAIN_TEST_HOME"]) / "environments"
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        (home / "environments").symlink_to(kept, target_is_directory=True)
        file = Path(folder) / "bain.yaml"
        file.write_text(configuration)
        command = [str(BAIN), "up", "--lifeline", "--port", "0", "--config", str(file)]
        environ = {**os.environ, "BAIN_HOME": str(home)}
        with subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            os.environ["BAIN_HOME"] = str(home)
            yield json.loads(process.stdout.readline())["address"]
            process.stdin.close()
            process.wait(30)


def median_ms(work: Callable[[], object], times: int) -> float:
    """Median milliseconds of `work` over `times` calls."""
    from time import perf_counter

    seconds = []
    for _ in range(times):
        began = perf_counter()
        work()
        seconds.append(perf_counter() - began)
    return statistics.median(seconds) * 1000


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table with its title, ready for bench/results."""
    print(f"\n### {title}\n\n{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "|".join(" --- " for _ in head) + "|")
    for row in rows:
        print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
