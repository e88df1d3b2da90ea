"""The fork server of one environment: it imports what workers need once, and forks a shim for each start.

Started as `python -I -m bainmarie_worker.fork_server CONTROL SHIM` by the gateway, in the model's environment and with
its variables.

CONTROL   Descriptor of a SOCK_SEQPACKET socket. Each message is one start: JSON
          {"engine", "model", "device", "adapters": bool, "word", "settings": {...}} (`settings` as the shim has them,
          without argv; `word` is what the variable BAIN_WORKER says in all processes of that tree) and three
          descriptors: the shim's stdin and stdout, and the write end of a pipe that only the shim holds: its end of
          file tells the gateway that the shim is dead. End of file: no more starts, exit status 0.
SHIM      Path of the gateway's shim.py. The forked shim is that same program; only its worker is forked, not executed.
stdin     The lifeline, never written to. When the gateway is gone the kernel ends this process by SIGIO (Linux),
          also in the middle of an import.
answers   The first line on the stdout of each start: {"forked": pid of the shim} or {"refused": why}.
stderr    The log of this process and of what its imports print.

One thread, no event loop, no accelerator: else nothing could be forked from it (`preload.obstacle`). What the gateway
has sent while an import runs waits in the socket.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO

from bainmarie_worker import __main__ as worker
from bainmarie_worker import lifeline, preload

_MESSAGE = 1 << 18
_PR_SET_NAME = 15
_WORD = "BAIN_WORKER"
_LIFE = 3
"""Where the shim holds its end of the pipe that tells its death."""


def main(work: Callable[[], None] = worker.main) -> None:
    """Serves until the gateway has no more use for it. Never returns: a forked process must not run its end.

    `work` is what runs in each worker; it never returns either.
    """
    control, shim_path = int(sys.argv[1]), sys.argv[2]
    _name("bain fork srv")
    lifeline.end_without_gil(0, True)
    if select.select([0], [], [], 0)[0]:  # the gateway was gone before that
        os._exit(0)
    shim = _module(shim_path)
    died = _children_died()
    messages = socket.socket(fileno=control)
    poll = select.poll()
    poll.register(messages, select.POLLIN)
    poll.register(died, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if died in ready:
            os.read(died, 4096)
            _reap()
        if control in ready:
            message, descriptors = _receive(messages)
            if not message:
                os._exit(0)
            _start(shim, json.loads(message), descriptors, messages, work)
            for descriptor in descriptors:
                os.close(descriptor)


class ForkedWorker:
    """What the shim needs of its worker, as `subprocess.Popen` has it."""

    def __init__(self, pid: int, stdin: BinaryIO, stderr: BinaryIO) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stderr = stderr
        self.stdout = None
        self.returncode: int | None = None


def fork_worker(settings: Any, bind: Callable[[], None], work: Callable[[], None]) -> ForkedWorker:
    """In the shim: a worker in a new session with pipes of its own, bound to the shim's life by `bind`."""
    stdin, to_stdin = os.pipe()
    from_stderr, stderr = os.pipe()
    pid = os.fork()
    if pid == 0:
        _finally_exit(lambda: _be_worker(settings.cwd, bind, stdin, stderr, work))
    os.close(stdin)
    os.close(stderr)
    return ForkedWorker(pid, open(to_stdin, "wb", 0), open(from_stderr, "rb", 0))


def _start(
    shim: ModuleType,
    wish: dict[str, Any],
    descriptors: list[int],
    messages: socket.socket,
    work: Callable[[], None],
) -> None:
    """Forks a shim for that start, or says on its stdout why not."""
    _, stdout, _ = descriptors
    preload.preload(wish["engine"], wish["model"], wish["adapters"])
    reason = preload.obstacle(wish["device"])
    if reason:
        _answer(stdout, refused=reason)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # the collector would write to every page that the processes share
    try:
        pid = os.fork()
    except OSError as error:
        _answer(stdout, refused=f"the fork failed: {error}")
        return
    if pid == 0:
        messages.detach()  # closed below by its number; this object must not close another's number later
        _finally_exit(lambda: _be_shim(shim, wish, descriptors, work))


def _be_shim(shim: ModuleType, wish: dict[str, Any], descriptors: list[int], work: Callable[[], None]) -> None:
    stdin, stdout, life = descriptors
    os.setsid()
    _name("bain shim")
    _mark(wish["word"])
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.dup2(life, _LIFE)
    _close_from(_LIFE + 1)
    if _answer(1, forked=os.getpid()):
        shim.run(shim.Settings(argv=[], **wish["settings"]), lambda settings, bind: fork_worker(settings, bind, work))


def _be_worker(cwd: str, bind: Callable[[], None], stdin: int, stderr: int, work: Callable[[], None]) -> None:
    os.setsid()
    bind()
    _name("bain worker")
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stdin, 0)
    os.dup2(stderr, 2)
    _close_from(_LIFE)
    os.chdir(cwd)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # else all workers would draw the same numbers
    work()


def _answer(stdout: int, **said: object) -> bool:
    """False where nobody waits for this start any more."""
    try:
        os.write(stdout, json.dumps(said).encode() + b"\n")
    except BrokenPipeError:
        return False
    return True


def _finally_exit(work: Callable[[], None]) -> None:
    """Runs a forked process to its end: it must never come back into its parent's code."""
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing may pass
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(1)


def _receive(messages: socket.socket) -> tuple[bytes, list[int]]:
    """One message and its descriptors, which are not inherited by executed programs."""
    descriptors = array.array("i")
    room = socket.CMSG_LEN(3 * descriptors.itemsize)
    data, ancillary, _, _ = messages.recvmsg(_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content)
    return data, descriptors.tolist()


def _children_died() -> int:
    """A descriptor that can be read when a child has died."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _close_from(lowest: int) -> None:
    """Closes every descriptor from that number on."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= lowest:
            with contextlib.suppress(OSError):  # the descriptor that read the list
                os.close(int(name))


def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bainmarie_shim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _mark(word: str) -> None:
    """Gives this process its own word, where others read it too.

    /proc/PID/environ shows the memory in which the first variables of a process lie: that is overwritten in place.
    """
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    place = getenv(_WORD.encode())
    if place and len(os.environ[_WORD]) == len(word):
        ctypes.memmove(place, word.encode(), len(word))
    os.environ[_WORD] = word


def _name(name: str) -> None:
    """What `ps` and `top` show beside the command line, which is the same for all forked processes."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


if __name__ == "__main__":
    main()
