"""The process between gateway and worker: it owns the worker's process tree, its log and its death.

Runs as a script, isolated (`python -I -S shim.py SETTINGS`), with the gateway's interpreter and nothing but the
standard library; or, through `run`, in a process that the fork server of an environment has forked (Python >= 3.9).
One thread only: PR_SET_PDEATHSIG follows the parent's thread, so a worker may bind its life to the shim's, never to
the gateway's. The shim itself learns of the gateway's death from the end of its stdin.

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
import ctypes
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bainmarie.workers.pid_namespace import PidNamespace
    from bainmarie.workers.process_group import Guard

LIFELINE_GRACE = 1.0
"""Seconds between TERM and KILL when the gateway is gone: short, nobody waits for an answer any more."""
AFTERMATH_GRACE = 1.0
"""The same for processes that the worker left behind when it exited by itself."""
STARTED = b"--- bainmarie: worker started"
"""How the line begins that each start writes into the log."""

_GREETING = 1.0
"""For the first line of a gateway that connects; it is sent with the connection."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"
_CHUNK = 1 << 16


def main() -> None:
    run(Settings(**json.loads(sys.argv[1])), _execute)


def run(settings: "Settings", start: "Start") -> None:
    """Everything a shim does, in a process of its own that holds nothing but descriptors 0, 1 and 2."""
    log = Log(settings.log, settings.log_bytes)
    if sys.platform == "win32":
        job, graces = _beside("job_object").Job, (LIFELINE_GRACE, AFTERMATH_GRACE)
        _beside("windows_shim").WindowsShim(settings, log, emit, job, graces).run()
        return
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    Shim(settings, log, start).run()


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


class Shim:
    """One worker from its start until nothing of it is left."""

    def __init__(self, settings: Settings, log: "Log", start: "Start") -> None:
        self._settings = settings
        self._start = start
        self._log = log
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
                self._stop(LIFELINE_GRACE)
            for fd, _ in self._poll.poll(self._timeout()):
                self._serve(fd)
        self._copy_log(limit=64)
        if self._guard is not None:
            self._guard.dismiss()
        with contextlib.suppress(FileNotFoundError):
            if self._settings.socket:
                os.unlink(self._settings.socket)
        worker.returncode = self._status  # reaped here; Popen must not look for it again
        code = os.waitstatus_to_exitcode(self._status or 0)
        emit("exited", code=None if code < 0 else code, signal=-code if code < 0 else None)

    def _spawn(self) -> "subprocess.Popen[bytes] | None":
        shim = os.getpid()

        def bind_to_shim() -> None:
            if _LINUX:
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if self._namespace is not None:
                self._namespace.enter()  # from inside, the shim's death would not be seen; init sees it for all
            elif _LINUX and os.getppid() != shim:
                os._exit(1)

        try:
            self._namespace = _namespace(self._settings.namespace)
        except OSError as error:
            hint = "`workers: {pid_namespace: false}` starts it without."
            emit("failed", code="spawn_failed", message=f"no PID namespace can be made: {error}", hint=hint)
            emit("exited", code=127)
            return None
        try:
            worker = self._start(self._settings, bind_to_shim)
        except (OSError, subprocess.SubprocessError) as error:
            emit("failed", code="spawn_failed", message=f"the worker's program cannot be started: {error}")
            self._leave_namespace()
            emit("exited", code=127)
            return None
        emit("spawned", pid=worker.pid)
        if not _LINUX:
            self._guard = _beside("process_group").Guard(worker.pid)
        return worker

    def _timeout(self) -> "float | None":
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
            self._stop(LIFELINE_GRACE)
            return
        try:
            self._successor = Successor(path, seconds)
        except OSError as error:
            os.write(2, f"bainmarie: no other gateway can be waited for: {error}\n".encode())
            self._stop(LIFELINE_GRACE)
            return
        self._poll.register(self._successor.fileno(), select.POLLIN)

    def _be_adopted(self, successor: "Successor") -> None:
        if not successor.has_come():
            return
        self._end_waiting()
        self._poll.register(0, select.POLLIN)
        emit("spawned", pid=self._pid)

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
                self._stop(AFTERMATH_GRACE)

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


def _namespace(kind: str) -> "PidNamespace | None":
    """The namespace in which all further children live, where there shall be one. OSError where there cannot."""
    if not kind:
        return None
    made: PidNamespace = _beside("pid_namespace").PidNamespace(kind)
    return made


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


def descendants(root: int) -> "list[int]":
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


def emit(event: str, **fields: object) -> None:
    """One event line, as bainmarie_protocol.events has it; nobody may be left to read it."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


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


if __name__ == "__main__":
    main()
