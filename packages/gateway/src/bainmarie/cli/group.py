"""A click group that imports a command's module only when that command is called."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

import click

from bainmarie import __version__
from bainmarie.cli import overview
from bainmarie.cli.overview import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Sequence


class LazyGroup(click.Group):
    """Lists COMMANDS from the table above; `get_command` imports the one asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = COMMANDS.get(cmd_name)
        if known is None:
            return None
        module = import_module(f"bainmarie.cli.{known.module}")
        command: click.Command = module.COMMANDS[known.name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        return overview.text()


def build() -> click.Group:
    """The root command `bain`."""

    @click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, prog_name="bain", message="%(prog)s %(version)s")
    def bain() -> None:
        """Keep local language models warm, each in its own environment."""

    return bain


def invoke(arguments: Sequence[str]) -> object:
    """Run `bain ARGUMENTS`; what the command raises passes through."""
    return build().main(list(arguments), prog_name="bain", standalone_mode=False)
