"""A rival's processes: started with one log, ended as a tree by their own handle."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil

_GRACE = 5.0
"""Seconds between TERM and KILL."""


class Failed(Exception):
    """A contender cannot do this; the message is what the table says."""


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The process of `command`, stderr in `log`; at the end of the block neither it nor its children are left."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end_tree(process)


def end_tree(process: subprocess.Popen[str]) -> None:
    """TERM, a grace, KILL, for the process and all its descendants."""
    try:
        root = psutil.Process(process.pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for step in (psutil.Process.terminate, psutil.Process.kill):
        for member in tree:
            with _gone_is_fine():
                step(member)
        _, tree = psutil.wait_procs(tree, timeout=_GRACE)
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    process.wait()


def first_line(process: subprocess.Popen[str], log: Path) -> str:
    """What it prints first; Failed with the end of its log if it ends before."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise Failed(f"it ended: {last_words(log)}")
    return line


def wait_for_health(process: subprocess.Popen[str], log: Path, url: str, patience: float) -> None:
    """Until `url` answers 200; Failed if the process ends or `patience` seconds pass before."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Failed(f"it ended with {process.returncode}: {last_words(log)}")
        try:
            with urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.01)
    raise Failed(f"not ready after {patience:.0f} s: {last_words(log)}")


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200].replace("|", "/") if lines else "it said nothing"


def free_port() -> int:
    """A port that was free a moment ago: these servers cannot say which one they took."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        return
