"""Environments against the models they shall serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.catalog import ModelSpec
from bainmarie.environments.environment import Environment
from bainmarie.environments.fit import check_adapter_fit, check_fit
from bainmarie.environments.needs import PEFT
from bainmarie.errors import EnvironmentFailed

from .checkpoints import LLAMA, make_adapter, make_model

OLD = Environment(
    name="old",
    digest="d",
    python=Path("/envs/d/bin/python"),
    path=Path("/envs/d"),
    versions={"torch": "2.13.0", "transformers": "4.46.3"},
    architectures=("llama", "qwen2"),
)


def refused(environment: Environment, *models: ModelSpec) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as failure:
        check_fit(models, environment)
    return failure.value


def model(tmp_path: Path, kind: str, **more: object) -> ModelSpec:
    return ModelSpec("m", model=str(make_model(tmp_path / "m", {**LLAMA, "model_type": kind, **more})))


def test_what_fits_passes(tmp_path: Path) -> None:
    check_fit([model(tmp_path, "llama")], OLD)


def test_an_architecture_that_came_later(tmp_path: Path) -> None:
    error = refused(OLD, model(tmp_path, "qwen3"))
    assert error.code == "architecture_unknown"
    assert "transformers 4.46.3 does not know model_type qwen3 of model 'm' (known since 4.51)" in error.message
    assert error.hint == "Write transformers>=4.51 in `environments: old: packages:`."


def test_an_architecture_that_was_dropped(tmp_path: Path) -> None:
    error = refused(replace(OLD, name="auto"), model(tmp_path, "transfo-xl"))
    assert "known to 4.57 and earlier" in error.message
    assert "transformers==4.57.*" in error.hint


def test_an_interpreter_of_the_users_own_gets_the_command(tmp_path: Path) -> None:
    error = refused(replace(OLD, path=None), model(tmp_path, "qwen3"))
    assert "/envs/d/bin/python -m pip install 'transformers>=4.51'" in error.hint


def test_own_code_needs_consent(tmp_path: Path) -> None:
    spec = model(tmp_path, "mystery", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    error = refused(OLD, spec)
    assert error.code == "remote_code"
    assert "`models: m: trust_remote_code: true`" in error.hint
    check_fit([replace(spec, trust_remote_code=True)], OLD)


def test_quantization_needs_its_package(tmp_path: Path) -> None:
    base = model(tmp_path, "llama")
    assert "bitsandbytes" in refused(OLD, replace(base, quantization="nf4")).message


@pytest.mark.parametrize(
    ("there", "code", "hint"),
    [
        (None, "package_missing", f"peft=={PEFT}"),
        ("0.16.0", "version_too_old", "Write peft>=0.17 in `environments: old: packages:`."),
    ],
)
def test_an_adapter_that_this_peft_cannot_read(tmp_path: Path, there: str | None, code: str, hint: str) -> None:
    base = model(tmp_path, "llama")
    adapter = replace(base, name="a", adapter=str(make_adapter(tmp_path / "a", peft_version="0.17.1")))
    environment = replace(OLD, versions={**OLD.versions, **({"peft": there} if there else {})})
    with pytest.raises(EnvironmentFailed, match="of model 'a'") as failure:
        check_adapter_fit(adapter, environment)
    assert failure.value.code == code
    assert hint in failure.value.hint
    check_fit([base, adapter], environment)  # the base is a model of its own, and works
    assert refused(environment, replace(adapter, adapter=None), adapter).code == code, "nothing else is left"


@pytest.mark.parametrize("there", ["0.17.0", "0.17.1", "0.18.0", "1.0"])
def test_an_adapter_of_an_older_peft_or_of_a_patch_passes(tmp_path: Path, there: str) -> None:
    adapter = replace(model(tmp_path, "llama"), adapter=str(make_adapter(tmp_path / "a", peft_version="0.17.1.dev0")))
    check_adapter_fit(adapter, replace(OLD, versions={"peft": there}))


@pytest.mark.parametrize(
    ("there", "least"), [("0.17.1", None), ("0.18.0", None), ("0.16.2", "peft>=0.17"), ("0.9.0", "peft>=0.17")]
)
def test_an_adapter_of_a_development_version_needs_the_release_before_it(
    tmp_path: Path, there: str, least: str | None
) -> None:
    saved = make_adapter(tmp_path / "a", peft_version="0.18.0.dev0@c0ffee")
    adapter = replace(model(tmp_path, "llama"), adapter=str(saved))
    if least is None:
        check_adapter_fit(adapter, replace(OLD, versions={"peft": there}))
        return
    with pytest.raises(EnvironmentFailed, match=f"peft {there} is older than the peft 0.18.0.dev0@c0ffee") as failure:
        check_adapter_fit(adapter, replace(OLD, versions={"peft": there}))
    assert least in failure.value.hint


@pytest.mark.parametrize("spec", [ModelSpec("f", engine="fake"), ModelSpec("m", model="org/absent-from-every-cache")])
def test_what_cannot_be_judged_passes(spec: ModelSpec) -> None:
    check_fit([spec], OLD)


def test_environments_that_do_not_say_what_they_know_pass(tmp_path: Path) -> None:
    check_fit([model(tmp_path, "qwen3")], replace(OLD, architectures=()))
