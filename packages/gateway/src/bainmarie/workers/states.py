"""The states of a worker and the moves between them.

unloaded ──▶ preparing ──▶ starting ──▶ loading ──▶ ready ──▶ stopping ──▶ unloaded
            (environment)  (process)   (weights)
preparing, starting, loading          ──▶ stopping   asked to stop on the way
preparing, starting, loading, ready   ──▶ failed     cause, hint, log tail, time of the next try
failed                                ──▶ preparing  a request after that time, or a manual load
failed                                ──▶ unloaded   a manual unload forgets the failure
unloaded                              ──▶ ready      the process of a former gateway is adopted
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    UNLOADED = "unloaded"
    PREPARING = "preparing"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


ON_THE_WAY = (State.PREPARING, State.STARTING, State.LOADING)
MOVES = {
    State.UNLOADED: {State.PREPARING, State.READY},
    State.PREPARING: {State.STARTING, State.STOPPING, State.FAILED},
    State.STARTING: {State.LOADING, State.STOPPING, State.FAILED},
    State.LOADING: {State.READY, State.STOPPING, State.FAILED},
    State.READY: {State.STOPPING, State.FAILED},
    State.STOPPING: {State.UNLOADED},
    State.FAILED: {State.PREPARING, State.UNLOADED},
}
