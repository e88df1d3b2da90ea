"""What is made on first use and kept under `.bain-test/bench`: environments of the rivals, and the models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import uv

from contest.processes import Failed, last_words

FOLDER = Path(os.environ["BAIN_TEST_HOME"]) / "bench"
MODELS = FOLDER / "models"
LOGS = FOLDER / "logs"
TRANSFORMERS = ("torch==2.13.0", "transformers[serving]==5.23.0", "peft==0.21.2", "accelerate==1.15.0", "safetensors")
"""As bainmarie's own environments have it, so that what differs is the engine."""


def say(text: str) -> None:
    """A line on stderr, so that nobody waits in the dark."""
    print(f"engine: {text}", file=sys.stderr, flush=True)


def shell(name: str, command: Sequence[str | Path]) -> None:
    """Runs a step of an installation; Failed with the end of its output where it fails."""
    log = LOGS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        try:
            code = subprocess.call([str(c) for c in command], stdout=output, stderr=subprocess.STDOUT)
        except FileNotFoundError as error:
            raise Failed(f"{command[0]} is not installed here") from error
    if code:
        raise Failed(f"`{Path(command[0]).name} {command[1]}` failed: {last_words(log)}")


def environment(name: str, packages: Sequence[str], extra: Sequence[str] = ()) -> Path:
    """The interpreter of a rival's own environment; made, with a line that says so, unless it is there as asked for."""
    folder = FOLDER / "rivals" / name / "venv"
    marker, wanted = folder / "packages", "\n".join((*packages, *extra))
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if marker.exists() and marker.read_text() == wanted:
        return python
    say(f"making the environment of {name} ({', '.join(packages)})")
    links = [word for place in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", place)]
    tool = uv.find_uv_bin()
    shell(name, [tool, "venv", "--clear", "--python", "3.11", folder])
    shell(name, [tool, "pip", "install", "--python", python, *links, *extra, *packages])
    marker.write_text(wanted)
    return python


def transformers_python() -> Path:
    """The environment of everything that is transformers' own."""
    return environment("transformers", TRANSFORMERS)


def models() -> Path:
    """The folder of r100m, r475m and the adapters of r100m."""
    if not (MODELS / "made").exists():
        say("making the models (1.2 GB, random weights)")
        script = Path(__file__).with_name("make_models.py")
        shell("models", [transformers_python(), script, MODELS])
    return MODELS
