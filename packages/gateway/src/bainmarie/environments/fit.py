"""Does a finished environment fit the models it shall serve? Answered from files and recorded versions, at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.environment import Environment
from bainmarie.environments.families import first_release, last_release
from bainmarie.environments.model_files import model_directory, read_json
from bainmarie.environments.needs import BITSANDBYTES, PEFT
from bainmarie.environments.training_folders import adapter_folder
from bainmarie.environments.versions import unreleased
from bainmarie.errors import EnvironmentFailed
from bainmarie_protocol.versions import numbers


def check_fit(models: Sequence[ModelSpec], environment: Environment) -> None:
    """EnvironmentFailed where the models, the base first, cannot work in it.

    An adapter that does not fit counts only where nothing of the worker would be left; else it fails alone, by
    `check_adapter_fit`. Codes: architecture_unknown, remote_code, package_missing, version_too_old. What cannot be
    judged from files passes.
    """
    base, adapters = models[0], [model for model in models if model.adapter]
    if base.engine != "transformers" or not environment.versions:
        return
    if base.quantization in ("nf4", "fp4") and "bitsandbytes" not in environment.versions:
        raise _lacks(environment, "bitsandbytes", BITSANDBYTES, f"`quantization: {base.quantization}`", base)
    directory = model_directory(base.model, os.environ)
    try:
        config = read_json(directory / "config.json") if directory else {}
    except (OSError, ValueError):
        return  # `check_model_files` has said so
    _check_architecture(base, config, environment)
    misfits = [error for adapter in adapters if (error := _adapter_misfit(adapter, environment))]
    base_is_a_model = base.name not in [adapter.name for adapter in adapters]
    if misfits and len(misfits) == len(adapters) and not base_is_a_model:
        raise misfits[0]


def check_adapter_fit(model: ModelSpec, environment: Environment) -> None:
    """EnvironmentFailed (package_missing, version_too_old) where the environment's peft cannot read the adapter."""
    if environment.versions and (error := _adapter_misfit(model, environment)):
        raise error


def _adapter_misfit(model: ModelSpec, environment: Environment) -> EnvironmentFailed | None:
    there = environment.versions.get("peft")
    if there is None:
        return _lacks(environment, "peft", PEFT, "the adapter", model)
    try:
        settings = read_json(adapter_folder(Path(str(model.adapter))) / "adapter_config.json")
    except (OSError, ValueError):
        return None  # `check_model_files` says so
    saved = str(settings.get("peft_version") or "")
    least = _least(saved)
    if least <= numbers(there)[:2]:
        return None
    release = ".".join(map(str, least))
    return EnvironmentFailed(
        f"environment {environment.name!r}: peft {there} is older than the peft {saved} that saved the adapter of "
        f"model {model.name!r}, and would leave out settings that it does not know",
        hint=_mend(environment, f"peft>={release}"),
        code="version_too_old",
    )


def _least(saved: str) -> tuple[int, ...]:
    """The minor release of peft that an adapter needs; a patch brings no new kinds of adapters and no new settings.

    What a development version saved may have settings that the release before it knows, or not: that release passes
    here, and the worker, which can compare the settings, has the last word.
    """
    major, minor, patch = (*numbers(saved), 0, 0, 0)[:3]
    if patch or not unreleased(saved):
        return (major, minor)
    return (major, minor - 1) if minor else (major - 1,)


def _lacks(environment: Environment, package: str, tested: str, what: str, model: ModelSpec) -> EnvironmentFailed:
    return EnvironmentFailed(
        f"environment {environment.name!r} has no {package}, which {what} of model {model.name!r} needs",
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
