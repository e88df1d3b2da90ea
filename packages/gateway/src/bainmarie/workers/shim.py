"""The process between gateway and worker: it owns the worker's process tree, its log and its death.

Runs as a script, isolated (`python -I -S shim.py SETTINGS`), with the gateway's interpreter and nothing but the
standard library; or, through `run`, in a process that the fork server of an environment has forked (Python >= 3.9).
One thread only: PR_SET_PDEATHSIG follows the parent's thread, so a worker may bind its life to the shim's, never to
the gateway's. The shim itself learns of the gateway's death from the end of its stdin. How it does its work is said in
posix_shim.py and windows_shim.py; here is their contract, and what they share.

argv[1]  JSON: {"argv": [...], "cwd": str, "log": path, "log_bytes": int, "socket": path or "", "grace": seconds,
         "foreign": bool, "namespace": "" or a kind of pid_namespace.py}
stdin    The first line goes to the worker's stdin as it is. Later lines are commands: `stop SECONDS`.
         `survive SECONDS PATH`: after the gateway's end wait so long for another one, see `Successor`.
         A foreign program is not our worker: it has no stdin, its stdout is log too, and every line is a command.
         End of file: the gateway is gone; the tree ends within LIFELINE_GRACE and a moment, if it is not to survive.
stdout   Shared with the worker. The shim adds `spawned` first, `failed` if the worker's program cannot be started,
         and `exited` last, when no process of the tree is left.
stderr   Becomes the log. The worker's stderr is a pipe that the shim copies into the log: at most 2 x `log_bytes` on
         disk (`log` and `log.1`), and a flood never blocks the worker.
signals  TERM, INT, HUP: stop with `grace`.

A stop is: TERM to every descendant and end of file on the worker's stdin; KILL after the grace, again and again until
nothing is left. The worker's own exit is followed by the same for what it left behind.

Linux: the shim is a child subreaper, so a process that daemonized comes back to it, and "no child left" means "no
descendant left". If the shim itself is killed, the worker gets KILL from the kernel and end of file on its stdin.
With a PID namespace the kernel kills all its descendants too; without one what it had forked off survives that.
macOS and other POSIX: the worker's process group is signalled, and a guard ends it when the shim is killed
(process_group.py); children that called setsid are missed. Windows: windows_shim.py does all this with a job object.
Neither was ever run there.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LIFELINE_GRACE = 1.0
"""Seconds between TERM and KILL when the gateway is gone: short, nobody waits for an answer any more."""
AFTERMATH_GRACE = 1.0
"""The same for processes that the worker left behind when it exited by itself."""
STARTED = b"--- bainmarie: worker started"
"""How the line begins that each start writes into the log."""


def main() -> None:
    run(Settings(**json.loads(sys.argv[1])), _execute)


def run(settings: "Settings", start: "Start") -> None:
    """Everything a shim does, in a process of its own that holds nothing but descriptors 0, 1 and 2."""
    log, graces = Log(settings.log, settings.log_bytes), (LIFELINE_GRACE, AFTERMATH_GRACE)
    if sys.platform == "win32":
        _beside("windows_shim").WindowsShim(settings, log, emit, _beside("job_object").Job, graces).run()
    else:
        _beside("posix_shim").PosixShim(settings, log, emit, start, graces, _beside).run()


class Settings:
    """What argv[1] says."""

    def __init__(
        self,
        argv: list[str],
        cwd: str,
        log: str,
        log_bytes: int,
        socket: str,
        grace: float,
        foreign: bool = False,
        namespace: str = "",
    ) -> None:
        self.argv = argv
        self.cwd = cwd
        self.log = log
        self.log_bytes = log_bytes
        self.socket = socket
        self.grace = grace
        self.foreign = foreign
        self.namespace = namespace


Start = Callable[[Settings, Callable[[], None]], "subprocess.Popen[bytes]"]
"""Starts the worker in a new session, with pipes as stdin and stderr, and calls the function in it first. The fork
server (bainmarie_worker.fork_server) brings its own. OSError where it cannot be started."""


def _execute(settings: Settings, first: "Callable[[], None]") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        settings.argv,
        stdin=subprocess.DEVNULL if settings.foreign else subprocess.PIPE,
        stdout=subprocess.PIPE if settings.foreign else None,
        stderr=subprocess.STDOUT if settings.foreign else subprocess.PIPE,
        cwd=settings.cwd,
        bufsize=0,
        start_new_session=True,
        preexec_fn=first,  # noqa: PLW1509 (one thread only)
    )


def _beside(name: str) -> Any:
    """The module of that name in this file's folder, which is on nobody's import path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    spec = importlib.util.spec_from_file_location("bainmarie_" + name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Log:
    """A file that keeps the last `limit` to 2 x `limit` bytes: when full it becomes `path.1`. It is stderr too."""

    def __init__(self, path: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._open()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.write(STARTED + f", {stamp}, shim {os.getpid()} ---\n".encode())

    def write(self, data: bytes) -> None:
        """Never raises for a full or failing disk: a worker's life does not depend on its log."""
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._limit:
                self._rotate()
            os.write(2, data)
            self._size += len(data)

    def _rotate(self) -> None:
        if sys.platform != "win32":
            os.replace(self._path, self._path + ".1")
        else:  # there an open file keeps its name, so a reader can put it off
            os.close(2)
            with contextlib.suppress(OSError):
                os.replace(self._path, self._path + ".1")
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(fd).st_size
        os.dup2(fd, 2)
        os.close(fd)


def emit(event: str, **fields: object) -> None:
    """One event line, as bainmarie_protocol.events has it; nobody may be left to read it."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


if __name__ == "__main__":
    main()
