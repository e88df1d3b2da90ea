"""Load, then one small answer before anybody asks: the first request shall not pay for what is made on first use."""

from __future__ import annotations

import threading

from bainmarie_protocol import Progress, WorkerConfig
from bainmarie_worker.engine.engine import Report, Runner
from bainmarie_worker.engine.sequence import Sequence
from bainmarie_worker.loading import load

_TOKENS = 3


def load_and_warm(config: WorkerConfig, report: Report) -> Runner:
    """On the engine's thread. LoadError from the load, or whatever the first forward pass raises."""
    loaded = load(config, report)
    from bainmarie_worker.engine.runner import TransformersRunner

    report(Progress("warmup"))
    runner = TransformersRunner(loaded)
    prompt = runner.tokenizer.encode("Hello", special=True) or [0]
    runner.generate(Sequence(tuple(prompt), _TOKENS), lambda token: None, threading.Event())
    runner.tokenizer.warm()
    return runner
