"""The contract between gateway, shim and worker: what is said at the start, while it lives, and when it fails.

No dependencies, Python >= 3.9. Three borders:

1. start: the gateway writes one `WorkerConfig` as a JSON line to the shim's stdin, which hands it to the worker's.
   Both stdins then stay open as lifelines: end of file means "stop now".
2. events: worker and shim write one JSON line for each event to the stdout they share (`events`). Lines are at most
   `MAX_LINE` bytes, so that lines of two writers never mix in the pipe.
3. requests: HTTP with OpenAI shapes over the worker's own socket (`paths`).

Gateway and worker come from one release, but a worker may outlive its gateway and go on under a newer one. `PROTOCOL`
is raised with every change after which those two, or that gateway and the older shim, would not understand each other.
"""

from bainmarie_protocol.config import ServedModel, WorkerConfig
from bainmarie_protocol.events import (
    MAX_LINE,
    Event,
    Exited,
    Failed,
    Listening,
    Progress,
    Ready,
    Spawned,
    decode_event,
    encode_event,
)

PROTOCOL = 1

__all__ = [
    "MAX_LINE",
    "PROTOCOL",
    "Event",
    "Exited",
    "Failed",
    "Listening",
    "Progress",
    "Ready",
    "ServedModel",
    "Spawned",
    "WorkerConfig",
    "decode_event",
    "encode_event",
]
