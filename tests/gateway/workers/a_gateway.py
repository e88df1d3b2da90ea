"""A gateway without HTTP, made to be killed: a supervisor that loads one model. Run as a script.

argv: HOME MODEL_OPTIONS_JSON [STATEMENT]. With a statement workers are forked; the fork server runs it first.
stdout: every state of the model, one a line.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from bainmarie.catalog import Catalog
from bainmarie.errors import BainError
from bainmarie.events import EventBus
from bainmarie.workers.forking import ForkingLauncher
from bainmarie.workers.launch import LocalLauncher
from bainmarie.workers.supervisor import Supervisor


async def main() -> None:
    home, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    kit = runpy.run_path(str(Path(__file__).with_name("kit.py")))

    async def prepare(models: Any, report: Any) -> Any:
        return kit["launch_spec"](models, home, *sys.argv[3:])

    events = EventBus()
    catalog = Catalog({"m": kit["model"](**options)})
    launcher = ForkingLauncher(LocalLauncher()) if sys.argv[3:] else LocalLauncher()
    supervisor = Supervisor(catalog, None, launcher, home, events, prepare=prepare)  # type: ignore[arg-type]
    async with events.subscribe() as news:
        load = asyncio.create_task(supervisor.load("m"))
        async for _, data in news:
            print(data["state"], flush=True)
            if data["state"] == "failed":
                break
    try:
        await load
    except BainError as error:
        print(error.message, file=sys.stderr)


asyncio.run(main())
