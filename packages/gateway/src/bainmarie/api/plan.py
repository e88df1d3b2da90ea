"""What loading a model would take and cost, before it is loaded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bainmarie.api.parts import Parts
from bainmarie.workers.eviction_plan import Holder
from bainmarie.workers.sizes import MAIN, cards_only


def routes(parts: Parts) -> list[Route]:
    async def plan(request: Request) -> Response:
        name = parts.catalog.get(request.path_params["model"]).name
        found, footprint = await parts.supervisor.plan(name)
        told = {
            "model": name,
            "state": parts.supervisor.status_of(name).state,
            "memory_bytes": found.need[MAIN],
            "accelerator_bytes": cards_only(found.need),
            "measured": footprint.measured,
            "load_seconds": footprint.load_seconds,
            "budget_bytes": found.budget.get(MAIN),
            "accelerator_budget_bytes": cards_only(found.budget),
            "fits": found.fits,
            "evict": [_told(holder) for holder in found.evict],
            "stays": [_told(holder) for holder in found.stays],
        }
        return JSONResponse(told)

    return [Route("/api/models/{model:path}/plan", plan)]


def _told(holder: Holder) -> dict[str, Any]:
    told = asdict(holder)
    sizes = told.pop("sizes")
    return {**told, "bytes": sizes.get(MAIN, 0), "accelerator_bytes": cards_only(sizes)}
