"""The start of bainmarie_worker, which every engine of ours runs in."""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.environment import Environment
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.training_folders import resolved
from bainmarie.environments.variables import worker_variables
from bainmarie.workers.launch import LaunchSpec
from bainmarie.workers.sockets import socket_path
from bainmarie_protocol import ServedModel, WorkerConfig


def launch(
    engine: str, models: Sequence[ModelSpec], environment: Environment, home: Path, environ: Mapping[str, str]
) -> LaunchSpec:
    """A worker with `engine` that serves `models`, in `environment`'s interpreter, isolated from the user's own."""
    first = resolved(models[0])
    socket = socket_path(home, models[0].worker_key)
    config = WorkerConfig(
        name=first.name,
        engine=engine,
        model=first.model,
        base=first.base or None,
        models=tuple(served(model) for model in models),
        socket=socket,
        token="" if socket else secrets.token_urlsafe(32),
        quantization=first.quantization,
        dtype=first.dtype,
        device=first.device,
        device_map=first.device_map,
        allow_pickle=first.allow_pickle,
        trust_remote_code=first.trust_remote_code,
        context=first.context,
        options=dict(first.options),
    )
    wish = EnvironmentSpec(name=environment.name, variables=tuple(environment.variables.items()))
    python = str(environment.python)
    fresh_because = why_fresh(first.device, environment.accelerator, sys.platform)
    return LaunchSpec(
        argv=(python, "-I", *_program("__main__", environment.import_path)),
        env={"BAIN_KERNELS": str(home / "kernels"), **worker_variables(environment, wish, environ)},
        config=config,
        log=log_path(models, home),
        cwd=home,
        environment=environment.digest,
        fork_server=() if fresh_because else (python, "-I", *_program("fork_server", environment.import_path)),
        fresh_because=fresh_because,
        installed=hashlib.sha256(repr(sorted(environment.versions.items())).encode()).hexdigest(),
    )


def why_fresh(device: str, accelerator: str, platform: str) -> str:
    """Why a worker cannot be forked but needs a fresh process; empty where it can be forked.

    `accelerator` is what torch sees in the environment. An accelerator is set up in the process that uses it alone.
    """
    if platform in ("win32", "darwin"):
        return f"processes cannot be forked safely on {platform}"
    if device not in ("auto", "cpu"):
        return f"it starts on {device}, not on the CPU"
    if device == "auto" and accelerator not in ("", "cpu"):
        return f"it starts on {accelerator}, not on the CPU"
    return ""


def _program(module: str, import_path: Path | None) -> tuple[str, ...]:
    """What the interpreter runs: a module that is installed, or one that lies on an import path of its own."""
    if import_path is None:
        return "-m", f"bainmarie_worker.{module}".removesuffix(".__main__")
    bootstrap = f"import sys; sys.path[:0] = [{str(import_path)!r}]; from bainmarie_worker.{module} import main; main()"
    return "-c", bootstrap


def served(model: ModelSpec) -> ServedModel:
    """What the worker knows of a model."""
    model = resolved(model)
    return ServedModel(
        name=model.name,
        adapter=model.adapter,
        prompt=model.prompt,
        system_prompt=model.system_prompt,
        chat_template=model.chat_template,
    )


def log_path(models: Sequence[ModelSpec], home: Path) -> Path:
    """The log of the worker that serves `models`: its first model's name for people, its key for uniqueness."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", models[0].name).strip("-.")[:40]
    return home / "logs" / f"{readable or 'worker'}-{models[0].worker_key[:6]}.log"
