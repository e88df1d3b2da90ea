"""Load models and show how that goes: bars on a terminal, a line for each step without one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from bainmarie.cli import terminal
from bainmarie.cli.stages import StageClock, stage_of
from bainmarie.errors import BainError, GatewayUnreachable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from bainmarie.cli.client import Client

READY, FAILED = "ready", "failed"


class LoadView(Protocol):
    """Shows models on their way."""

    def show(self, status: dict[str, Any], clock: StageClock) -> None:
        """One status, after `clock` has seen it."""


@dataclass(frozen=True)
class Loaded:
    """How the load of one model ended."""

    name: str
    clock: StageClock
    error: BainError | None = None


def ensure_ready(client: Client, names: Sequence[str]) -> list[Loaded]:
    """Load `names` with progress on stderr; models that are ready already cost one status call and show nothing.

    Raises the first failure when all have ended.
    """
    loads = load(client, names)
    for loaded in loads:
        if loaded.error is not None:
            raise loaded.error
    return loads


def load(client: Client, names: Sequence[str]) -> list[Loaded]:
    """As `ensure_ready`, with the failures in the result."""
    ready = {status["id"] for status in client.get("/api/status")["models"] if status["state"] == READY}
    if ready.issuperset(names):
        return [Loaded(name, StageClock()) for name in names]
    with load_view() as view:
        return follow_load(client, names, view)


def follow_load(client: Client, names: Sequence[str], view: LoadView) -> list[Loaded]:
    """Ask the gateway to load `names` and return when each is ready or has failed."""
    news: SimpleQueue[_News] = SimpleQueue()
    clocks = {name: StageClock() for name in names}
    ended: dict[str, Loaded] = {}
    with watching(client, news):
        for name in clocks:
            threading.Thread(target=_post_load, args=(client, name, news), daemon=True).start()
        while len(ended) < len(clocks):
            told = news.get()
            if told.status and (clock := clocks.get(told.status["id"])):
                clock.see(told.status)
                view.show(told.status, clock)
            if told.over:
                ended[told.name] = Loaded(told.name, clocks[told.name], told.error)
            elif told.error is not None:
                for name in set(clocks) - set(ended):
                    ended[name] = Loaded(name, clocks[name], told.error)
    return [ended[name] for name in names]


@dataclass(frozen=True)
class _News:
    """What a thread tells: a status; that the load of `name` is over; or that nothing more can be told."""

    status: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    over: bool = False
    error: BainError | None = None


@contextmanager
def watching(client: Client, news: SimpleQueue[_News]) -> Iterator[None]:
    """Model events go to `news` from the moment the block is entered, and end with it."""
    with client.events("GET", "/api/events") as stream:
        leaving = threading.Event()

        def pump() -> None:
            try:
                for event in stream:
                    if event.name == "model":
                        news.put(_News(event.data))
                gone: BainError = GatewayUnreachable("the gateway stopped", hint="See bain status.")
            except BainError as error:
                gone = error
            if not leaving.is_set():
                news.put(_News(error=gone))

        thread = threading.Thread(target=pump, daemon=True)
        thread.start()
        try:
            yield
        finally:
            leaving.set()
            stream.abort()
            thread.join()


def _post_load(client: Client, name: str, news: SimpleQueue[_News]) -> None:
    """Ask for one model and tell how that ended, after all that was told of it on the way."""
    error: BainError | None = None
    status: dict[str, Any] = {}
    try:
        client.post("/models/load", {"model": name, "wait": True})
        status = next(s for s in client.get("/api/status")["models"] if s["id"] == name)
    except BainError as failed:
        error = failed
    news.put(_News(status, name, True, error))


@contextmanager
def load_view() -> Iterator[LoadView]:
    """Bars where stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("[bold]{task.fields[model]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
        console=terminal.console(sys.stderr),
        transient=True,
    )
    with progress:
        yield Bars(progress)


@dataclass
class Lines:
    """One line for each stage."""

    last: dict[str, str] = field(default_factory=dict)

    def show(self, status: dict[str, Any], clock: StageClock) -> None:
        line = _line(status, clock)
        if line and self.last.get(status["id"]) != line:
            self.last[status["id"]] = line
            terminal.say(f"{status['id']}: {line}")


@dataclass
class Bars:
    """One bar for each model; a finished one becomes a line above them."""

    progress: Any
    tasks: dict[str, TaskID] = field(default_factory=dict)

    def show(self, status: dict[str, Any], clock: StageClock) -> None:
        name, stage = status["id"], stage_of(status)
        told = status.get("progress") or {}
        if stage:
            if name not in self.tasks:
                self.tasks[name] = self.progress.add_task("", model=name, detail="", total=None)
            fraction = told.get("fraction")
            self.progress.update(
                self.tasks[name],
                description=stage,
                total=None if fraction is None else 1.0,
                completed=fraction or 0.0,
                detail=terminal.shorten(str(told.get("detail") or ""), 40),
            )
        elif name in self.tasks and (line := _line(status, clock)):
            self.progress.console.print(f"{name}: {line}", style="green" if status["state"] == READY else "")
            self.progress.remove_task(self.tasks.pop(name))


def _line(status: dict[str, Any], clock: StageClock) -> str:
    stage = stage_of(status)
    if stage:
        return stage
    if status["state"] == READY:
        return f"ready after {terminal.duration(clock.total)}" if clock.total else "ready"
    return "failed" if status["state"] == FAILED else ""
