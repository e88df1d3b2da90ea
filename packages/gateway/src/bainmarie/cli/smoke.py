"""`bain test`: the smoke test of a model, through the gateway as any client would use it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import click

from bainmarie.cli import terminal
from bainmarie.cli.generate import CHAT, pieces, text_of
from bainmarie.cli.options import config_option, json_option, url_option
from bainmarie.errors import BainError, SmokeTestFailed

if TYPE_CHECKING:
    from bainmarie.cli.client import Client

Outcome = Literal["passed", "failed", "not applicable"]
MARKS = {"passed": ("ok", "green"), "failed": ("FAILED", "red"), "not applicable": ("-", "dim")}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Work out an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
GREETING, SUM = "Hello", "What is 173 * 29?"


class CheckFailed(Exception):
    """What a check found wrong, for the table."""


class NotApplicable(Exception):
    """Why a check says nothing about this model."""


@dataclass(frozen=True)
class Row:
    """One check of one model."""

    check: str
    outcome: Outcome
    detail: str
    seconds: float


@dataclass
class SmokeTest:
    """The checks of one model in order; what one learns, the next ones use."""

    client: Client
    model: str
    plain: bool
    """Served without a chat template, so without tools."""
    rows: list[Row] = field(default_factory=list)
    _first: dict[str, Any] = field(default_factory=dict)
    _answer: str = ""

    def run(self) -> list[Row]:
        """All checks; where the model does not even start, only that one."""
        self._check("starts", self.starts)
        if self.rows[-1].outcome == "passed":
            for name, check in (
                ("answers", self.answers),
                ("stays loaded", self.stays_loaded),
                ("streams the same", self.streams),
                ("calls a tool", self.calls_a_tool),
            ):
                self._check(name, check)
        return self.rows

    def starts(self) -> str:
        from bainmarie.cli.loading import ensure_ready

        ensure_ready(self.client, [self.model])
        self._first = self._status()
        return describe(self._first.get("info") or {})

    def answers(self) -> str:
        self._answer = text_of(self.client.post(CHAT, self._body(GREETING)))
        if not self._answer.strip():
            raise CheckFailed("the answer is empty")
        return terminal.visible(terminal.shorten(self._answer, 60))

    def stays_loaded(self) -> str:
        again = text_of(self.client.post(CHAT, self._body(GREETING)))
        now = self._status()
        if now["pid"] != self._first["pid"]:
            raise CheckFailed(f"another process answers: pid {self._first['pid']}, then {now['pid']}")
        if now["restarts"] != self._first["restarts"]:
            raise CheckFailed(f"the worker restarted {now['restarts'] - self._first['restarts']} times")
        loads = (now.get("info") or {}).get("loads", 1)
        if loads != 1:
            raise CheckFailed(f"the weights were loaded {loads} times")
        if again != self._answer:
            raise CheckFailed("the second answer at temperature 0 is another one")
        return f"pid {now['pid']}, loaded once"

    def streams(self) -> str:
        parts = list(pieces(self.client, self._body(GREETING)))
        if "".join(parts) != self._answer:
            raise CheckFailed(f"streamed {terminal.shorten(''.join(parts), 60)!r}")
        return f"{len(parts)} pieces"

    def calls_a_tool(self) -> str:
        if self.plain:
            raise NotApplicable("prompt: plain has no chat template")
        answer = self.client.post(CHAT, {**self._body(SUM), "tools": [CALCULATOR]})
        calls = answer["choices"][0]["message"].get("tool_calls") or []
        if not calls:
            raise CheckFailed(f"no call, but: {terminal.shorten(text_of(answer), 60)!r}")
        function = calls[0]["function"]
        if function["name"] != "calculator":
            raise CheckFailed(f"it called {function['name']!r}")
        return terminal.visible(f"calculator({terminal.shorten(function['arguments'], 60)})")

    def _check(self, name: str, check: Callable[[], str]) -> None:
        begin = monotonic()
        outcome: Outcome = "passed"
        try:
            detail = check()
        except CheckFailed as failed:
            outcome, detail = "failed", str(failed)
        except NotApplicable as reason:
            outcome, detail = "not applicable", str(reason)
        except BainError as error:
            outcome, detail = "failed", error.message + (f" ({error.hint})" if error.hint else "")
        self.rows.append(Row(name, outcome, detail, round(monotonic() - begin, 3)))

    def _body(self, text: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 64,
        }

    def _status(self) -> dict[str, Any]:
        models = self.client.get("/api/status")["models"]
        found: dict[str, Any] = next(model for model in models if model["id"] == self.model)
        return found


def describe(info: dict[str, Any]) -> str:
    """Versions and interpreter that the worker reports."""
    packages = info.get("packages") or {}
    named = [f"{name} {packages[name]}" for name in ("transformers", "torch", "peft") if name in packages]
    python = [f"Python {info['python']}"] if info.get("python") else []
    interpreter = [str(info["interpreter"])] if info.get("interpreter") else []
    return ", ".join([*named, *python, *interpreter]) or "ready"


@click.command("test")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@json_option
@config_option
@url_option
def test(models: tuple[str, ...], as_json: bool) -> None:
    """Prove that models start, answer and call tools.

    Each is loaded, asked twice, asked again as a stream, and given a calculator. Exit code 8 if a check fails.
    """
    from bainmarie.cli.place import configuration
    from bainmarie.cli.session import gateway_session
    from bainmarie.errors import NotFound

    plain = {spec.name for spec in configuration().catalog() if spec.prompt == "plain"}
    results: dict[str, list[Row]] = {}
    with gateway_session() as session:
        known = {model["id"]: model for model in session.client.get("/api/status")["models"]}
        for model in models:
            if model not in known:
                raise NotFound(f"there is no model {model!r}", hint=f"Known models: {', '.join(sorted(known))}.")
        for model in models:
            results[model] = SmokeTest(session.client, model, model in plain).run()
    failed = [name for name, rows in results.items() if any(row.outcome == "failed" for row in rows)]
    if as_json:
        told = {name: [asdict(row) for row in rows] for name, rows in results.items()}
        terminal.print_json({"passed": not failed, "models": told})
    else:
        _draw(results)
    if failed:
        raise SmokeTestFailed(f"the smoke test failed for {', '.join(failed)}", hint="See bain logs MODEL.")


def _draw(results: dict[str, list[Row]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "check", "", "time", "found"):
        table.add_column(column, justify="right" if column == "time" else "left", no_wrap=column != "found")
    for model, rows in results.items():
        for index, row in enumerate(rows):
            mark, style = MARKS[row.outcome]
            table.add_row(
                Text(model if index == 0 else "", style="bold"),
                row.check,
                Text(mark, style=style),
                terminal.duration(row.seconds),
                row.detail,
            )
    terminal.console(sys.stdout).print(table)


COMMANDS = {"test": test}
