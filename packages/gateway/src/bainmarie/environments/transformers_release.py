"""Which transformers a model gets in `environment: auto`, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bainmarie.catalog import ModelSpec
from bainmarie.environments.families import first_release, last_release, plain_torch_since
from bainmarie.environments.needs import OLDEST_TRANSFORMERS, TRANSFORMERS
from bainmarie.environments.spec import Reason
from bainmarie.environments.versions import unreleased
from bainmarie_protocol.versions import numbers

_TESTED = f"transformers=={TRANSFORMERS}"


def transformers_reasons(base: ModelSpec, directory: Path | None, config: Mapping[str, object]) -> Iterator[Reason]:
    """One requirement first, then remarks about it."""
    if directory is None:
        why = f"{base.model} is not in the cache yet, so its files say nothing: the newest tested release"
        yield Reason(_TESTED, why, "bainmarie")
        return
    kind = str(config.get("model_type") or "")
    saved_with = str(config.get("transformers_version") or "")
    if not kind:
        yield Reason(_TESTED, f"{directory} says no model_type: the newest tested release", "config.json")
    elif base.trust_remote_code and "auto_map" in config:
        yield from _own_code(kind, saved_with)
    else:
        yield _native(kind, saved_with, own_code="auto_map" in config)
        yield from _recurrent(kind)


def _own_code(kind: str, saved_with: str) -> Iterator[Reason]:
    """Code that comes with a model is bound to the releases of its time, ours are not."""
    written, oldest, tested = numbers(saved_with)[:2], numbers(OLDEST_TRANSFORMERS), numbers(TRANSFORMERS)
    release = ".".join(map(str, max(written, oldest)))
    if not written:
        why = "the model's own code runs and does not say for which release it was written: the newest tested one"
        yield Reason(_TESTED, why, "config.json")
    elif written > tested:
        why = f"the model's own code was written for transformers {saved_with}"
        yield _newer(saved_with, release, why)
    elif written < oldest:
        why = f"the model's own code was written for transformers {saved_with}; {release} is the oldest that fits torch"
        yield Reason(f"transformers=={release}.*", why, "config.json")
    else:
        why = f"the model's own code was written for transformers {saved_with}"
        yield Reason(f"transformers=={release}.*", why, "config.json")
    if since := first_release(kind):
        remark = f"transformers knows {kind} by itself since {since}: `trust_remote_code: false` would use that instead"
        yield Reason("", remark, "config.json")


def _native(kind: str, saved_with: str, *, own_code: bool) -> Reason:
    since, last = first_release(kind), last_release(kind)
    saved = numbers(saved_with)
    if last:
        why = f"model_type {kind}: {last} is the last release that knows it"
        return Reason(f"transformers=={last}.*", why, "config.json")
    if saved > numbers(TRANSFORMERS):
        why = f"model_type {kind}, saved with transformers {saved_with}, which is newer than the tested release"
        return _newer(saved_with, ".".join(map(str, saved)), why)
    if since:
        known = f"model_type {kind}, known since {since}" if since != "4.30" else f"model_type {kind}"
        return Reason(_TESTED, f"{known}; the newest tested release reads what earlier ones wrote", "config.json")
    if own_code:
        why = f"only the model's own code knows model_type {kind}, and it may not run: set `trust_remote_code: true`"
        return Reason(_TESTED, why, "config.json")
    why = f"no release up to {TRANSFORMERS} is known to generate text with model_type {kind}: the newest there is"
    return Reason(f"transformers>={TRANSFORMERS}", why, "config.json")


def _newer(saved_with: str, release: str, why: str) -> Reason:
    """At least that release; for one that may not be out yet, the newest there is."""
    if unreleased(saved_with):
        return Reason(
            f"transformers>={TRANSFORMERS}", f"{why} and may not be out yet: the newest there is", "config.json"
        )
    return Reason(f"transformers>={release}", why, "config.json")


def _recurrent(kind: str) -> Iterator[Reason]:
    if since := plain_torch_since(kind):
        why = f"no compiled kernels (mamba-ssm, causal-conv1d): transformers runs {kind} without them since {since}"
        yield Reason("", why, "config.json")
