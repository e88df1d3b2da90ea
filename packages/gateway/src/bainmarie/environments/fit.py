"""Does a finished environment fit the models it shall serve? Answered from files and recorded versions, at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from bainmarie.catalog import ModelSpec
from bainmarie.environments.environment import Environment
from bainmarie.environments.families import first_release, last_release
from bainmarie.environments.model_files import model_directory, read_json
from bainmarie.environments.needs import BITSANDBYTES, PEFT
from bainmarie.errors import EnvironmentFailed


def check_fit(models: Sequence[ModelSpec], environment: Environment) -> None:
    """EnvironmentFailed where the models, the base first, cannot work in it.

    Codes: architecture_unknown, remote_code, package_missing. What cannot be judged from files passes.
    """
    base = models[0]
    if base.engine != "transformers" or not environment.versions:
        return
    _check_packages(models, environment)
    directory = model_directory(base.model, os.environ)
    try:
        config = read_json(directory / "config.json") if directory else {}
    except (OSError, ValueError):
        return  # `check_model_files` has said so
    _check_architecture(base, config, environment)


def _check_packages(models: Sequence[ModelSpec], environment: Environment) -> None:
    wanted = []
    if models[0].quantization in ("nf4", "fp4"):
        wanted.append(("bitsandbytes", BITSANDBYTES, f"`quantization: {models[0].quantization}`"))
    if adapters := [model.name for model in models if model.adapter]:
        wanted.append(("peft", PEFT, f"the adapter of {adapters[0]}"))
    for package, tested, what in wanted:
        if package not in environment.versions:
            raise EnvironmentFailed(
                f"environment {environment.name!r} has no {package}, which {what} of model {models[0].name!r} needs",
                hint=_mend(environment, f"{package}=={tested}"),
                code="package_missing",
            )


def _check_architecture(base: ModelSpec, config: Mapping[str, object], environment: Environment) -> None:
    kind = str(config.get("model_type") or "")
    own_code = "auto_map" in config
    if not kind or not environment.architectures or kind in environment.architectures:
        return
    if own_code and base.trust_remote_code:
        return
    if own_code:
        raise EnvironmentFailed(
            f"model {base.name!r}: only its own Python code knows model_type {kind}, and it is not run without consent",
            hint=f"Read the code; if you trust it, set `models: {base.name}: trust_remote_code: true`.",
            code="remote_code",
        )
    there = environment.versions.get("transformers", "")
    since, last = first_release(kind), last_release(kind)
    known = f" (known to {last} and earlier)" if last else f" (known since {since})" if since else ""
    better = f"transformers=={last}.*" if last else f"transformers>={since}" if since else "a newer transformers"
    raise EnvironmentFailed(
        f"environment {environment.name!r}: transformers {there} does not know model_type {kind} "
        f"of model {base.name!r}{known}",
        hint=_mend(environment, better),
        code="architecture_unknown",
    )


def _mend(environment: Environment, requirement: str) -> str:
    if environment.path is None:
        return f"It is used as it is. To change it yourself: {environment.python} -m pip install '{requirement}'"
    if environment.name == "auto":
        return f"Name an environment under `environments:` with {requirement} and set it as the model's `environment:`."
    return f"Write {requirement} in `environments: {environment.name}: packages:`."
