"""What adapter_config.json sets, against what the installed peft knows: peft itself only warns and leaves it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bainmarie_protocol.versions import numbers
from bainmarie_worker.errors import LoadError


def refuse_unknown(path: str, settings: Mapping[str, Any]) -> None:
    """LoadError `version_too_old` where a newer peft saved the adapter with settings that this one does not know.

    Settings that are off (null, false, empty) change nothing. What an older peft saved, or says no version, passes.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    saved = str(settings.get("peft_version") or "")
    if numbers(saved) <= numbers(peft.__version__):
        return
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(settings.get("peft_type", "LORA"))
    if kind is None:
        return
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(name for name, value in settings.items() if value and name not in known)
    if unknown:
        raise LoadError(
            "version_too_old",
            f"peft {peft.__version__} does not know {', '.join(unknown)}, which the adapter {path} sets; it was saved "
            f"by peft {saved}",
            f"Put a newer peft into the model's environment: {saved.partition('@')[0]}, or a release after it.",
        )
