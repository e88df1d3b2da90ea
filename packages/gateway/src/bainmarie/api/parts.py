"""What the routes work with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bainmarie import __version__
from bainmarie.events import EventBus

if TYPE_CHECKING:
    from bainmarie.agent.runs import Runs
    from bainmarie.catalog import Catalog
    from bainmarie.reload import Reload
    from bainmarie.settings import Settings
    from bainmarie.workers.forking import ForkingLauncher
    from bainmarie.workers.supervisor import Supervisor


@dataclass(frozen=True)
class GatewayInfo:
    """Who answers: in /api/status and in gateway.json."""

    address: str
    """As a URL that reaches it from this machine."""
    home: str
    version: str = __version__
    pid: int = field(default_factory=os.getpid)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Parts:
    """All the routes share. `closing` is set when the gateway begins to stop, `stop` makes it do so.

    `adopt` goes on with the workers of a former gateway, or ends them.
    """

    settings: Settings
    home: Path
    gateway: GatewayInfo
    catalog: Catalog
    supervisor: Supervisor
    runs: Runs
    events: EventBus
    reload: Reload
    closing: asyncio.Event
    stop: Callable[[], None]
    adopt: Callable[[], Awaitable[None]]
    forking: ForkingLauncher | None = None
    """None where every worker gets a fresh process."""
