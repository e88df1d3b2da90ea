"""Where this process's home is, which gateway serves it, and where that gateway's log lies."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bainmarie.errors import GatewayUnreachable
from bainmarie.home import bain_home

if TYPE_CHECKING:
    from bainmarie.settings import Settings

LOG_BYTES = 5_000_000
"""A longer gateway.log is put aside as gateway.log.1 before the next start."""


@dataclass(frozen=True)
class RunningGateway:
    """What `gateway.json` in the home says about the gateway that serves it."""

    pid: int
    address: str
    version: str
    started_at: str


def home() -> Path:
    """The BAIN_HOME of this process."""
    return bain_home(os.environ)


def running() -> RunningGateway | None:
    """The gateway that `gateway.json` names if that process is alive; None otherwise."""
    import psutil

    path = home() / "gateway.json"
    try:
        data = json.loads(path.read_text())
        found = RunningGateway(int(data["pid"]), data["address"], str(data.get("version", "")), str(data["started_at"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GatewayUnreachable(f"{path} cannot be read: {error}", hint="Delete it if no gateway runs.") from error
    try:
        process = psutil.Process(found.pid)
        born = process.create_time()
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    # A process that is younger than the gateway has only got its number.
    return found if born <= datetime.fromisoformat(found.started_at).timestamp() + 1 else None


def gateway_log() -> Path:
    """The file for what a gateway without a terminal writes, ready to append to."""
    path = home() / "logs" / "gateway.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_name("gateway.log.1"))
    return path


def configuration() -> Settings:
    """The configuration of this process: BAIN_CONFIG, ./bain.yaml, BAIN_HOME/bain.yaml, or the defaults."""
    from bainmarie.settings import config_path, load_settings

    return load_settings(config_path(None, os.environ, home()), os.environ)
