"""What one iteration of the tool loop costs outside the model: parse, policy, tool, save, HTTP.

A run of twenty calculator calls on the fake engine, whose turns cost almost nothing; "outside" is what the run's own
timings leave when the model's seconds are taken off. Beside it the floor: the same request sent to the gateway once
for each turn by a loop that saves nothing, checks nothing and runs nothing.
"""

from __future__ import annotations

import json
import statistics
from time import perf_counter

import httpx2
from _gateway import gateway, table

ITERATIONS = 20
RUNS = 5
TURN = {"tool_calls": [{"name": "calculator", "arguments": {"expression": "17 + 5"}}]}
CONFIGURATION = (
    "version: 1\nmodels:\n  scripted:\n    engine: fake\n    options: "
    + json.dumps({"script": [TURN] * ITERATIONS + [{"content": "done"}]})
    + "\ntools: {rules: [{tool: calculator, action: allow}], max_iterations: 30}\n"
)


def main() -> None:
    with gateway(CONFIGURATION) as address, httpx2.Client(base_url=address, timeout=120) as http:
        post_run(http)
        timings = [timing for _ in range(RUNS) for timing in post_run(http)]
        bare = [seconds for _ in range(RUNS) for seconds in bare_loop(http)]
    outside = [t["overhead_seconds"] + t["tool_seconds"] for t in timings]
    model = [t["model_seconds"] for t in timings]
    table(
        f"One iteration of the tool loop ({len(timings)} iterations of {RUNS} runs, fake engine)",
        ("what", "median, ms", "95 %, ms"),
        [
            ("outside the model: parse, policy, calculator, save, event", *in_ms(outside)),
            ("the model's turn: gateway to worker and back, no model in it", *in_ms(model)),
            ("floor: the same turn asked for by a bare HTTP loop", *in_ms(bare)),
        ],
    )


def post_run(http: httpx2.Client) -> list[dict[str, float]]:
    """The timings of one run, one for each iteration with a call."""
    request = {"model": "scripted", "prompt": "go", "interactive": False, "stream": True}
    with http.stream("POST", "/api/runs", json=request) as response:
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    done = json.loads(lines[-1])
    assert (done["status"], len(done["log"])) == ("completed", ITERATIONS), done
    return done["timings"][:ITERATIONS]


def bare_loop(http: httpx2.Client) -> list[float]:
    """Seconds of each turn when nothing but the chat request happens."""
    messages: list[dict[str, object]] = [{"role": "user", "content": "go"}]
    tool = {"type": "function", "function": {"name": "calculator", "parameters": {"type": "object"}}}
    seconds = []
    for _ in range(ITERATIONS):
        began = perf_counter()
        body = {"model": "scripted", "messages": messages, "tools": [tool]}
        message = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        messages += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "22"}]
        seconds.append(perf_counter() - began)
    return seconds


def in_ms(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=20)[-1] * 1000


if __name__ == "__main__":
    main()
