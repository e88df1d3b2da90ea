"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """`--config FILE`. It is put into BAIN_CONFIG, so that a gateway started by this command reads it as well."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_take_config,
        help="Configuration file. [default: BAIN_CONFIG, ./bain.yaml, BAIN_HOME/bain.yaml]",
    )(command)


def url_option(command: F) -> F:
    """`--url URL`: the gateway to ask, instead of the one of this home."""
    return click.option(
        "--url",
        metavar="URL",
        expose_value=False,
        callback=_take_url,
        help="Gateway to ask. [default: BAIN_URL, or the one that runs on BAIN_HOME]",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def sampling_options(command: F) -> F:
    """How an answer is sampled; what is not given is the model's own default."""
    for option in reversed(
        (
            click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens."),
            click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token."),
            click.option("--seed", type=int, help="Same seed, same answer."),
            click.option("--system", metavar="TEXT", help="System prompt."),
        )
    ):
        command = option(command)
    return command


def given(**values: object) -> dict[str, Any]:
    """Those of `values` that were given: a request says nothing about the others."""
    return {name: value for name, value in values.items() if value is not None}


def _take_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        os.environ["BAIN_CONFIG"] = str(value.absolute())


def _take_url(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ["BAIN_URL"] = value
