"""What a murdered gateway and its shim leave behind is ended by the next one, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bainmarie.workers.records import WORD, Records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux alone")
DETACH = "import os, time; os.setsid(); print(flush=True); time.sleep(600)"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """One that carries the word `w` and that no parent's group or session leads to."""
    environ = {**os.environ, WORD: "w"}
    with subprocess.Popen([sys.executable, "-c", DETACH], env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def is_gone(process: subprocess.Popen[str]) -> bool:
    """Who waits for it first, the sweep or its parent here, learns how it ended: only that it has can be asked."""
    process.wait(10)
    return not psutil.pid_exists(process.pid)


def test_what_carries_the_word_is_ended(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    records = Records(tmp_path / "run")
    records.add("w", 2**22 + 1)  # its shim is gone: no record is written
    assert records.sweep() == 0
    records.add("w", os.getpid())
    file = tmp_path / "run" / "w.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "started": 1.0}))  # a pid that was given out again
    assert records.sweep() == 1
    assert is_gone(process)
    assert records.sweep() == 0


def test_what_carries_no_word_is_left_alone(tmp_path: Path) -> None:
    records = Records(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        records.add("w", os.getpid())
        file = tmp_path / "run" / "w.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "started": 1.0}))
        swept, alive = records.sweep(), other.poll() is None
    assert (swept, alive) == (0, True)


def test_the_shim_itself_is_known_by_its_start(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    records = Records(tmp_path / "run")
    records.add("another-word", process.pid)
    assert records.sweep() == 1
    assert is_gone(process)


def test_a_record_of_an_earlier_boot_ends_nothing(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    records = Records(tmp_path / "run")
    records.add("w", process.pid)
    file = tmp_path / "run" / "w.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "boot": "before"}))
    assert records.sweep() == 0
    assert psutil.Process(process.pid).is_running()
    assert not file.exists()


def test_rubble_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    assert Records(tmp_path).sweep() == 0
    assert list(tmp_path.iterdir()) == []
