"""Passes that depend on their sequence alone, for requests whose answer must not depend on what else is in the batch.

A product of one row is rounded otherwise than one of eight, and a prompt otherwise where it is cut elsewhere. So, on a
way whose rows depend on their company (see `Independent`), a sequence with a seed is computed by itself: its prompt in
chunks that begin at multiples of CHUNK, its answer token by token, nothing guessed. What a whole chunk leaves is then a
matter of the tokens up to its end alone, and other such sequences may begin with it.
"""

from __future__ import annotations

CHUNK = 128
"""The smaller, the more of a conversation is used again in its next turn; the larger, the faster is a long prompt."""


def next_pass(computed: int, prompt: int) -> int:
    """How many tokens the next pass has, where so many of the sequence are computed and so many are its prompt."""
    return min(CHUNK - computed % CHUNK, prompt - computed) if computed < prompt else 1
