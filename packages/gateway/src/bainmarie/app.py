"""The gateway's parts, joined: the only file that knows all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware

from bainmarie.agent.policy import Rule, ToolSettings
from bainmarie.agent.runs import Runs
from bainmarie.agent.worker_chat import WorkerModels
from bainmarie.api import generate, openai, operations, page, plan, residency, runs
from bainmarie.api.errors import EXCEPTION_HANDLERS
from bainmarie.api.guard import Guard
from bainmarie.api.parts import GatewayInfo, Parts
from bainmarie.environments.store import EnvironmentStore
from bainmarie.environments.worker_packages import carried_packages
from bainmarie.events import EventBus
from bainmarie.reload import Reload
from bainmarie.settings import Settings
from bainmarie.settings.values import bytes_of
from bainmarie.store.database import Database
from bainmarie.workers.accelerators import Accelerators
from bainmarie.workers.backoff import BackOff
from bainmarie.workers.forking import ForkingLauncher
from bainmarie.workers.isolation import isolation, subreaper_alone
from bainmarie.workers.launch import LocalLauncher
from bainmarie.workers.limits import Limits
from bainmarie.workers.records import Records
from bainmarie.workers.succession import Succession
from bainmarie.workers.supervisor import Supervisor
from bainmarie.workers.worker import Prepare

_log = logging.getLogger(__name__)

RECORDS = Path("run", "workers")
"""In the home: the process trees that the gateway has started."""
DATABASE = "bainmarie.sqlite3"
"""In the home: runs, their items and approvals."""


def build_parts(
    settings: Settings,
    home: Path,
    gateway: GatewayInfo,
    *,
    closing: asyncio.Event | None = None,
    stop: Callable[[], None] = lambda: None,
    prepare: Prepare | None = None,
    takes_over: bool = False,
) -> Parts:
    """Everything the routes need, for one home. Nothing is started yet. `prepare` as the supervisor has it.

    With `takes_over` another gateway waits to see this one serve, and may have its workers back until then.
    """
    catalog, events = settings.catalog(), EventBus()
    records = Records(home / RECORDS)
    isolated = isolation if settings.workers.pid_namespace else subreaper_alone
    fresh = LocalLauncher(records, isolated)
    forking = ForkingLauncher(fresh) if settings.workers.fork_server else None
    supervisor = Supervisor(
        catalog,
        EnvironmentStore(home),
        forking or fresh,
        home,
        events,
        limits=limits(settings),
        back_off=BackOff(first=settings.workers.retry_gap),
        prepare=prepare,
        budget=bytes_of(settings.memory.cpu) if settings.memory.cpu else None,
        accelerators=Accelerators(settings.memory.gpu),
        succession=Succession(records, settings.workers.survive, takes_over=takes_over),
    )
    runs_ = Runs(Database(home / DATABASE), WorkerModels(supervisor), catalog, tool_settings(settings), events.publish)

    def apply(new: Settings) -> None:
        supervisor.reload(new.catalog())
        runs_.change(tool_settings(new))

    def refuse(reason: str) -> None:
        catalog.not_taken_up = reason

    return Parts(
        settings=settings,
        home=home,
        gateway=gateway,
        catalog=catalog,
        supervisor=supervisor,
        runs=runs_,
        events=events,
        reload=Reload(settings, apply, refuse, events),
        closing=closing or asyncio.Event(),
        stop=stop,
        adopt=lambda: supervisor.adopt(records, fresh),
        forking=forking,
    )


def build_app(parts: Parts) -> Starlette:
    """The ASGI application. Its lifespan marks the runs that a crash cut off and goes on with the workers that a former
    gateway has left; at the end it stops runs and workers.

    What keeps it from starting is left in `app.state.failure`: the server says only that it did not start.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await _begin(app, parts)
            await parts.adopt()
            parts.supervisor.preload()
            following = asyncio.create_task(parts.reload.follow())
            try:
                yield
            finally:
                following.cancel()
        finally:
            parts.closing.set()
            await parts.runs.close()
            await parts.supervisor.close()
            if parts.forking is not None:
                await parts.forking.close()

    gateway = parts.settings.gateway
    app = Starlette(
        routes=[
            *openai.routes(parts),
            *generate.routes(parts),
            *residency.routes(parts),
            *runs.routes(parts.runs, parts.closing),
            *operations.routes(parts),
            *plan.routes(parts),
            *page.routes(),
        ],
        middleware=[Middleware(Guard, host=gateway.host, api_keys=gateway.api_keys)],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


async def _begin(app: Starlette, parts: Parts) -> None:
    try:
        await asyncio.to_thread(carried_packages)  # as they are now: another bainmarie may be installed meanwhile
        interrupted = await parts.runs.recover()
    except Exception as error:
        app.state.failure = error
        raise
    if interrupted:
        _log.warning("%d runs were cut off when the gateway ended the last time", interrupted)


def limits(settings: Settings) -> Limits:
    """The part of the configuration that workers need."""
    workers = settings.workers
    return Limits(
        sign_of_life=workers.start_limit,
        stall=workers.stall_limit,
        load=workers.load_limit,
        grace=workers.stop_grace,
        silence=workers.silence_limit,
        probe=workers.probe_limit,
        parallel=workers.parallel,
        queue=workers.queue,
    )


def tool_settings(settings: Settings) -> ToolSettings:
    """The part of the configuration that runs need."""
    tools = settings.tools
    return ToolSettings(
        approval=tools.approval,
        rules=tuple(Rule(rule.tool, rule.action) for rule in tools.rules),
        max_iterations=tools.max_iterations,
        workspace=Path(tools.workspace) if tools.workspace else None,
        time_limit=tools.time_limit,
    )
