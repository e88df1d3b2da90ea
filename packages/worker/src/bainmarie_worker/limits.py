"""What the installed transformers is too old for: told in the model's info, never a crash."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect


def library_limits() -> list[str]:
    """One line for each thing that this environment's transformers lacks, found by looking and not by its number."""
    from transformers import DynamicCache

    lacking = []
    if "config" not in inspect.signature(DynamicCache.__init__).parameters:
        lacking.append("sliding windows are not kept apart: such models hold every token, or run through generate()")
    if not hasattr(DynamicCache, "crop"):
        lacking.append("a conversation that another one branches from is computed anew: caches cannot be cut")
    if not hasattr(DynamicCache, "has_previous_state"):
        lacking.append("recurrent and hybrid models run through generate(), which computes every turn anew")
    if importlib.util.find_spec("transformers.core_model_loading") is None:
        lacking.append("weights in one file load without steps of progress between the first byte and the last")
    version = importlib.metadata.version("transformers")
    return [f"transformers {version}: {lack}" for lack in lacking]
