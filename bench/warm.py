"""Cold start, first and further generations, and the turns of a tool loop, beside a script that loads each time.

The demo model, 32 tokens a generation. The script is the rival; a further generation in its process is the ceiling.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter

import httpx2
from _gateway import ROOT, gateway, median_ms, table

from bainmarie import ToolEnabledInferenceConfig, run_inference_with_tools
from bainmarie.agent.tools.builtin import BuiltinTools
from bainmarie.carried import demo_model

TIMES = 10
TOKENS = 32
CHAIN = (
    "Start with 17, add 5, then multiply the result by 3, subtract 4, add 100, multiply by 2, subtract 7, "
    "add 11, multiply by 4, add 25, then subtract 9."
)


def main() -> None:
    with tempfile.TemporaryDirectory() as workspace:
        tools = [tool.definition for tool in BuiltinTools(Path(workspace)).definitions()]
    chat = {"messages": [{"role": "user", "content": CHAIN}], "tools": tools}
    with gateway() as address, httpx2.Client(base_url=address, timeout=600) as http:

        def generate() -> None:
            body = {"model": "demo", "max_tokens": TOKENS, "temperature": 0, **chat}
            answer = http.post("/v1/chat/completions", json=body).json()
            assert answer["usage"]["completion_tokens"] == TOKENS, answer

        began = perf_counter()
        generate()
        first = perf_counter() - began
        further = median_ms(generate, TIMES) / 1000
        log, loop = tool_loop()
        [status] = [m for m in http.get("/api/status").json()["models"] if m["id"] == "demo"]
        python, loads = status["info"]["interpreter"], status["info"]["loads"]
    scripts = [rival(python, chat, "once") for _ in range(3)]
    cold = statistics.median(script["load"] + script["first"] for script in scripts)
    ceiling = statistics.median(rival(python, chat, str(TIMES))["more"])
    table(
        f"{TOKENS} tokens of the demo model (medians of {TIMES}, the script of 3; weights loaded: {loads} time)",
        ("what", "bainmarie, s", "script that loads each time, s", "a further generation in the script, s"),
        [
            ("first generation, process start included", first, cold, "-"),
            ("each further generation", further, cold, ceiling),
        ],
    )
    results = [entry["result"] for entry in log]
    table(
        "A tool loop of ten dependent calls",
        ("calls", "last result", "whole loop, s", "one iteration, s", "the same with the script, s (computed)"),
        [(len(log), results[-1], loop, loop / (len(log) + 1), cold * (len(log) + 1))],
    )


def tool_loop() -> tuple[list[dict[str, object]], float]:
    """The log and the median seconds of a run of ten dependent calls."""
    config = ToolEnabledInferenceConfig(
        prompt=CHAIN, model_id="demo", temperature=0, max_tool_iterations=15, approval="allow"
    )
    seconds = []
    for _ in range(3):
        began = perf_counter()
        _, log = run_inference_with_tools(config)
        seconds.append(perf_counter() - began)
    return log, statistics.median(seconds)


def rival(python: str, chat: dict[str, object], times: str) -> dict[str, object]:
    command = [python, str(ROOT / "bench/rivals/script.py"), str(demo_model()), json.dumps(chat), times]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
