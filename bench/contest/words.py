"""The benchmark's language: every token is one word, and each word has one successor.

The models of this benchmark have random layers, but their head is the embedding moved on by one word of a cycle: greedy
text walks along the cycle whatever stood before. So every contender writes the same known text, no text repeats itself
unless it is made to, and text that stands in the context is truly copied from it. Imported by the maker of the models
too, which runs in another environment: standard library only.
"""

from __future__ import annotations

from itertools import product
from string import ascii_lowercase

VOCABULARY = 16384
END = "<|endoftext|>"
LETTERS = ascii_lowercase
FIRST_WORD = 1 + 256 + 26 + 26 * 26
"""Id of the first word. Before it: the end token, the bytes, and a space with one and with two letters."""
COUNT = VOCABULARY - FIRST_WORD
WORDS = ["".join(letters) for letters in product(LETTERS, repeat=3)][:COUNT]
_STEP = 4001
"""No common factor with COUNT (15,425 = 5 * 5 * 617), so that the cycle visits every word."""


def successor(word: int) -> int:
    """Index of the word that follows."""
    return (word + _STEP) % COUNT


def walk(place: int, length: int) -> str:
    """The words at `length` places of the cycle from `place` on: as many tokens."""
    return "".join(" " + WORDS[(p * _STEP) % COUNT] for p in range(place, place + length))
