"""Facts of the machine, and the ceiling that its memory puts on decoding."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from contest.workshop import MODELS, say, transformers_python

_ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def bandwidth() -> float:
    """Gigabytes a second read from memory by all cores together."""
    said = subprocess.run(
        [transformers_python(), Path(__file__).with_name("bandwidth.py")], check=True, capture_output=True, text=True
    )
    value = float(said.stdout)
    say(f"memory read {value:.1f} GB/s")
    return value


def read_for_a_token(checkpoint: str) -> int:
    """Bytes of weights that one decoding step reads: all but the embedding table, of which it reads one row."""
    size = (MODELS / checkpoint / "model.safetensors").stat().st_size
    config = json.loads((MODELS / checkpoint / "config.json").read_text())
    return int(size - 2 * config["vocab_size"] * config["hidden_size"])


def isa() -> str:
    """The vector extensions that matter here, as Linux names them."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return platform.machine()
    return " ".join(name for name in _ISA if name in flags)


def facts(rates: Sequence[float], load: float) -> str:
    """One line about the machine; `rates` are its bandwidths during the run, `load` what it did before it."""
    read = " and ".join(f"{rate:.1f}" for rate in rates) or "not measured"
    return (
        f"{os.cpu_count()} cores ({isa()}), {platform.system()}, load {load:.1f} before; memory read {read} GB/s; "
        f"Python {platform.python_version()}"
    )
