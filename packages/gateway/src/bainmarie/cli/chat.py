"""`bain chat`: a conversation in the terminal; from a pipe, one message a line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bainmarie.cli import terminal
from bainmarie.cli.generate import pieces
from bainmarie.cli.options import config_option, given, sampling_options, url_option

if TYPE_CHECKING:
    from bainmarie.cli.client import Client

HELP = "/exit or Ctrl-D leaves, /clear begins anew, Ctrl-C stops an answer."


class Conversation:
    """The messages so far, and the requests that continue them."""

    def __init__(self, client: Client, request: dict[str, Any], system: str | None) -> None:
        self._client = client
        self._request = request
        self._first = [{"role": "system", "content": system}] if system is not None else []
        self.messages: list[dict[str, str]] = list(self._first)

    def clear(self) -> None:
        self.messages = list(self._first)

    def say(self, text: str) -> None:
        """Send one message and print the answer as it comes, on a terminal with the reasoning before it.

        An answer that is interrupted stays in the conversation as far as it came; the interrupt passes through.
        """
        self.messages.append({"role": "user", "content": text})
        answer: list[str] = []
        thoughts: list[str] = []

        def thought(piece: str) -> None:
            if sys.stdout.isatty():
                thoughts.append(piece)
                click.echo(click.style(terminal.visible(piece), dim=True), nl=False, color=terminal.colours(sys.stdout))

        try:
            for piece in pieces(self._client, {**self._request, "messages": self.messages}, thought):
                if thoughts and not answer:
                    click.echo("\n")
                answer.append(piece)
                click.echo(terminal.visible(piece), nl=False)
            click.echo()
        finally:
            if answer:
                self.messages.append({"role": "assistant", "content": "".join(answer)})
            else:
                self.messages.pop()


@click.command()
@click.argument("model", default="demo")
@sampling_options
@config_option
@url_option
def chat(model: str, max_tokens: int | None, temperature: float | None, seed: int | None, system: str | None) -> None:
    """Talk with a model in the terminal.

    MODEL is `demo` where none is given. From a pipe: one message a line.
    """
    from bainmarie.cli.loading import ensure_ready
    from bainmarie.cli.session import gateway_session

    request = {"model": model, **given(max_tokens=max_tokens, temperature=temperature, seed=seed)}
    with gateway_session() as session:
        ensure_ready(session.client, [model])
        conversation = Conversation(session.client, request, system)
        if sys.stdin.isatty():
            terminal.say(f"{model} is ready. {HELP}", dim=True)
            _talk(conversation)
        else:
            for line in sys.stdin:
                if line.strip():
                    conversation.say(line.rstrip("\n"))


def _talk(conversation: Conversation) -> None:
    """Ask for messages until the person leaves."""
    from bainmarie.errors import BainError

    while True:
        try:
            text = _ask().strip()
        except EOFError:
            terminal.say("")
            return
        except KeyboardInterrupt:
            terminal.say(f"\n{HELP}", dim=True)
            continue
        if text == "/exit":
            return
        if text == "/clear":
            conversation.clear()
        elif text.startswith("/"):
            terminal.say(HELP, dim=True)
        elif text:
            try:
                conversation.say(text)
            except KeyboardInterrupt:
                terminal.say("\nstopped", dim=True)
            except BainError as error:
                terminal.show_error(error)


def _ask() -> str:
    import readline  # noqa: F401  gives `input` line editing and history

    return input("\n> ")


COMMANDS = {"chat": chat}
