"""The gateway knows no machine learning: nothing of it is installed beside it, nothing is imported."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

HEAVY = {"torch", "transformers", "numpy"}


def test_nothing_heavy_is_installed() -> None:
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    assert "bainmarie" in installed
    assert not installed & HEAVY


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, bainmarie.app, bainmarie.gateway; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "bainmarie.app" in modules
    assert not modules & HEAVY
