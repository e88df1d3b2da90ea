"""What loading a model would take and cost, before it is loaded."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bainmarie.api.parts import Parts


def routes(parts: Parts) -> list[Route]:
    async def plan(request: Request) -> Response:
        name = parts.catalog.get(request.path_params["model"]).name
        found, footprint = await parts.supervisor.plan(name)
        told = {
            "model": name,
            "state": parts.supervisor.status_of(name).state,
            "memory_bytes": found.need,
            "measured": footprint.measured,
            "load_seconds": footprint.load_seconds,
            "budget_bytes": found.budget,
            "fits": found.fits,
            "evict": [asdict(holder) for holder in found.evict],
            "stays": [asdict(holder) for holder in found.stays],
        }
        return JSONResponse(told)

    return [Route("/api/models/{model:path}/plan", plan)]
