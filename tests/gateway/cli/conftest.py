"""One home for all command line tests of a session, so that the fake engine's environment is built once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pexpect
import psutil
import pytest

CALL = {"content": "I work it out.", "tool_calls": [{"name": "calculator", "arguments": {"expression": "173 * 29"}}]}
WRITE = {"tool_calls": [{"name": "write_file", "arguments": {"path": "a.txt", "content": "hello"}}]}
SHELL = {"tool_calls": [{"name": "run_shell", "arguments": {"command": "touch x.txt"}}]}
CONFIGURATION = {
    "version": 1,
    "models": {
        "fake": {"engine": "fake"},
        "plain": {"engine": "fake", "prompt": "plain", "options": {"token_seconds": 0.001}},
        "slow": {"engine": "fake", "options": {"token_seconds": 0.2}},
        "late": {"engine": "fake", "options": {"load_seconds": 1.0}},
        "broken": {"engine": "fake", "options": {"fail_load": "model_incomplete"}},
        "sums": {"engine": "fake", "options": {"script": [CALL, {"content": "It is 5017."}]}},
        "writes": {"engine": "fake", "options": {"script": [WRITE, {"content": "Done."}]}},
        "twice": {"engine": "fake", "options": {"script": [WRITE, WRITE, SHELL, {"content": "Done."}]}},
    },
}


@dataclass(frozen=True)
class Home:
    """A BAIN_HOME with a configuration, and the command line on it."""

    path: Path
    terminals: list[pexpect.spawn] = field(default_factory=list)
    """Those of the present test."""

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BAIN_")}
        return {**kept, "BAIN_HOME": str(self.path), "PYTHONWARNINGS": "", "COLUMNS": "100"}

    def bain(
        self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`bain ARGUMENTS` without a terminal."""
        return subprocess.run(
            [sys.executable, "-m", "bainmarie", *arguments],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env={**self.environ, **(env or {})},
            cwd=cwd or self.path,
            start_new_session=True,
        )

    def terminal(self, *arguments: str, env: Mapping[str, str] | None = None, columns: int = 100) -> pexpect.spawn:
        """`bain ARGUMENTS` in a terminal."""
        spawned = pexpect.spawn(
            sys.executable,
            ["-m", "bainmarie", *arguments],
            env={**self.environ, "TERM": "xterm", "NO_COLOR": "1", **(env or {})},
            cwd=str(self.path),
            dimensions=(40, columns),
            encoding="utf-8",
            timeout=60,
        )
        self.terminals.append(spawned)
        return spawned

    def pid(self) -> int | None:
        """Of the gateway that serves this home."""
        try:
            return int(json.loads((self.path / "gateway.json").read_text())["pid"])
        except FileNotFoundError:
            return None

    def close(self, kept: int | None) -> int | None:
        """Ends terminals, and the gateway unless its pid is `kept`; the pid of one that had to be ended."""
        patience = 20 if self.terminals else 0  # the gateway of a command ends when its terminal is closed
        while self.terminals:
            self.terminals.pop().close(force=True)
        pid, ended = self.pid(), None
        if pid in (kept, None):
            return None
        with suppress(psutil.NoSuchProcess):
            gateway = psutil.Process(pid)
            psutil.wait_procs([gateway], timeout=patience)
            if gateway.is_running() and gateway.status() != psutil.STATUS_ZOMBIE:
                gateway.kill()  # its workers see that
                psutil.wait_procs([gateway], timeout=20)
                ended = pid
        (self.path / "gateway.json").unlink(missing_ok=True)
        return ended

    @contextmanager
    def gateway(self) -> Iterator[None]:
        """A detached gateway on a free port; stopped at the end."""
        started = self.bain("up", "--detach", "--port", "0")
        assert started.returncode == 0, started.stderr
        try:
            yield
        finally:
            stopped = self.bain("down")
            assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, kept_home: Path) -> Home:
    """Shares the kept environments. No gateway runs on it but those that a test starts."""
    path = tmp_path_factory.mktemp("home")
    (path / "environments").symlink_to(kept_home / "environments", target_is_directory=True)
    (path / "bain.yaml").write_text(json.dumps(CONFIGURATION))
    return Home(path)


@pytest.fixture(autouse=True)
def no_gateway_left(home: Home) -> Iterator[None]:
    """A test that leaves a gateway behind fails by itself; the next finds none."""
    kept = home.pid()
    yield
    left = home.close(kept)
    assert left is None, f"a gateway was left behind: pid {left}"


@pytest.fixture
def empty_home(tmp_path: Path) -> Home:
    """No configuration, nothing built."""
    return Home(tmp_path)
