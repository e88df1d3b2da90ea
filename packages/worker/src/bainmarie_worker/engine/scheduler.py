"""Who computes how much in the next pass. Pure: no torch, no clock."""

from __future__ import annotations

from collections.abc import Sequence

ALONE = 1024
"""Prompt tokens of one pass while only one sequence runs: a cancel is noticed between two passes."""
BESIDE = 256
"""The same while others run, which wait for the pass to end."""
_OLDEST_SHARE = 8
"""The oldest long prompt gets at least this part (one eighth) of a pass, so that short ones cannot starve it."""


def plan(todo: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each sequence go into the next pass; `todo` says how many each has left, oldest first.

    A sequence with one token left (it generates) always gets it. The others share `budget`: shortest first, so that a
    short turn does not wait for a long prompt. Prompts that need several passes in any case fill the pass to one half
    only: who comes meanwhile waits for its end. The oldest gets an eighth in any case, on top where it has to, so that
    a turn that fits into the budget is through after one pass. A sequence that is alone gets all it wants.
    """
    counts = [1 if left == 1 else 0 for left in todo]
    prompts = [place for place, left in enumerate(todo) if left > 1]
    if not prompts:
        return counts
    taken = 0
    for place in sorted(prompts, key=lambda place: todo[place]):
        room = budget if todo[place] <= budget or len(todo) == 1 else budget // 2
        counts[place] = max(0, min(todo[place], room - taken))
        taken += counts[place]
    oldest = prompts[0]
    counts[oldest] = max(counts[oldest], min(todo[oldest], max(1, budget // _OLDEST_SHARE)))
    return counts


def turns(todo: Sequence[int]) -> list[int]:
    """The places of those that get their next pass, where each has passes of its own; `todo` as in `plan`.

    A sequence that generates always gets it. Of the prompts it is the one with the least left, and the oldest.
    """
    prompts = [place for place, left in enumerate(todo) if left > 1]
    chosen = {prompts[0], min(prompts, key=lambda place: todo[place])} if prompts else set()
    return [place for place, left in enumerate(todo) if left == 1 or place in chosen]
