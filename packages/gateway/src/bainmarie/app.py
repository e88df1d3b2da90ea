"""The gateway's parts, joined: the only file that knows all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware

from bainmarie.api import generate, openai, operations, page, residency
from bainmarie.api.errors import EXCEPTION_HANDLERS
from bainmarie.api.guard import Guard
from bainmarie.api.parts import GatewayInfo, Parts
from bainmarie.environments.store import EnvironmentStore
from bainmarie.events import EventBus
from bainmarie.settings import Settings
from bainmarie.workers.launch import LocalLauncher
from bainmarie.workers.supervisor import Supervisor


def build_parts(
    settings: Settings,
    home: Path,
    *,
    gateway: GatewayInfo | None = None,
    closing: asyncio.Event | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Parts:
    """Everything the routes need, for one home. Nothing is started yet."""
    catalog, events = settings.catalog(), EventBus()
    supervisor = Supervisor(catalog, EnvironmentStore(home), LocalLauncher(), home, events)
    return Parts(
        settings=settings,
        home=home,
        gateway=gateway or GatewayInfo(address="", home=str(home)),
        catalog=catalog,
        supervisor=supervisor,
        events=events,
        closing=closing or asyncio.Event(),
        stop=stop,
    )


def build_app(parts: Parts) -> Starlette:
    """The ASGI application. Its lifespan ends every worker."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            parts.closing.set()
            await parts.supervisor.close()

    gateway = parts.settings.gateway
    app = Starlette(
        routes=[
            *openai.routes(parts),
            *generate.routes(parts),
            *residency.routes(parts),
            *operations.routes(parts),
            *page.routes(),
        ],
        middleware=[Middleware(Guard, host=gateway.host, api_keys=gateway.api_keys)],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app
