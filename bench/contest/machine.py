"""Facts of the machine, and the ceiling that its memory puts on decoding."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

from contest.workshop import MODELS, transformers_python

_ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


class Memory:
    """How fast all cores together read from memory, at any moment. Use as a context manager.

    On a machine that others share it is another figure each minute (15 to 52 GB/s were seen within one), so that a
    ceiling only means something beside what was measured at the same time.
    """

    def __enter__(self) -> Memory:
        program = [transformers_python(), Path(__file__).with_name("bandwidth.py")]
        environ = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        self._reader = subprocess.Popen(program, stdin=PIPE, stdout=PIPE, text=True, env=environ)
        self.rates: list[float] = []
        """All that was read, in GB/s."""
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.communicate()

    def read(self) -> float:
        """Gigabytes a second; takes about 0.2 s."""
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        self._reader.stdin.write("\n")
        self._reader.stdin.flush()
        self.rates.append(float(self._reader.stdout.readline()))
        return self.rates[-1]


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
    read = f"{min(rates):.1f} to {max(rates):.1f}" if rates else "not measured"
    return (
        f"{os.cpu_count()} cores ({isa()}), {platform.system()}, load {load:.1f} before; memory read {read} GB/s; "
        f"Python {platform.python_version()}"
    )
