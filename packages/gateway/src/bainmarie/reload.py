"""Follows bain.yaml while the gateway runs: a good file is applied, a broken one changes nothing and is reported."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bainmarie.errors import ConfigurationError
from bainmarie.events import EventBus
from bainmarie.settings import Settings, load_settings

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""Between two looks at the file. It is read when two looks in a row have seen the same: nobody writes it any more."""
_FIXED = ("gateway", "workers", "memory")
"""Sections that hold from the start of the gateway to its end."""

_Seen = tuple[int, int, int] | None


@dataclass(frozen=True)
class Configuration:
    """What the status says of it."""

    file: str
    """Empty where there is none."""
    read_at: str
    """When the settings that hold were read."""
    error: str = ""
    """Why the file as it is now does not hold: one line with its place. The settings before it go on."""
    needs_restart: tuple[str, ...] = ()
    """Sections whose change waits for the next start of the gateway."""


class Reload:
    """The configuration of one gateway. `apply` gets each new one, once it is known to be right, `refuse` why one is
    not."""

    def __init__(
        self,
        settings: Settings,
        apply: Callable[[Settings], None],
        refuse: Callable[[str], None],
        events: EventBus,
    ) -> None:
        self._first = settings
        self._apply = apply
        self._refuse = refuse
        self._events = events
        self._seen = _look(settings.file)
        self.state = Configuration(str(settings.file or ""), _now())

    async def follow(self) -> None:
        """Never returns. Without a file there is nothing to follow."""
        file, before = self._first.file, self._seen
        while file is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            now = await asyncio.to_thread(_look, file)
            if now == before != self._seen:
                self._seen = now
                await self._read(file)
            before = now

    def look_again(self) -> None:
        """Reads the file once more: a change may have come while nothing could be applied."""
        self._seen = None

    async def _read(self, file: Path) -> None:
        try:
            settings = await asyncio.to_thread(load_settings, file, {})
            self._apply(settings)
        except ConfigurationError as error:
            self.state = Configuration(self.state.file, self.state.read_at, error.message, self.state.needs_restart)
            self._refuse(error.message)
            _log.error("the configuration is not taken over, nothing has changed: %s", error.message)
        else:
            late = tuple(s for s in _FIXED if getattr(settings, s) != getattr(self._first, s))
            self.state = Configuration(str(file), _now(), needs_restart=late)
            _log.warning("the configuration was read anew%s", f"; after a restart: {', '.join(late)}" if late else "")
        self._events.publish("configuration", asdict(self.state))


def _look(file: Path | None) -> _Seen:
    if file is None:
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
