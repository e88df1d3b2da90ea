"""bainmarie: many local language models, each warm in its own environment, behind one gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bainmarie.inference import (
        InferenceConfig,
        ToolEnabledInferenceConfig,
        run_inference,
        run_inference_with_tools,
    )

__all__ = [
    "InferenceConfig",
    "ToolEnabledInferenceConfig",
    "__version__",
    "run_inference",
    "run_inference_with_tools",
]


def __getattr__(name: str) -> object:
    """The Python interface is imported on first use, so that `bain --help` stays quick."""
    if name in __all__:
        from bainmarie import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'bainmarie' has no attribute {name!r}")
