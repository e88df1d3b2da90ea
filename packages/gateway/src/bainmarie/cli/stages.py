"""How long each step of a load took, from the states and stages that the gateway reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

STAGES = {
    "resolve": "environment: resolve",
    "download": "environment: download",
    "install": "environment: install",
    "preflight": "environment: preflight",
    "preparing": "environment",
    "starting": "process",
    "process": "process",
    "imports": "imports",
    "config": "model configuration",
    "weights": "weights",
    "pack": "quantizing",
    "adapter": "adapter",
    "warmup": "warm-up",
    "loading": "load",
}
"""Stage, or state where no stage is told, -> what a person reads. Stages not named here are shown as they are."""

MOVING = ("preparing", "starting", "loading")


def stage_of(status: dict[str, Any]) -> str:
    """What a model is busy with, for a person; empty where it is not on its way."""
    if status.get("state") not in MOVING:
        return ""
    stage = (status.get("progress") or {}).get("stage") or status["state"]
    return STAGES.get(stage, str(stage))


@dataclass
class StageClock:
    """Adds up the time of each stage of one model."""

    now: Callable[[], float] = monotonic
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds, in the order in which they came."""
    _stage: str = ""
    _since: float = 0.0

    def see(self, status: dict[str, Any]) -> bool:
        """Take one status. True if the model moved on to another stage."""
        stage = stage_of(status)
        if stage == self._stage:
            return False
        moment = self.now()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + moment - self._since
        self._stage, self._since = stage, moment
        return True

    @property
    def total(self) -> float:
        return sum(self.seconds.values())
