"""What a worker inherits, and what it must not."""

from __future__ import annotations

import os
from pathlib import Path

from bainmarie.environments.commands import clean_variables
from bainmarie.environments.environment import Environment
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.variables import worker_variables

ENVIRONMENT = Environment(name="e", digest="d", python=Path("/envs/d/bin/python"))
SPEC = EnvironmentSpec(name="e")


def test_foreign_python_settings_stay_outside() -> None:
    environ = {
        "PYTHONPATH": "/poison",
        "PYTHONHOME": "/poison",
        "PYTHONSTARTUP": "/poison",
        "VIRTUAL_ENV": "/gateway",
        "CONDA_PREFIX": "/conda",
        "LD_PRELOAD": "/poison.so",
        "BAIN_HOME": "/home",
        "AWS_SECRET_ACCESS_KEY": "k",
        "PIP_INDEX_URL": "https://me:password@x.example",
        "OPENAI_API_KEY": "k",
    }
    assert not set(worker_variables(ENVIRONMENT, SPEC, environ)) & set(environ)


def test_what_models_need_passes() -> None:
    environ = {
        "HOME": "/h",
        "LANG": "C.UTF-8",
        "LC_ALL": "C",
        "TZ": "UTC",
        "TMPDIR": "/t",
        "USER": "me",
        "HF_HOME": "/hf",
        "HF_TOKEN": "t",
        "HUGGING_FACE_HUB_TOKEN": "t",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "1",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "ROCR_VISIBLE_DEVICES": "0",
        "OMP_NUM_THREADS": "1",
        "SSL_CERT_FILE": "/c",
        "REQUESTS_CA_BUNDLE": "/c",
        "https_proxy": "http://p",
        "NO_PROXY": "localhost",
    }
    variables = worker_variables(ENVIRONMENT, SPEC, environ)
    assert {name: variables[name] for name in environ} == environ


def test_defaults_and_who_wins() -> None:
    plain = worker_variables(ENVIRONMENT, SPEC, {})
    assert plain["OMP_WAIT_POLICY"] == "PASSIVE"
    assert plain["GOMP_SPINCOUNT"] == "3000"
    assert plain["PYTHONUNBUFFERED"] == "1"
    assert plain["TOKENIZERS_PARALLELISM"] == "false"
    spec = EnvironmentSpec(name="e", variables=(("OMP_WAIT_POLICY", "ACTIVE"), ("MY_OWN", "1")))
    mixed = worker_variables(ENVIRONMENT, spec, {"OMP_WAIT_POLICY": "x", "TOKENIZERS_PARALLELISM": "true"})
    assert (mixed["OMP_WAIT_POLICY"], mixed["MY_OWN"], mixed["TOKENIZERS_PARALLELISM"]) == ("ACTIVE", "1", "true")


def test_programs_of_the_environment_come_first() -> None:
    path = worker_variables(ENVIRONMENT, SPEC, {"PATH": "/usr/bin"})["PATH"]
    assert path.split(os.pathsep) == [str(Path("/envs/d/bin")), "/usr/bin"]


def test_uv_gets_no_foreign_environment() -> None:
    foreign = {
        "VIRTUAL_ENV": "/v",
        "CONDA_PREFIX": "/c",
        "PYTHONPATH": "/p",
        "UV_PYTHON": "3.8",
        "UV_SYSTEM_PYTHON": "1",
    }
    assert clean_variables({**foreign, "UV_CACHE_DIR": "/cache", "PATH": "/bin"}) == {
        "UV_CACHE_DIR": "/cache",
        "PATH": "/bin",
    }
