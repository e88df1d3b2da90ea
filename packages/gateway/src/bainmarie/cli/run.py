"""`bain run`: a task, a model, and tools to do it with."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bainmarie.cli import asking, terminal
from bainmarie.cli.answers import error_from
from bainmarie.cli.options import config_option, given, json_option, sampling_options, url_option

INTERRUPTED = 130
UNDECIDED = 9
ALLOW_HINT = "Allow a tool with --allow TOOL, or all of them with --yes."


@click.command()
@click.argument("model")
@click.argument("prompt")
@click.option("--allow", multiple=True, metavar="TOOL", help="Call it without a question. Can be given again.")
@click.option("--deny", multiple=True, metavar="TOOL", help="Never call it. Can be given again.")
@click.option("--yes", is_flag=True, help="Call without a question whatever the configuration does not forbid.")
@click.option(
    "--workspace",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Folder that the file tools may touch. [default: the current one]",
)
@click.option("--tool", "tools", multiple=True, metavar="TOOL", help="Offer only these tools.")
@click.option("--max-iterations", type=click.IntRange(min=1), help="Turns of the model at most.")
@sampling_options
@json_option
@config_option
@url_option
def run(
    model: str,
    prompt: str,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    yes: bool,
    workspace: Path | None,
    tools: tuple[str, ...],
    max_iterations: int | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    system: str | None,
    as_json: bool,
) -> int:
    """Give a model a task and tools to do it with.

    PROMPT `-` is read from stdin. Calls that need approval are asked about in the terminal; without a terminal
    they are denied.
    """
    from bainmarie.cli.loading import ensure_ready
    from bainmarie.cli.runs import Watcher, watch_run
    from bainmarie.cli.session import gateway_session
    from bainmarie.cli.transcript import Transcript

    rules = [{"tool": tool, "action": "deny"} for tool in deny] + [{"tool": tool, "action": "allow"} for tool in allow]
    request = {
        "model": model,
        "prompt": sys.stdin.read() if prompt == "-" else prompt,
        "workspace": str((workspace or Path(os.getcwd())).resolve()),
        **({"rules": rules} if rules else {}),
        **({"tools": list(tools)} if tools else {}),
        **({"approval": "allow"} if yes else {}),
        **given(
            max_iterations=max_iterations,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            system_prompt=system,
        ),
    }
    transcript = Transcript(text=None if as_json else sys.stdout, calls=sys.stderr)
    with gateway_session() as session:
        ensure_ready(session.client, [model])
        done = watch_run(
            session.client, request, Watcher(ask_or_deny, transcript.item, transcript.delta, transcript.thought)
        )
    transcript.end_line()
    if as_json:
        terminal.print_json(done)
    return outcome(done)


def ask_or_deny(tool: str, arguments: Mapping[str, Any]) -> asking.Decision:
    """The question in the terminal; without one a no, said on stderr."""
    if asking.can_ask():
        return asking.decide(tool, arguments)
    terminal.say(f"denied {tool}: it needs approval and there is no terminal to ask on. {ALLOW_HINT}")
    return asking.Decision(False)


def outcome(done: Mapping[str, Any]) -> int:
    """The exit code of a run that ended, after saying why where it did not end with an answer."""
    status = done["status"]
    if status == "failed":
        raise error_from(done.get("error") or {}, 500)
    if status in ("cancelled", "interrupted"):
        terminal.say(f"the run was {status} on the gateway")
        return INTERRUPTED
    if status in ("all_denied", "requires_action"):
        terminal.say("the run ended: every call of a turn was denied")
        return UNDECIDED
    if status == "max_iterations":
        terminal.say("the run ended at its limit of turns; --max-iterations raises it")
    return 0


COMMANDS = {"run": run}
