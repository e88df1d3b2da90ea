"""May this machine fetch a model from the hub? Asked before an environment is built for it.

As the hub has it: HEAD of a file answers 200 or a redirect where it may be fetched; else 401, 403 or 404 with the
header X-Error-Code (GatedRepo, RepoNotFound, RevisionNotFound, EntryNotFound).
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from bainmarie.catalog import ModelSpec
from bainmarie.environments.model_files import is_hub_id, model_directory
from bainmarie.errors import LoadFailed

_LIMIT = 10.0
"""Seconds. A hub that does not answer in time is left to the worker, which tries longer."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def check_hub_access(spec: ModelSpec, environ: Mapping[str, str]) -> None:
    """LoadFailed (model_gated, model_not_found) where the hub refuses a model that is not in the cache yet.

    What is in the cache, or is no hub id, is not asked for. Nothing happens where the hub cannot be reached.
    """
    if spec.engine != "transformers" or not is_hub_id(spec.model) or model_directory(spec.model, environ) is not None:
        return
    for name in _OFFLINE:
        if environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise LoadFailed(
                f"model {spec.name!r}: {spec.model} is not in the Hugging Face cache, and {name} forbids to fetch it",
                hint=f"Unset {name}, or give the folder of the model: `models: {spec.name}: model:`.",
                code="model_not_found",
            )
    token = _token(environ)
    try:
        status, error = _head(environ.get("HF_ENDPOINT") or "https://huggingface.co", spec.model, token)
    except (OSError, http.client.HTTPException):
        return  # no network, or not now: the worker tries with patience and says so
    if status in (401, 403, 404):
        raise _refused(spec, status, error, bool(token))


def _refused(spec: ModelSpec, status: int, error: str, has_token: bool) -> LoadFailed:
    if error == "GatedRepo" or status == 403:
        login = "the account of your token must ask for access there" if has_token else "ask for access there, then"
        return LoadFailed(
            f"model {spec.name!r}: {spec.model} is gated on the hub, and this machine has no access to it",
            hint=f"Open its page on the hub: {login} `hf auth login` (or set HF_TOKEN).",
            code="model_gated",
        )
    if error == "EntryNotFound":
        text, hint = f"{spec.model} on the hub has no config.json", "Give a model in the Hugging Face format."
    elif error == "RevisionNotFound":
        text, hint = f"{spec.model} is on the hub, but its revision `main` is not", "Look at its page on the hub."
    else:
        text = f"there is no model {spec.model} on the hub that this machine may see"
        hint = f"Check `models: {spec.name}: model:`. A private one needs `hf auth login` or HF_TOKEN."
    return LoadFailed(f"model {spec.name!r}: {text}", hint=hint, code="model_not_found")


def _head(endpoint: str, model: str, token: str) -> tuple[int, str]:
    """Status and X-Error-Code. Redirects are not followed: the token is for the hub alone."""
    place = urlsplit(endpoint)
    kind = http.client.HTTPConnection if place.scheme == "http" else http.client.HTTPSConnection
    connection = kind(place.netloc, timeout=_LIMIT)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("HEAD", f"{place.path.rstrip('/')}/{quote(model)}/resolve/main/config.json", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("X-Error-Code") or ""
    finally:
        connection.close()


def _token(environ: Mapping[str, str]) -> str:
    """As huggingface_hub finds it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(name):
            return environ[name].strip()
    home = environ.get("HF_HOME") or str(
        Path(environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '~')}/.cache") / "huggingface"
    )
    try:
        return Path(environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
