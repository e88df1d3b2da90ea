"""The shim's work on Linux, macOS and other POSIX systems: the contract of shim.py with signals, poll() and waitpid().

The standard library alone, Python >= 3.9: the shim loads this file by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

assert sys.platform != "win32"

if TYPE_CHECKING:
    from bainmarie.workers.pid_namespace import PidNamespace
    from bainmarie.workers.process_group import Guard
    from bainmarie.workers.shim import Log, Settings, Start

_NO_PROGRAM = "Install it, or correct the model's `command:`; a bare name is looked for on the PATH of the gateway."
_BUSY = ".busy"
"""Of the file beside its socket by whose lock a worker tells others that it computes; they look at all there are."""
_GREETING = 1.0
"""For the first line of a gateway that connects; it is sent with the connection."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"
_CHUNK = 1 << 16


class PosixShim:
    """One worker from its start until nothing of it is left."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        emit: Callable[..., None],
        start: Start,
        graces: tuple[float, float],
        beside: Callable[[str], Any],
    ) -> None:
        """`graces`: seconds where the gateway is gone, and for what a worker has left behind at its exit.

        `beside` gives the module of that name in the shim's folder.
        """
        self._settings = settings
        self._log = log
        self._emit = emit
        self._start = start
        self._lifeline_grace, self._aftermath_grace = graces
        self._beside = beside
        self._poll = select.poll()
        self._namespace: PidNamespace | None = None
        self._guard: Guard | None = None
        self._status: int | None = None  # the worker's wait status, once it has exited
        self._kill_at: float | None = None  # monotonic time of the first KILL; None while nothing is being stopped
        self._pause = 0.005
        self._signalled = _signals()
        self._first_line = not settings.foreign  # until the configuration has passed through
        self._commands = b""
        self._pending = b""  # bytes on their way to the worker's stdin
        self._survive = (0.0, "")  # seconds, and the path where a successor connects
        self._successor: Successor | None = None  # while one is awaited

    def run(self) -> None:
        """Returns when no descendant is left and `exited` is written."""
        if _LINUX:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        worker = self._spawn()
        if worker is None:
            return
        self._worker, self._pid = worker, worker.pid
        said = worker.stdout if self._settings.foreign else worker.stderr
        assert said is not None
        self._stdin, self._stderr = worker.stdin.fileno() if worker.stdin else -1, said.fileno()
        if self._stdin >= 0:
            os.set_blocking(self._stdin, False)
        os.set_blocking(self._stderr, False)
        for fd in (0, self._stderr, self._signalled):
            self._poll.register(fd, select.POLLIN)
        while self._reap():
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._signal_all(signal.SIGKILL)
                self._pause = min(2 * self._pause, 0.5)
            if self._successor is not None and time.monotonic() >= self._successor.until:
                self._stop(self._lifeline_grace)
            for fd, _ in self._poll.poll(self._timeout()):
                self._serve(fd)
        self._copy_log(limit=64)
        if self._guard is not None:
            self._guard.dismiss()
        if self._settings.socket:
            for left in (self._settings.socket, os.path.splitext(self._settings.socket)[0] + _BUSY):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left)
        worker.returncode = self._status  # reaped here; Popen must not look for it again
        code = os.waitstatus_to_exitcode(self._status or 0)
        self._emit("exited", code=None if code < 0 else code, signal=-code if code < 0 else None)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        shim = os.getpid()

        def bind_to_shim() -> None:
            if _LINUX:
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if self._namespace is not None:
                self._namespace.enter()  # from inside, the shim's death would not be seen; init sees it for all
            elif _LINUX and os.getppid() != shim:
                os._exit(1)

        try:
            self._namespace = self._make_namespace(self._settings.namespace)
        except OSError as error:
            hint = "`workers: {pid_namespace: false}` starts it without."
            self._emit("failed", code="spawn_failed", message=f"no PID namespace can be made: {error}", hint=hint)
            self._emit("exited", code=127)
            return None
        try:
            worker = self._start(self._settings, bind_to_shim)
        except (OSError, subprocess.SubprocessError) as error:
            hint = _NO_PROGRAM if self._settings.foreign else ""
            self._emit(
                "failed", code="spawn_failed", message=f"the worker's program cannot be started: {error}", hint=hint
            )
            self._leave_namespace()
            self._emit("exited", code=127)
            return None
        self._emit("spawned", pid=worker.pid)
        if not _LINUX:
            self._guard = self._beside("process_group").Guard(worker.pid)
        return worker

    def _make_namespace(self, kind: str) -> PidNamespace | None:
        """The namespace in which all further children live, where there shall be one. OSError where there cannot."""
        if not kind:
            return None
        made: PidNamespace = self._beside("pid_namespace").PidNamespace(kind)
        return made

    def _timeout(self) -> float | None:
        """Milliseconds until something must be done without being asked; None is for ever."""
        if self._kill_at is None and self._successor is not None:
            return 1000 * max(self._successor.until - time.monotonic(), 0)
        if self._kill_at is None:
            return None
        left = self._kill_at - time.monotonic()
        return 1000 * (left if left > 0 else self._pause)

    def _serve(self, fd: int) -> None:
        if fd == 0:
            self._read_lifeline()
        elif fd == self._stderr:
            self._copy_log(limit=16)
        elif fd == self._stdin:
            self._feed()
        elif self._successor is not None and fd == self._successor.fileno():
            self._be_adopted(self._successor)
        elif fd == self._signalled:
            stops = set(os.read(fd, 512)) - {signal.SIGCHLD}
            if stops:
                self._stop(self._settings.grace)

    def _read_lifeline(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except ConnectionResetError:  # a gateway that adopted it, and was killed
            data = b""
        if not data:
            self._poll.unregister(0)
            self._lose_gateway()
            return
        if self._first_line:
            line, newline, data = data.partition(b"\n")
            self._pending += line + newline
            self._first_line = not newline
            if self._stdin >= 0:
                self._feed()
        self._commands += data
        while b"\n" in self._commands:
            command, self._commands = self._commands.split(b"\n", 1)
            word, _, seconds = command.partition(b" ")
            if word == b"stop":
                self._stop(float(seconds))
            elif word == b"survive":
                survive, _, path = seconds.partition(b" ")
                self._survive = float(survive), os.fsdecode(path)

    def _lose_gateway(self) -> None:
        self._commands = b""
        seconds, path = self._survive
        if not seconds or self._kill_at is not None:
            self._stop(self._lifeline_grace)
            return
        try:
            self._successor = Successor(path, seconds)
        except OSError as error:
            os.write(2, f"bainmarie: no other gateway can be waited for: {error}\n".encode())
            self._stop(self._lifeline_grace)
            return
        self._poll.register(self._successor.fileno(), select.POLLIN)

    def _be_adopted(self, successor: Successor) -> None:
        if not successor.has_come():
            return
        self._end_waiting()
        self._poll.register(0, select.POLLIN)
        self._emit("spawned", pid=self._pid)

    def _end_waiting(self) -> None:
        if self._successor is not None:
            self._poll.unregister(self._successor.fileno())
            self._successor.close()
            self._successor = None

    def _feed(self) -> None:
        """Hands pending bytes to the worker without ever waiting for it."""
        try:
            self._pending = self._pending[os.write(self._stdin, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:  # the worker closed its stdin or is gone: its exit is seen elsewhere
            self._pending = b""
        if self._pending:
            self._poll.register(self._stdin, select.POLLOUT)
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._stdin)

    def _copy_log(self, limit: int) -> None:
        """Copies at most `limit` chunks, so that a flood cannot keep the shim from its other duties."""
        for _ in range(limit):
            try:
                data = os.read(self._stderr, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                with contextlib.suppress(KeyError):
                    self._poll.unregister(self._stderr)
                return
            self._log.write(data)

    def _reap(self) -> bool:
        """Collects the dead. False when no child is left: then the whole tree is gone."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return not _LINUX and self._signal_group(0)
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = status
                if self._namespace is not None:
                    self._namespace.release()
                self._stop(self._aftermath_grace)

    def _leave_namespace(self) -> None:
        """Without a worker: on return its init is gone."""
        if self._namespace is not None:
            self._namespace.release()
            os.waitpid(self._namespace.init, 0)

    def _stop(self, grace: float) -> None:
        """Begins the end, or brings it nearer; never puts it off."""
        self._end_waiting()
        kill_at = time.monotonic() + grace
        if self._kill_at is None or kill_at < self._kill_at:
            self._kill_at = kill_at
        self._signal_all(signal.SIGTERM)
        self._signal_all(signal.SIGCONT)  # one that was stopped could not hear it
        if self._stdin >= 0:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._stdin)
            assert self._worker.stdin is not None
            self._worker.stdin.close()
            self._stdin = -1

    def _signal_all(self, number: int) -> None:
        if not _LINUX:
            self._signal_group(number)
            return
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _signal_group(self, number: int) -> bool:
        """False when nobody is left in the worker's process group."""
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
            return False
        return True


class Successor:
    """The gateway that is awaited in place of one that is gone, on a unix socket at `path`, this user's alone.

    It says `adopt WORD`, with the word that the shim's own environment has. OSError where nobody could come.
    """

    def __init__(self, path: str, seconds: float) -> None:
        import socket

        self.until = time.monotonic() + seconds
        self._path = path
        self._word = os.environ.get("BAIN_WORKER", "").encode()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            self._listener.bind(path)
        finally:
            os.umask(before)
        self._listener.listen(4)
        self._listener.setblocking(False)

    def fileno(self) -> int:
        return self._listener.fileno()

    def has_come(self) -> bool:
        """Takes one caller. If it knows the word, it is from now on what stdin and stdout lead to."""
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(_GREETING)
                if connection.recv(256) == b"adopt " + self._word + b"\n" and self._word:
                    connection.setblocking(True)
                    os.dup2(connection.fileno(), 0)
                    os.dup2(connection.fileno(), 1)
                    return True
        return False

    def close(self) -> None:
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def descendants(root: int) -> list[int]:
    """Pids of every process below `root`, parents first, from one reading of /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = file.read().rpartition(b")")[2].split()[1]
        except OSError:  # gone since the listing
            continue
        children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def _signals() -> int:
    """Turns the signals into bytes that can be read from the returned descriptor."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return read


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
