"""A run on the gateway, watched to its end: its events go to callbacks, its approvals are answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bainmarie.cli.asking import Decision
from bainmarie.cli.client import Client
from bainmarie.errors import ApprovalFailed, GatewayUnreachable

Decide = Callable[[str, Mapping[str, Any]], Decision]


def nothing(_: Any) -> None:
    """For events that nobody looks at."""


@dataclass(frozen=True)
class Watcher:
    """What is done with a run's events, in the order in which they come. A callback that raises cancels the run."""

    decide: Decide
    item: Callable[[dict[str, Any]], None] = nothing
    delta: Callable[[str], None] = nothing
    thought: Callable[[str], None] = nothing
    status: Callable[[dict[str, Any]], None] = nothing


def watch_run(client: Client, request: Mapping[str, Any], watcher: Watcher) -> dict[str, Any]:
    """Start a run and stay with it. Returns its `done` event.

    Leaving early, by an exception or Ctrl-C, closes the stream and so cancels the run.
    """
    body = {**request, "interactive": True, "stream": True}
    with client.events("POST", "/api/runs", body) as stream:
        for event in stream:
            if event.name == "item":
                watcher.item(event.data)
            elif event.name == "delta":
                watcher.delta(str(event.data.get("text", "")))
                watcher.thought(str(event.data.get("reasoning", "")))
            elif event.name == "status":
                watcher.status(event.data)
            elif event.name == "approval":
                _answer(client, event.data, watcher.decide)
            elif event.name == "done":
                return event.data
    raise GatewayUnreachable("the run's stream ended before the run", hint="See bain status.")


def _answer(client: Client, request: Mapping[str, Any], decide: Decide) -> None:
    decision = decide(str(request["tool"]), arguments_of(request["arguments"]))
    try:
        seen = {"arguments_hash": request["arguments_hash"]}
        client.post(f"/api/approvals/{request['id']}", {**decision.to_json(), **seen})
    except ApprovalFailed as error:
        if error.code != "approval_decided":  # Somebody decided elsewhere: that stands.
            raise


def arguments_of(arguments: object) -> dict[str, Any]:
    """A call's arguments, which may be JSON text or not even that."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return {"arguments": arguments}
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}
