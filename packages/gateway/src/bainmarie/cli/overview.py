"""The commands by name, each with its module and its line in `bain --help`.

This module and what it imports must stay small: `bain --help` needs nothing else.
"""

from __future__ import annotations

from typing import NamedTuple


class LazyCommand(NamedTuple):
    """A command that is known without its module."""

    name: str
    module: str
    help: str
    """The first line of the command's own help; a test compares the two."""


class Section(NamedTuple):
    """Commands that stand together in `bain --help`."""

    title: str
    commands: tuple[LazyCommand, ...]


SECTIONS = (
    Section(
        "Ask a model",
        (
            LazyCommand("demo", "demo", "See it work: the demo model answers and uses tools."),
            LazyCommand("chat", "chat", "Talk with a model in the terminal."),
            LazyCommand("run", "run", "Give a model a task and tools to do it with."),
            LazyCommand("generate", "generate", "Print one answer."),
        ),
    ),
    Section(
        "The gateway",
        (
            LazyCommand("up", "up", "Start the gateway."),
            LazyCommand("down", "up", "Stop the gateway."),
            LazyCommand("status", "status", "Show every model's state."),
            LazyCommand("logs", "logs", "Show what a model's worker wrote."),
            LazyCommand("approvals", "approvals", "Decide on tool calls that wait for a person."),
        ),
    ),
    Section(
        "Models",
        (
            LazyCommand("ls", "models", "List the models."),
            LazyCommand("load", "models", "Load models and keep them warm."),
            LazyCommand("unload", "models", "Free the memory of models."),
            LazyCommand("restart", "models", "Stop a model's worker and load it anew."),
            LazyCommand("plan", "plan", "Say what loading a model would take and evict."),
            LazyCommand("test", "smoke", "Prove that models start, answer and call tools."),
        ),
    ),
    Section(
        "Set up",
        (
            LazyCommand("config", "config", "Check and show the configuration."),
            LazyCommand("add", "add", "Add a model to the configuration."),
            LazyCommand("import", "importing", "Turn a file of the old form into a configuration."),
            LazyCommand("env", "env", "See and build the models' environments."),
            LazyCommand("doctor", "doctor", "Look for what could keep models from running."),
        ),
    ),
)

COMMANDS = {command.name: command for section in SECTIONS for command in section.commands}

HEAD = """Usage: bain [OPTIONS] COMMAND [ARGS]...

  Keep local language models warm, each in its own environment.

  bain demo                      see it work
  bain up --detach               start the gateway
  bain generate demo "Hello"     one answer

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit.
"""


def text() -> str:
    """What `bain --help` prints."""
    width = max(len(name) for name in COMMANDS)
    sections = [
        f"{section.title}:\n" + "".join(f"  {name.ljust(width)}  {line}\n" for name, _, line in section.commands)
        for section in SECTIONS
    ]
    return "\n".join([HEAD, *sections]).rstrip("\n")
