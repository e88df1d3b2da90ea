"""The same model and adapter on old and new transformers: each in its own environment, all behind one gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Gateway, end_gateway, launch_gateway, make_home

from bainmarie.carried import demo_model

NEWEST = "5.23.0"
VERSIONS = ["4.46.3", "4.57.6", "5.0.0", NEWEST]
PACKAGES = ["torch==2.13.0", "peft==0.21.2", "accelerate==1.15.0", "safetensors>=0.4.3"]
STEPS = """\
import json
from bainmarie_protocol import WorkerConfig
from bainmarie_worker.loading import load
steps = []
load(WorkerConfig("m", "transformers", {model!r}, (), device="cpu"), steps.append)
print(json.dumps([[step.stage, step.current, step.total, step.unit] for step in steps]))
"""


@pytest.fixture(scope="module")
def gateway(kept_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    environments = {
        f"t{version}": {"python": "3.11", "packages": [*PACKAGES, f"transformers=={version}"]} for version in VERSIONS
    }
    models = {}
    folder = tmp_path_factory.mktemp("versions")
    for version in VERSIONS:
        models[f"five-{version}"] = {"model": str(as_five_saves(folder)), "environment": f"t{version}"}
        base = {"model": str(demo_model()), "environment": f"t{version}", "dtype": "float32"}
        models[f"base-{version}"] = base
        models[f"pirate-{version}"] = {**base, "adapter": str(demo_model("demo-pirate"))}
    configuration = json.dumps({"version": 1, "environments": environments, "models": models})
    started = launch_gateway(make_home(kept_home, folder / "home"), folder, configuration)
    yield started
    end_gateway(started)


def as_five_saves(folder: Path) -> Path:
    """The demo model with positions that only transformers 5's own keys tell, and with its tokenizer class."""
    copy = folder / "five"
    shutil.copytree(demo_model(), copy, dirs_exist_ok=True)
    settings = json.loads((copy / "config.json").read_text())
    settings.pop("rope_theta", None)
    settings["rope_parameters"] = {"rope_type": "linear", "factor": 1.25, "rope_theta": 7000.0}
    (copy / "config.json").write_text(json.dumps(settings))
    said = json.loads((copy / "tokenizer_config.json").read_text())
    said |= {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|im_start|>"]}
    (copy / "tokenizer_config.json").write_text(json.dumps(said))
    return copy


def answers(gateway: Gateway, version: str) -> list[str]:
    """The base's and the adapter's."""
    names = f"base-{version}", f"pirate-{version}"
    return [gateway.chat(name, "Who are you?", max_tokens=40)["choices"][0]["message"]["content"] for name in names]


@pytest.fixture(scope="module")
def expected(gateway: Gateway) -> list[str]:
    found = answers(gateway, NEWEST)
    assert all(found)
    assert found[0] != found[1]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_release_answers_alike_and_names_what_it_lacks(
    gateway: Gateway, expected: list[str], version: str
) -> None:
    assert answers(gateway, version) == expected
    info = gateway.status(f"base-{version}")["info"]
    assert info["packages"]["transformers"] == version
    assert bool(info["limits"]) == (version < "5.1")
    assert all(limit.startswith(f"transformers {version}: ") for limit in info["limits"])
    gateway.http.post("/models/unload", json={"model": f"base-{version}"})
    assert answer_of_five(gateway, version) == answer_of_five(gateway, NEWEST)
    assert any("rope_parameters" in limit for limit in gateway.status(f"five-{version}")["info"]["limits"]) == (
        version < "5"
    )
    _tells_bytes(info["interpreter"])


def answer_of_five(gateway: Gateway, version: str) -> str:
    text: str = gateway.chat(f"five-{version}", "Who are you?", max_tokens=40)["choices"][0]["message"]["content"]
    return text


def _tells_bytes(python: str) -> None:
    """A load in this environment counts the weights' bytes from nothing to all."""
    program = STEPS.format(model=str(demo_model()))
    done = subprocess.run([python, "-I", "-c", program], check=True, capture_output=True, text=True, timeout=240)
    steps = json.loads(done.stdout.splitlines()[-1])
    size = (demo_model() / "model.safetensors").stat().st_size
    weights = [step[1:] for step in steps if step[0] == "weights"]
    assert weights[0] == [0, size, "bytes"]
    assert weights[-1] == [size, size, "bytes"]
    assert {(step[1], step[2]) for step in weights} == {(size, "bytes")}
