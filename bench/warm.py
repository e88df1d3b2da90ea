"""Cold start, first and second generation, and the turns of a tool loop, beside a script that loads each time.

The demo model, 32 tokens a generation. The script is the rival; a further generation in its process is the ceiling.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from time import perf_counter

import httpx2
from _gateway import ROOT, gateway, median_ms, table

from bainmarie import ToolEnabledInferenceConfig, run_inference_with_tools
from bainmarie.carried import demo_model

TIMES = 10
CHAIN = (
    "Start with 17, add 5, then multiply the result by 3, subtract 4, add 100, multiply by 2, subtract 7, "
    "add 11, multiply by 4, then subtract 9."
)


def main() -> None:
    with gateway() as address, httpx2.Client(base_url=address, timeout=600) as http:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Who are you?"}],
            "max_tokens": 32,
            "ignore_eos": True,
            "temperature": 0,
        }

        def generate() -> None:
            assert http.post("/v1/chat/completions", json=body).status_code == 200

        began = perf_counter()
        generate()
        first = perf_counter() - began
        second = median_ms(generate, TIMES)
        began = perf_counter()
        _, log = run_inference_with_tools(
            ToolEnabledInferenceConfig(
                prompt=CHAIN, model_id="demo", temperature=0, max_tool_iterations=15, approval="allow"
            )
        )
        loop = perf_counter() - began
        [status] = [m for m in http.get("/api/status").json()["models"] if m["id"] == "demo"]
        python = status["info"]["interpreter"]
        loads = status["info"]["loads"]
    script = [rival(python, "once") for _ in range(3)]
    ceiling = rival(python, "warm", str(TIMES))
    cold = statistics.median(r["load"] + r["first"] for r in script)
    table(
        f"32 tokens of the demo model (medians of {TIMES}, the script of 3)",
        ("what", "bainmarie, s", "script that loads each time, s", "the script's second generation, s"),
        [
            ("first generation, process start included", first, cold, "-"),
            ("each further generation", second / 1000, cold, statistics.median(ceiling["more"])),
        ],
    )
    table(
        "A tool loop of ten dependent calls (weights loaded: " + str(loads) + " time)",
        ("tool calls", "whole loop, s", "one iteration, s"),
        [(len(log), loop, loop / (len(log) + 1))],
    )


def rival(python: str, *arguments: str) -> dict[str, object]:
    command = [python, str(ROOT / "bench/rivals/script.py"), str(demo_model()), *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
