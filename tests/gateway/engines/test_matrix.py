"""The worker through the Pythons and the transformers it promises to work with.

`BAIN_LONG=1 ./run test tests/gateway/engines/test_matrix.py` takes every transformers; the usual suite the oldest one,
and the newest in every test of the demo model.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bainmarie.environments.commands import clean_variables
from bainmarie.environments.environment import Environment, read_marker
from bainmarie.environments.interpreters import find_interpreter
from bainmarie.errors import EnvironmentFailed

TRANSFORMERS = ("4.46.3", "4.57.6", "5.0.0", "5.23.0")
PYTHONS = ("3.9", "3.10", "3.12", "3.13")
SHORT = TRANSFORMERS[:1]
every = pytest.mark.skipif(not os.environ.get("BAIN_LONG"), reason="builds a torch environment: BAIN_LONG=1 runs it")


def there(python: str) -> bool:
    import uv

    variables = {**clean_variables(os.environ), "UV_PYTHON_DOWNLOADS": "never"}
    try:
        asyncio.run(find_interpreter(python, uv=uv.find_uv_bin(), variables=variables, cwd=Path.cwd()))
    except EnvironmentFailed:
        return False
    return True


def environment_of(gateway: Any) -> Environment:
    """What the gateway's one worker runs in."""
    programs = {Path(process.cmdline()[0]) for process in gateway.processes()}
    found = [read_marker(program.parents[1]) for program in programs if program.parent.name == "bin"]
    (environment,) = filter(None, found)
    return environment


@pytest.mark.parametrize("python", PYTHONS)
def test_the_worker_runs_in_every_python(python: str, start_gateway: Callable[[str], Any]) -> None:
    if not there(python):
        pytest.skip(f"there is no Python {python} on this machine")
    configuration = f'environments: {{e: {{python: "{python}"}}}}\nmodels: {{f: {{engine: fake, environment: e}}}}\n'
    gateway = start_gateway(configuration)
    answer = gateway.chat("f", "hello")
    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"]
    assert environment_of(gateway).python_version.startswith(f"{python}.")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("release", [pytest.param(r, marks=[] if r in SHORT else [every]) for r in TRANSFORMERS])
def test_a_model_answers_in_every_transformers(release: str, start_gateway: Callable[[str], Any]) -> None:
    packages = f'["torch==2.13.0", "transformers=={release}", "peft==0.21.2", "accelerate==1.15.0"]'
    gateway = start_gateway(f"environments: {{e: {{packages: {packages}}}}}\nmodels: {{demo: {{environment: e}}}}\n")
    plain = gateway.chat("demo", "What is 17 * 23?", max_tokens=24)
    assert plain["choices"][0]["message"]["content"] or plain["choices"][0]["message"].get("tool_calls")
    assert gateway.chat("demo-pirate", "Hello", max_tokens=8)["model"] == "demo-pirate"
    assert environment_of(gateway).versions["transformers"] == release
