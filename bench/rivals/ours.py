"""bainmarie: a gateway with a bain.yaml of its own, spoken to over HTTP like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import httpx2
from _gateway import gateway
from contest.contender import Order, Served
from contest.processes import Failed
from contest.targets import OURS


class Ours:
    name = OURS
    version = f"bainmarie {version('bainmarie')}"
    starts = 100

    def prepare(self, orders: Sequence[Order]) -> None:
        """Its environment is made by the gateway, at the first load."""

    def suited(self, order: Order) -> Order:
        return replace(order, clients=1)

    @contextmanager
    def serve(self, order: Order) -> Iterator[Served]:
        names = tuple(f"copy-{n}" for n in range(order.copies))
        with gateway(configuration(order, names)) as address, httpx2.Client(base_url=address, timeout=900) as http:

            def post(path: str, name: str) -> None:
                answer = http.post(path, json={"model": name, "wait": True})
                if answer.status_code != 200:
                    raise Failed(answer.json()["error"]["message"])

            def pids() -> list[int]:
                models = http.get("/api/status").json()["models"]
                return [model["pid"] for model in models if model["id"] in names]

            for name in (*names, *(folder.name[-6:] for folder in order.adapter_folders())):
                post("/models/load", name)
            yield Served(address, names, unload=lambda: post("/models/unload", names[0]), pids=pids)


def configuration(order: Order, names: tuple[str, ...]) -> str:
    """bain.yaml. Copies differ in their context, so that each gets a worker of its own."""
    quantization = {"quantization": "int8"} if order.int8 else {}
    base = {"model": str(order.folder), "keep_alive": "forever", **quantization}
    models: dict[str, object] = {name: {**base, "context": 8192 - n} for n, name in enumerate(names)}
    for folder in order.adapter_folders():
        models[folder.name[-6:]] = {**base, "context": 8192, "adapter": str(folder)}
    return json.dumps({"version": 1, "models": models})
