"""The demo model's chains of calculations under 16 clients at once: as one client at a time, and as arithmetic."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bainmarie_protocol import Ready, ServedModel

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Calculate an arithmetic expression, such as (17 + 5) * 3.",
        "parameters": {
            "type": "object",
            "properties": {
                "expression": {"type": "string", "description": "Numbers, + - * / // % ** and parentheses."}
            },
            "required": ["expression"],
        },
    },
}
CLIENTS = 16
MOST_TURNS = 9

STEPS = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}


@dataclass(frozen=True)
class Chain:
    """Start with a number, then operations one after the other."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def text(self):
        words = [STEPS[sign].format(number) for sign, number in self.steps]
        return f"Start with {self.start}, {', '.join(words[:-1])}, then {words[-1]}."

    @property
    def results(self):
        """What each step gives."""
        value, results = self.start, []
        for sign, number in self.steps:
            value = calculated(f"{value} {sign} {number}")
            results.append(value)
        return results


def calculated(expression):
    """One operation on whole numbers."""
    left, sign, right = expression.split(" ")
    return {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right))


def chain(start):
    """Of three to six steps."""
    steps = (("+", 5 + start % 4), ("*", 3), ("-", 4 + start % 3), ("+", 100), ("*", 2), ("-", 7))
    return Chain(start, steps[: 3 + start % 4])


pytestmark = pytest.mark.timeout(900)  # three workers and 250 turns, on a machine that may be busy

CHAINS = tuple(chain(start) for start in range(12, 20))


@pytest.fixture(scope="module")
def demo(start_session_worker):
    worker = start_session_worker(DEMO, ServedModel("m"), device="cpu", dtype="float32")
    worker.until(Ready)
    return worker


@dataclass(frozen=True)
class Told:
    """One conversation: expressions that were called, and the last answer."""

    expressions: tuple[str, ...]
    answer: str
    cached: int
    """Prompt tokens that needed no computing, of all turns but the first."""


def converse(demo, chain):
    """Calls are answered by arithmetic until the model has no further one."""
    messages = [{"role": "user", "content": chain.text}]
    expressions, cached = [], 0
    for turn in range(MOST_TURNS):
        reply = demo.chat(messages, tools=[CALCULATOR], temperature=0, max_tokens=200)
        assert reply.status == 200, reply.body
        message = reply.json["choices"][0]["message"]
        cached += reply.json["usage"]["prompt_tokens_details"]["cached_tokens"] if turn else 0
        messages.append(message)
        if not message.get("tool_calls"):
            return Told(tuple(expressions), message["content"], cached)
        for call in message["tool_calls"]:
            expression = json.loads(call["function"]["arguments"])["expression"]
            expressions.append(expression)
            result = str(calculated(expression))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    raise AssertionError(f"no end after {MOST_TURNS} turns: {messages}")


@pytest.fixture(scope="module")
def alone(demo):
    """One client at a time, before any others."""
    return [converse(demo, chain) for chain in CHAINS]


def all_at_once(worker):
    """Each conversation by two clients: then what each chain gives is the same twice."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(converse, [worker] * CLIENTS, CHAINS * 2))


def test_one_client_at_a_time_is_right(alone):
    for chain, told in zip(CHAINS, alone, strict=True):
        assert [calculated(expression) for expression in told.expressions] == chain.results, chain.text
        assert str(chain.results[-1]) in told.answer
        assert told.cached > 0


def test_sixteen_clients_at_once_get_the_same(demo, alone, start_session_worker):
    """On the worker that knows these conversations already, and on one that knows nothing yet."""
    fresh = start_session_worker(DEMO, ServedModel("m"), device="cpu", dtype="float32")
    fresh.until(Ready)
    for worker in (fresh, demo):
        together = all_at_once(worker)
        for told, before in zip(together, alone * 2, strict=True):
            assert (told.expressions, told.answer) == (before.expressions, before.answer)
            assert told.cached > 0


def test_sixteen_clients_with_so_little_memory_that_nothing_is_kept_for_long(alone, start_session_worker):
    tight = start_session_worker(
        DEMO, ServedModel("m"), device="cpu", dtype="float32", options={"cache_bytes": 4 << 20}
    )
    tight.until(Ready)
    together = all_at_once(tight)
    for told, before in zip(together, alone * 2, strict=True):
        assert (told.expressions, told.answer) == (before.expressions, before.answer)
    assert sum(told.cached for told in together) < 2 * sum(told.cached for told in alone)
