"""Who computes how much in the next pass. Pure: no torch, no clock."""

from __future__ import annotations

from collections.abc import Sequence

ALONE = 1024
"""Prompt tokens of one pass while only one sequence runs: a cancel is noticed between two passes."""
BESIDE = 256
"""The same while others run, which wait for the pass to end."""
_OLDEST_SHARE = 4
"""The oldest long prompt gets at least this part (one fourth) of a pass, so that short ones cannot starve it."""


def plan(todo: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each sequence go into the next pass; `todo` says how many each has left, oldest first.

    A sequence with one token left (it generates) always gets it. The others share `budget`: shortest first, so that a
    short turn does not wait for a long prompt, but the oldest gets a fourth in any case.
    """
    counts = [1 if left == 1 else 0 for left in todo]
    prompts = [place for place, left in enumerate(todo) if left > 1]
    if not prompts:
        return counts
    room = budget
    counts[prompts[0]] = min(todo[prompts[0]], max(1, budget // _OLDEST_SHARE))
    room -= counts[prompts[0]]
    for place in sorted(prompts, key=lambda place: todo[place]):
        more = min(todo[place] - counts[place], room)
        counts[place] += more
        room -= more
    return counts
