"""What the status says of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from bainmarie.progress import Progress
from bainmarie.workers.failure import Failure


@dataclass(frozen=True)
class ModelStatus:
    """One model at one moment. What belongs to the worker is the same for all models that share it."""

    id: str
    state: str
    """unloaded | preparing | starting | loading | ready | stopping | failed. An adapter has its own."""
    engine: str
    environment: str
    """Its name in the configuration, or `auto`."""
    environment_digest: str
    """The environment's directory name; empty before it is known."""
    worker: str
    """Models with the same value share one process."""
    pid: int
    """0 without a process."""
    in_flight: int
    queued: int
    """Requests that wait until the model is ready."""
    restarts: int
    """Starts after a failure."""
    memory_bytes: int
    """Main memory."""
    loaded_at: str
    """ISO 8601, UTC; empty while it is not loaded."""
    last_used_at: str
    """The same; empty before the first use."""
    progress: Progress | None = None
    last_error: Failure | None = None
    accelerator_bytes: Mapping[str, int] = field(default_factory=dict)
    """By the accelerator: gpu0, gpu1, ..."""
    info: Mapping[str, object] = field(default_factory=dict)
    """Of the ready worker: versions, interpreter, device, dtype, context."""

    def to_json(self) -> dict[str, object]:
        """DESIGN section 8's shape, and some more."""
        return asdict(self)
