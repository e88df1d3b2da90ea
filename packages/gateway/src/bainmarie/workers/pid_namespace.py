"""A PID namespace around one worker's tree: when its first process dies, the kernel ends every other. Linux alone.

    shim          stays outside, in the namespace of the gateway
     ├─ init      number 1 in it: collects orphans; the kernel kills it when the shim dies, and then all the others
     └─ worker    and whatever comes of it, also what daemonizes

The worker gets a mount namespace too, and in it a /proc of its own: else its own number would name a stranger there,
and what reads /proc/PID (psutil, debuggers) would read of another process. Gateway and shim see the numbers of the
system, as always. Mounts that the system makes later are seen by the worker, its own are not seen by others.

Two kinds: `pid` needs a privileged user; `user` is for all others and puts shim and worker into a user namespace in
which the own user is the only one: programs with the setuid bit (sudo, newuidmap) do not work there.

The standard library alone, Python >= 3.9: the shim loads this file by its path. As a script it tries which kind is
allowed here and says so: {"kind": "pid" | "user" | "", "reasons": [...]}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys

assert sys.platform != "win32"

KINDS = ("pid", "user")

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x8, 0x4000, 0x80000
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


class PidNamespace:
    """Of the shim that has made it: all children that it forks from then on live in it."""

    def __init__(self, kind: str) -> None:
        """One thread only. OSError where the system refuses; a `user` may be half made then."""
        _make(kind)
        read, self._lifeline = os.pipe()
        self.init = os.fork()
        if self.init == 0:
            _be_init(read)
        os.close(read)

    def enter(self) -> None:
        """In a forked child, before it becomes the worker: its own /proc. OSError."""
        _call("unshare", _CLONE_NEWNS)
        _call("mount", b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
        _call("mount", b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)

    def release(self) -> None:
        """The worker is dead: init ends when nothing but itself is left, and the shim may collect it. Idempotent."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def try_kinds() -> dict[str, object]:
    """The first kind that works here, each tried in a process of its own, and why the others do not."""
    reasons: list[str] = []
    for kind in KINDS:
        reason = _try(kind)
        if not reason:
            return {"kind": kind, "reasons": reasons}
        reasons.append(f"{kind}: {reason}")
    return {"kind": "", "reasons": reasons}


def _try(kind: str) -> str:
    """Why it does not work; empty where it does."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            namespace = PidNamespace(kind)
            child = os.fork()
            if child == 0:
                namespace.enter()
                os._exit(0 if os.readlink("/proc/self") == str(os.getpid()) else 1)
            if os.waitpid(child, 0)[1]:
                os.write(write, b"a /proc of its own cannot be mounted")
        except OSError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        reason = told.read().decode()
    return reason if os.waitpid(pid, 0)[1] == 0 else "the attempt crashed"


def _make(kind: str) -> None:
    if kind == "pid":
        _call("unshare", _CLONE_NEWPID)
        return
    if kind != "user":
        raise OSError(f"{kind!r} is no kind of namespace")
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWPID)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _be_init(lifeline: int) -> None:
    """Never returns. Signals but KILL do not reach the first process of a namespace where it has no handler."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_NAME, b"bain init")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for name in os.listdir("/proc/self/fd"):
            if int(name) != lifeline:
                with contextlib.suppress(OSError):  # the descriptor that read the list
                    os.close(int(name))
        died, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(died, select.POLLIN)
        poll.register(lifeline, select.POLLIN)
        while lifeline not in [fd for fd, _ in poll.poll()]:  # its end: released, or the shim died before the prctl
            os.read(died, 4096)
            _collect(os.WNOHANG)
        _collect(0)
    finally:
        os._exit(0)


def _collect(flags: int) -> None:
    """The dead so far; without WNOHANG all, and those who still live."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, flags)[0]:
            pass


def _prctl(option: int, value: object) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_kinds()) + "\n")
