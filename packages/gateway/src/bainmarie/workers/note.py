"""What another gateway must know of a ready worker to go on with it: written into the worker's record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bainmarie.workers.launch import Door, LaunchSpec
from bainmarie_protocol import WorkerConfig


@dataclass(frozen=True)
class LastUse:
    """Of one model."""

    at: float
    """Seconds since 1970."""
    keep_alive: float | None = None
    """What the last request wished; None where it left that to the model."""


@dataclass(frozen=True)
class Note:
    """One ready worker, as its gateway knows it."""

    name: str
    """Its first model, for people."""
    worker_key: str
    identity: str
    """Of all that its process depends on (`changes.identity`)."""
    version: str
    """Of bainmarie, for people."""
    protocol: int
    """Which its worker and its shim speak."""
    pid: int
    """The worker's, as the shim said it."""
    socket: str
    port: int
    token: str
    foreign: bool
    """A program that is not our worker."""
    log: str
    environment: str
    loaded_at: str
    load_seconds: float
    info: Mapping[str, object] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    """Models whose adapter is loaded."""
    uses: Mapping[str, LastUse] = field(default_factory=dict)
    """By model; empty where the gateway did not live to tell."""
    busy: bool = False
    """Requests of the gateway that wrote this may still run."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Note:
        """The inverse of `to_json`. TypeError, KeyError, AttributeError for what another release wrote."""
        uses = {name: LastUse(**use) for name, use in data["uses"].items()}
        return Note(**{**data, "adapters": tuple(data["adapters"]), "uses": uses})

    def spec(self) -> LaunchSpec:
        """The start that led to it, as far as it matters to one who only talks with it."""
        config = WorkerConfig(self.name, "", "", (), socket=self.socket, token=self.token)
        door = Door("", self.port) if self.foreign else None
        return LaunchSpec((), {}, config, Path(self.log), Path(), self.environment, door=door)
