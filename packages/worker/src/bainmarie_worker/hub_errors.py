"""What an error of huggingface_hub means: its classes by name, for they moved between its releases."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from bainmarie_worker.errors import LoadError

_UNREACHABLE = ("ConnectError", "ConnectionError", "TimeoutException", "Timeout", "ProxyError", "NetworkError")
"""Of httpx, httpx2 and requests, which its releases use."""


def meaning(model: str, error: BaseException) -> LoadError:
    """LoadError with a code: model_gated, model_not_found, hub_unreachable, disk_full."""
    causes = list(_chain(error))
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    status = next((found for cause in causes if (found := _status(cause))), 0)
    hub = os.environ.get("HF_ENDPOINT") or "the hub"
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return LoadError(
            "disk_full",
            f"{model} cannot be downloaded: the disk of the Hugging Face cache is full",
            "Free some space, or set HF_HOME to another disk.",
        )
    if "GatedRepoError" in names or status == 403:
        return LoadError(
            "model_gated",
            f"{model} is gated on {hub}, and this machine has no access to it",
            "Open its page on the hub and ask for access; then `hf auth login`, or set HF_TOKEN.",
        )
    if "RevisionNotFoundError" in names:
        return LoadError(
            "model_not_found", f"{model} is on {hub}, but its revision `main` is not", "Look at its page on the hub."
        )
    if "RepositoryNotFoundError" in names or status == 401:
        return LoadError(
            "model_not_found",
            f"there is no model {model} on {hub} that this machine may see",
            "Check the name. A private model needs `hf auth login`, or HF_TOKEN.",
        )
    if "OfflineModeIsEnabled" in names:
        return LoadError(
            "model_not_found",
            f"{model} is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch it",
            "Unset HF_HUB_OFFLINE, or give the directory of the model.",
        )
    if status >= 500 or status == 429:
        return LoadError(
            "hub_unreachable", f"{model} cannot be downloaded: {hub} answers {status}", "Try again in a few minutes."
        )
    if names & set(_UNREACHABLE):
        return LoadError(
            "hub_unreachable",
            f"{model} is not in the Hugging Face cache, and {hub} cannot be reached: {_first_line(causes[-1])}",
            "Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, or give the directory of the model.",
        )
    return LoadError(
        "model_not_found",
        f"{model} is neither a directory nor in the Hugging Face cache, and cannot be downloaded: "
        f"{type(error).__name__}: {_first_line(error)}",
        "Check the name, the network (HF_HUB_OFFLINE, HF_ENDPOINT) and, for gated models, `hf auth login`.",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, the outermost first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: Any) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
