"""Run a command that cannot outlive the process that started it. A standard-library script: `tether.py COMMAND ARGS...`

Started as the leader of a process group, with a pipe as stdin that its starter keeps open and never writes to.
End of file on stdin means that the starter is gone (or wants an end): the whole group is killed.
Inherited file descriptors go on to the command: a file lock among them stays held until the last of the group is dead.
Exit code: the command's; 128 + the signal's number where a signal ended it; 127 where it cannot be started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, close_fds=os.name == "nt")
    except OSError as error:
        print(f"error: cannot start {sys.argv[1]}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(127)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    code = child.wait()
    os._exit(code if code >= 0 else 128 - code)


def _watch(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        continue
    if sys.platform != "win32":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    child.kill()
    os._exit(137)


if __name__ == "__main__":
    main()
