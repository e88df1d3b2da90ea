"""Mapped weights are in the page table before anybody reads them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from bainmarie_worker.prefault import prefault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="smaps are Linux's")
BYTES = 8 << 20


def resident(path):
    """Bytes of the file's mappings that this process has in its page table."""
    found, inside = 0, False
    with open("/proc/self/smaps", encoding="ascii") as lines:
        for line in lines:
            if "-" in line.split(" ", 1)[0]:
                inside = line.rstrip().endswith(str(path))
            elif inside and line.startswith("Rss:"):
                found += int(line.split()[1]) * 1024
    return found


def test_every_page_of_every_parameter(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(BYTES))
    whole = torch.from_file(str(path), size=BYTES, dtype=torch.uint8)
    model = nn.Module()
    for number, part in enumerate(whole.view(torch.bfloat16).split(1 << 20)):
        model.register_parameter(f"part{number}", nn.Parameter(part, requires_grad=False))
    assert resident(path) < BYTES
    prefault(model)
    for thread in threading.enumerate():
        if thread.name == "prefault":
            thread.join()
    assert resident(path) == BYTES


def test_weights_that_have_no_memory_are_left_alone():
    prefault(nn.Linear(4, 4, device="meta"))
    prefault(nn.Module())


def test_a_program_that_ends_meanwhile_ends_as_it_would():
    code = """
import torch
from torch import nn
from bainmarie_worker.prefault import prefault
model = nn.ParameterList(nn.Parameter(torch.empty(1 << 22), requires_grad=False) for _ in range(64))
prefault(model)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")
