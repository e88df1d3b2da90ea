"""Catalog entries whose worker is `a_worker.py`, and how to start it. Used by tests and by `a_gateway.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bainmarie_protocol
from bainmarie.catalog import ModelSpec
from bainmarie.engines.python_worker import log_path, served
from bainmarie.workers.launch import LaunchSpec
from bainmarie.workers.sockets import socket_path
from bainmarie_protocol import WorkerConfig

A_WORKER = Path(__file__).with_name("a_worker.py")
PROTOCOL = Path(bainmarie_protocol.__file__).parents[1]
SOURCES = [str(PROTOCOL.parents[1] / "worker" / "src"), str(PROTOCOL)]


def model(
    name: str = "m",
    adapter: str | None = None,
    keep_alive: float | None = None,
    chat_template: str | None = None,
    **options: Any,
) -> ModelSpec:
    """A catalog entry whose worker is `a_worker.py` with these options."""
    return ModelSpec(
        name=name,
        engine="fake",
        model="/nowhere",
        adapter=adapter,
        keep_alive=keep_alive,
        chat_template=chat_template,
        options=tuple(sorted(options.items())),
    )


def launch_spec(models: Sequence[ModelSpec], home: Path, before: str = "") -> LaunchSpec:
    """A start of `a_worker.py`. A fork server runs the statement `before` first."""
    config = WorkerConfig(
        name=models[0].name,
        engine="fake",
        model=models[0].model,
        models=tuple(served(m) for m in models),
        socket=socket_path(home, models[0].worker_key),
        options=dict(models[0].options),
    )
    program = (
        f"import sys, runpy; sys.path[:0] = [{str(PROTOCOL)!r}]; runpy.run_path({str(A_WORKER)!r}, run_name='__main__')"
    )
    forking = (
        f"import sys, runpy; sys.path[:0] = {SOURCES!r}; {before}\n"
        f"from bainmarie_worker import fork_server; fork_server.main(runpy.run_path({str(A_WORKER)!r})['main'])"
    )
    return LaunchSpec(
        argv=(sys.executable, "-I", "-S", "-c", program),
        env={"PATH": os.environ["PATH"]},
        config=config,
        log=log_path(models, home),
        cwd=home,
        environment="digest",
        fork_server=(sys.executable, "-I", "-c", forking),
    )
