"""Start a gateway as a child process: one that ends with the caller, or one that stays.

The child says on its stdout, in one JSON line, either `{"address", "pid"}` or `{"error": {...}, "status"}`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bainmarie.cli.answers import error_from
from bainmarie.cli.place import gateway_log
from bainmarie.errors import GatewayUnreachable

STOP_SECONDS = 20.0
"""How long a gateway may take to end after its lifeline closed, before it is killed. Its workers end either way."""


@dataclass(frozen=True)
class Lifeline:
    """A gateway that lives as long as the pipe to its stdin is open. Closing it, or the caller's death, ends it."""

    process: subprocess.Popen[bytes]
    address: str

    def close(self) -> None:
        """Let it end and wait for that."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        _wait(self.process)

    def forget(self) -> None:
        """In a forked child: close the copy of the pipe, so that only the parent holds it."""
        if self.process.stdin is not None:
            self.process.stdin.close()


def start_with_lifeline() -> Lifeline:
    """Start a gateway on a free port and wait until it serves. Raises what kept it from starting."""
    process, address = _start(["--lifeline", "--port", "0"], subprocess.PIPE)
    return Lifeline(process, address)


def start_detached(arguments: list[str]) -> tuple[int, str]:
    """Start a gateway that outlives the caller; returns its pid and address when it serves."""
    process, address = _start(["--announce", *arguments], subprocess.DEVNULL)
    process.returncode = 0  # It stays: nothing to wait for, and no warning that it still runs.
    return process.pid, address


def _start(arguments: list[str], stdin: int) -> tuple[subprocess.Popen[bytes], str]:
    command = [sys.executable, "-P", "-m", "bainmarie", "up", *arguments]
    path = gateway_log()
    with path.open("ab") as log:
        begin = log.tell()
        # A session of its own: Ctrl-C in the terminal is the caller's, and reaches the gateway as a closed lifeline.
        process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=log, start_new_session=True, bufsize=0
        )
    try:
        answer = _first_line(process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if "address" in answer:
        return process, str(answer["address"])
    if process.stdin is not None:
        process.stdin.close()
    _wait(process)
    raise _failure(answer, process.returncode, path, begin)


def _first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The JSON line that the child says when it serves or gives up; empty if it died without one."""
    out: IO[bytes] | None = process.stdout
    if out is None:
        raise ValueError("the process was started without a pipe for its stdout")
    with out:
        line = out.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _failure(answer: dict[str, Any], code: int, path: Path, begin: int) -> Exception:
    if isinstance(answer.get("error"), dict):
        return error_from(answer["error"], int(answer.get("status", 500)))
    with path.open("rb") as log:
        log.seek(begin)
        tail = log.read().decode(errors="replace")
    return GatewayUnreachable(
        f"the gateway ended with code {code} before it served", hint=f"Its log: {path}", log_tail=tail
    )


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
