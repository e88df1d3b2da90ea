"""From models and an environment to a start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bainmarie import carried
from bainmarie.catalog import Catalog, ModelSpec
from bainmarie.engines import engine
from bainmarie.engines.python_worker import why_fresh
from bainmarie.environments.checkpoint import check_model_files
from bainmarie.environments.environment import Environment
from bainmarie.environments.infer import infer
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import LoadFailed
from bainmarie.progress import Progress
from bainmarie.workers.prepare import Preparation
from bainmarie_protocol import ServedModel, WorkerConfig

BASE = ModelSpec("org/base", model="/models/base", system_prompt="Be brief.", options=(("x", 1),), context=512)
ADAPTER = ModelSpec("a", model="/models/base", adapter="/adapters/a", options=(("x", 1),), context=512)


def test_the_transformers_worker(tmp_path: Path) -> None:
    environment = Environment("auto", "d1", Path("/env/bin/python"), Path("/env"), variables={"A": "1"})
    spec = engine("transformers")([BASE, ADAPTER], environment, tmp_path, {"HOME": "/h", "PYTHONPATH": "/evil"})
    assert spec.argv == ("/env/bin/python", "-I", "-m", "bainmarie_worker")
    assert (spec.env["HOME"], spec.env["A"]) == ("/h", "1")
    assert "PYTHONPATH" not in spec.env
    assert spec.config.models == (
        ServedModel("org/base", system_prompt="Be brief."),
        ServedModel("a", adapter="/adapters/a"),
    )
    assert (spec.config.engine, spec.config.model, spec.config.context) == ("transformers", "/models/base", 512)
    assert spec.config.options == {"x": 1}
    assert (Path(spec.config.socket).parent, spec.config.token) == (tmp_path / "run", "")
    assert (spec.log.parent, spec.log.name[:9]) == (tmp_path / "logs", "org-base-")
    assert spec.environment == "d1"


def test_an_interpreter_used_as_it_is_imports_the_worker_from_a_folder_of_the_home(tmp_path: Path) -> None:
    environment = Environment("own", "d1", Path("/own/python"), import_path=tmp_path / "it's here")
    spec = engine("fake")([replace(BASE, device="cpu")], environment, tmp_path, {})
    for command, module in ((spec.argv, "__main__"), (spec.fork_server, "fork_server")):
        assert command[:3] == ("/own/python", "-I", "-c")
        assert f'sys.path[:0] = ["{tmp_path}/it\'s here"]' in command[3]
        assert f"from bainmarie_worker.{module} import main; main()" in command[3]


def test_every_way_to_load_reaches_the_worker(tmp_path: Path) -> None:
    environment = Environment("auto", "d1", Path("/env/bin/python"), Path("/env"), variables={})
    ways = {
        "base": "org/base",
        "allow_pickle": True,
        "device_map": "balanced",
        "quantization": "int4",
        "dtype": "float32",
    }
    spec = ModelSpec("m", model="/models/m", chat_template="{{ messages }}", **ways)
    config = engine("transformers")([spec], environment, tmp_path, {}).config
    assert {name: getattr(config, name) for name in ways} == ways
    assert config.models == (ServedModel("m", chat_template="{{ messages }}"),)
    assert WorkerConfig.from_json(config.to_json()) == config


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(LoadFailed, match="engine vllm is not there yet") as caught:
        engine("vllm")
    assert "transformers" in caught.value.hint


async def prepare(home: Path, environments: Any, *models: ModelSpec, **named: EnvironmentSpec) -> Any:
    catalog = Catalog({m.name: m for m in models}, named)
    heard: list[Progress] = []
    preparation = Preparation(catalog, environments, home, {}, check_model_files, infer)
    return await preparation(catalog.sharing(models[0]), heard.append)


async def test_a_named_environment_is_asked_for(tmp_path: Path, environments: Any) -> None:
    old = EnvironmentSpec("old", packages=("x",), variables=(("A", "1"),))
    spec = await prepare(tmp_path, environments, ModelSpec("m", engine="fake", environment="old"), old=old)
    assert environments.asked == [old]
    assert spec.env["A"] == "1"


async def test_a_missing_model_fails_before_any_environment(tmp_path: Path, environments: Any) -> None:
    with pytest.raises(LoadFailed, match="does not exist") as caught:
        await prepare(tmp_path, environments, ModelSpec("m", model=str(tmp_path / "none")))
    assert caught.value.code == "model_not_found"
    assert environments.asked == []


async def test_a_broken_adapter_does_not_hold_up_its_base(tmp_path: Path, environments: Any) -> None:
    base = str(carried.demo_model())
    spec = await prepare(
        tmp_path, environments, ModelSpec("m", model=base), ModelSpec("a", model=base, adapter=str(tmp_path))
    )
    assert [m.name for m in spec.config.models] == ["m", "a"]
    assert not any("peft" in package for package in environments.asked[0].packages)


async def test_only_adapters_are_named(tmp_path: Path, environments: Any) -> None:
    spec = await prepare(tmp_path, environments, ModelSpec("a", engine="fake", adapter="/a"))
    assert [m.adapter for m in spec.config.models] == ["/a"]


async def test_no_environment_is_built_for_an_engine_that_is_not_there(tmp_path: Path, environments: Any) -> None:
    with pytest.raises(LoadFailed):
        await prepare(tmp_path, environments, ModelSpec("m", engine="vllm"))
    assert environments.asked == []


@pytest.mark.parametrize(
    ("device", "accelerator", "platform", "reason"),
    [
        ("cpu", "cpu", "linux", ""),
        ("cpu", "cuda", "linux", ""),
        ("auto", "cpu", "linux", ""),
        ("auto", "", "linux", ""),
        ("auto", "cuda", "linux", "it starts on cuda, not on the CPU"),
        ("cuda:1", "cuda", "linux", "it starts on cuda:1, not on the CPU"),
        ("cpu", "cpu", "darwin", "processes cannot be forked safely on darwin"),
        ("cpu", "cpu", "win32", "processes cannot be forked safely on win32"),
    ],
)
def test_which_workers_can_be_forked(device: str, accelerator: str, platform: str, reason: str) -> None:
    assert why_fresh(device, accelerator, platform) == reason


def test_the_fork_server_of_an_environment(tmp_path: Path) -> None:
    environment = Environment("auto", "d1", Path("/env/bin/python"), Path("/env"), versions={"torch": "2.13.0"})
    model = replace(BASE, device="cpu")
    spec = engine("transformers")([model], environment, tmp_path, {})
    assert spec.fork_server == ("/env/bin/python", "-I", "-m", "bainmarie_worker.fork_server")
    assert spec.env["OMP_WAIT_POLICY"] == "PASSIVE"
    changed = engine("transformers")([model], replace(environment, versions={"torch": "2.14.0"}), tmp_path, {})
    assert spec.installed != changed.installed
    on_cuda = engine("transformers")([replace(model, device="cuda:0")], environment, tmp_path, {})
    assert on_cuda.fork_server == ()
    assert on_cuda.fresh_because
