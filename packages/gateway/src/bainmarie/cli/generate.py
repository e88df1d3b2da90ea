"""`bain generate`: one answer on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from bainmarie.cli import terminal
from bainmarie.cli.options import config_option, given, json_option, sampling_options, url_option

if TYPE_CHECKING:
    from bainmarie.cli.client import Client

CHAT = "/v1/chat/completions"


@click.command()
@click.argument("model")
@click.argument("prompt")
@sampling_options
@click.option("--stream", is_flag=True, help="Print the text as it comes.")
@json_option
@config_option
@url_option
def generate(
    model: str,
    prompt: str,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    system: str | None,
    stream: bool,
    as_json: bool,
) -> None:
    """Print one answer.

    PROMPT `-` is read from stdin. Starts a gateway for this one call where none runs.
    """
    from bainmarie.cli.loading import ensure_ready
    from bainmarie.cli.session import gateway_session

    if stream and as_json:
        raise click.UsageError("--stream and --json exclude each other")
    if prompt == "-":
        prompt = sys.stdin.read()
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    body = {
        "model": model,
        "messages": messages,
        **given(max_tokens=max_tokens, temperature=temperature, seed=seed),
    }
    with gateway_session() as session:
        if session.started:
            terminal.say("started a gateway for this call; `bain up --detach` keeps the model warm", dim=True)
        ensure_ready(session.client, [model])
        if stream:
            for text in pieces(session.client, body):
                click.echo(text, nl=False)
            click.echo()
            return
        answer = session.client.post(CHAT, body)
    if as_json:
        terminal.print_json(answer)
    else:
        click.echo(text_of(answer))


def pieces(client: Client, body: dict[str, Any], thought: Callable[[str], None] = lambda text: None) -> Iterator[str]:
    """The texts of a streamed chat answer, as they come; `thought` is given the reasoning before them."""
    with client.events("POST", CHAT, {**body, "stream": True}) as stream:
        for event in stream:
            for choice in event.data.get("choices", []):
                delta = choice.get("delta", {})
                if reasoning := delta.get("reasoning_content"):
                    thought(reasoning)
                if text := delta.get("content"):
                    yield text


def text_of(answer: dict[str, Any]) -> str:
    """The text of a chat answer that was not streamed."""
    return answer["choices"][0]["message"].get("content") or ""


COMMANDS = {"generate": generate}
