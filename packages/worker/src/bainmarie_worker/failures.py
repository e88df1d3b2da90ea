"""What an error of the libraries means, as one of the worker's own."""

from __future__ import annotations

from collections.abc import Iterator

from bainmarie_protocol import WorkerConfig
from bainmarie_worker.consent import remote_code
from bainmarie_worker.errors import LoadError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was the cause, of the accelerator or of the machine."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that led to it: transformers 4 wraps what torch says of a pickle."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def classified(error: Exception, config: WorkerConfig) -> LoadError:
    """What transformers' error means. The full trace is in the log."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if is_out_of_memory(error):
        return LoadError(
            "out_of_memory",
            f"{config.model} does not fit into memory: {first}",
            "Load it with quantization, choose another device, or unload other models.",
        )
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        hint = f"Add {name} to the packages of the model's environment." if name else "Add the package it names."
        return LoadError("package_missing", f"{config.model} needs a package that is not there: {error}", hint)
    if "trust_remote_code" in str(error):
        return remote_code(config.model)
    if any("weights_only" in str(part).lower() or "Unpickl" in type(part).__name__ for part in _with_causes(error)):
        return LoadError(
            "pickled_weights",
            f"{config.model} has pickled weights that hold more than tensors: {first}",
            "torch reads no code from pickles, not even with `allow_pickle`. Convert the file where you trust it.",
        )
    return LoadError(
        "load_failed",
        f"{config.model} cannot be loaded: {type(error).__name__}: {first}",
        "The log has the whole trace: `bain logs`.",
    )
