"""A request for a model that is not loaded: seconds to its first token, with a fork server and without.

`./run bench cold` measures the demo model; BENCH_MODEL=/path/to/a/model adds another (one of 475 M in bf16, say).
"""

from __future__ import annotations

import os
import statistics
import sys
import time

import httpx2
from _gateway import gateway, table

TIMES = 5


def main() -> None:
    models = {"demo": "{}"}
    if path := os.environ.get("BENCH_MODEL"):
        models["given"] = f"{{model: {path}, device: cpu}}"
    entries = "".join(f"  {name}: {entry}\n" for name, entry in models.items())
    rows = []
    for setting in ("false", "true"):
        with gateway(f"version: 1\nworkers: {{fork_server: {setting}}}\nmodels:\n{entries}") as address:
            with httpx2.Client(base_url=address, timeout=600) as client:
                for name in models:
                    first_token(client, name)  # builds the environment, and makes the fork server warm
                    started = start_of(client, name)
                    seconds = [first_token(client, name) for _ in range(TIMES)]
                    rows.append((name, started, statistics.median(seconds), min(seconds)))
    table(f"Not loaded, to the first token (s, median of {TIMES})", ("model", "start", "first token", "fastest"), rows)


def first_token(client: httpx2.Client, model: str) -> float:
    """Seconds from the request, for an unloaded model, to the first piece of text."""
    client.post("/models/unload", json={"model": model}).raise_for_status()
    while next(m for m in client.get("/api/status").json()["models"] if m["id"] == model)["state"] != "unloaded":
        time.sleep(0.01)
    body = {"model": model, "messages": [{"role": "user", "content": "Hello there"}], "stream": True, "max_tokens": 4}
    began = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json={**body, "temperature": 0}) as answer:
        for line in answer.iter_lines():
            if '"content"' in line and '"content":""' not in line.replace(" ", ""):
                return time.perf_counter() - began
    sys.exit(f"{model} gave no token")


def start_of(client: httpx2.Client, model: str) -> str:
    """How its worker was started, as the status says it."""
    entry = next(m for m in client.get("/api/status").json()["models"] if m["id"] == model)
    return str(entry["info"]["start"])


if __name__ == "__main__":
    main()
