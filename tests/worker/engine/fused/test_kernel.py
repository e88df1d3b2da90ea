"""The compiled code: had, kept, or the reason why not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="compiled code is not tried on Windows yet")

ASK = """
from bainmarie_worker.engine.fused.kernel import NoKernel, kernel
try:
    print(kernel()._name)
except NoKernel as error:
    print("none:", error)
"""


def asked(place, **variables):
    environ = {**os.environ, "BAIN_KERNELS": str(place), **variables}
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_compiled_once_and_kept(tmp_path):
    name = asked(tmp_path / "kept")
    made = os.stat(name)
    assert asked(tmp_path / "kept", PATH="/nowhere") == name
    assert os.stat(name).st_mtime_ns == made.st_mtime_ns
    assert os.listdir(tmp_path / "kept") == [os.path.basename(name)]


def test_without_a_compiler_the_reason_is_told(tmp_path):
    assert "none: there is no C compiler" in asked(tmp_path, CC="", PATH="/nowhere")


def test_a_compiler_that_fails_is_named_and_no_library_is_left(tmp_path):
    assert "none: cc could not compile the decoder: " in asked(tmp_path, CC="cc -DINLINE=nonsense -include none.h")
    assert [os.path.splitext(name)[1] for name in os.listdir(tmp_path)] == [".failed"]


def test_a_compiler_that_fails_is_asked_again_when_it_has_changed_or_a_day_has_passed(tmp_path):
    compiler, calls, kernels = tmp_path / "own-cc", tmp_path / "calls", tmp_path / "kernels"
    begin = f"#!/bin/sh\necho call >> {calls}\n"
    compiler.write_text(f"{begin}echo 'error: no headers' >&2; exit 1\n")
    compiler.chmod(0o755)
    environ = {"CC": str(compiler)}
    reasons = [asked(kernels, **environ) for _ in range(3)]
    assert all(f"none: {compiler} could not compile the decoder: error: no headers" in reason for reason in reasons)
    assert calls.read_text() == "call\n"
    (note,) = kernels.iterdir()
    assert str(note) in reasons[1]
    os.utime(note, (0, 0))
    asked(kernels, **environ)
    assert calls.read_text() == "call\n" * 2
    compiler.write_text(f'{begin}exec cc "$@"\n')
    assert asked(kernels, **environ).startswith(str(kernels))
    assert calls.read_text() == "call\n" * 3


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert "none: " in asked(tmp_path / "file" / "kernels")


def test_a_broken_library_is_no_end(tmp_path):
    name = asked(tmp_path)
    with open(name, "wb") as file:
        file.write(b"half")
    assert "none: the compiled decoder cannot be loaded" in asked(tmp_path)
