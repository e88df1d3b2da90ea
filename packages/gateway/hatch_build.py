"""Puts the worker's source and the demo models into the wheel; an editable install reads them from the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CARRIED = {
    "packages/worker/src/bainmarie_worker": "bainmarie/_carried/worker/bainmarie_worker",
    "packages/protocol/src/bainmarie_protocol": "bainmarie/_carried/worker/bainmarie_protocol",
    "models/demo": "bainmarie/_carried/models/demo",
    "models/demo-pirate": "bainmarie/_carried/models/demo-pirate",
    "models/demo-pirate-merged": "bainmarie/_carried/models/demo-pirate-merged",
}


class CarriedFiles(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        checkout = Path(self.root).parents[1]
        build_data["force_include"].update({str(checkout / source): target for source, target in CARRIED.items()})
