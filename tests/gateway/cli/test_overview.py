from __future__ import annotations

import subprocess
import sys

import click
import pytest

from bainmarie.cli import group, overview

HEAVY = ("click", "rich", "pydantic", "httpx2", "starlette", "torch", "asyncio")


@pytest.mark.parametrize("name", overview.COMMANDS)
def test_the_line_in_the_overview_is_the_first_line_of_the_commands_own_help(name: str) -> None:
    command = group.build().get_command(click.Context(group.build()), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == overview.COMMANDS[name].help


@pytest.mark.parametrize("name", overview.COMMANDS)
def test_every_command_explains_itself(home, name: str) -> None:
    told = home.bain(name, "--help")
    assert told.returncode == 0
    assert told.stdout.startswith(f"Usage: bain {name}")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command_on_a_line_that_fits(home, arguments: list[str]) -> None:
    told = home.bain(*arguments)
    assert told.returncode == 0
    lines = told.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [name for name in overview.COMMANDS if not any(line.startswith(f"  {name} ") for line in lines)] == []


def test_help_imports_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; sys.argv[1:] = ['--help']; from bainmarie.cli import main; main();"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stderr.strip() == "[]"


def test_an_unknown_command_names_the_nearest_one(home) -> None:
    told = home.bain("statsu")
    assert told.returncode == 2
    assert "there is no command 'statsu'. Did you mean 'status'?" in told.stderr


def test_commands_that_are_not_there_yet_are_not_listed() -> None:
    assert "why" not in overview.COMMANDS


def test_the_version_is_told(home) -> None:
    from bainmarie import __version__

    assert home.bain("--version").stdout == f"bain {__version__}\n"
