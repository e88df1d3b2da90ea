"""Prompts of known length, and conversations of a tool loop whose answers are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from contest.words import COUNT, walk

SPAN = 12
"""Words of one copied stretch: about a path, a number with its name, a step of a list."""
NOVEL = 8
"""Words between two copied stretches. With these lengths the last two tokens, looked up in the context, predict the
next one in half of all places (the last three: 45 of 100), as in the tool turns that the demo model was trained on
(52; 47)."""


class Prompts:
    """Prompts that share no prefix with one another and repeat no word within themselves."""

    def __init__(self, place: int = 0) -> None:
        self._place = place

    def take(self, length: int) -> tuple[str, int]:
        """A prompt of `length` tokens, and the place from which its answer goes on."""
        start = self._place
        self._place = (start + 101) % COUNT
        return walk(start, length), start + length


@dataclass(frozen=True)
class Turn:
    """One request of a tool loop."""

    prompt: str
    answer: str
    """What every right model writes."""


def conversation(place: int, *, turns: int, first: int, answer: int, result: int, copying: bool) -> list[Turn]:
    """A tool loop: `first` tokens of prompt, then for each turn `answer` tokens and `result` tokens from outside.

    No word occurs twice, unless `copying`: then three fifths of each answer, in stretches of SPAN words with NOVEL
    own ones between, stand in what came from outside just before it.
    """
    taken = place

    def fresh(length: int) -> int:
        nonlocal taken
        start = taken
        taken += length + 1
        return start

    history, made = "", []
    for turn in range(turns):
        outside = result if turn else first
        start = fresh(answer + 1)
        quoted = _quoted(start + 1, answer) if copying else ""
        filler = outside - 1 - quoted.count(" ")
        history += walk(fresh(filler), filler) + quoted + walk(start, 1)
        made.append(Turn(history, walk(start + 1, answer)))
        history += made[-1].answer
    return made


def _quoted(start: int, length: int) -> str:
    """The stretches of an answer that the context holds already, last first, so that none continues the other."""
    places = range(start + NOVEL, start + length, NOVEL + SPAN)
    return "".join(walk(p, min(SPAN, start + length - p)) for p in reversed(places))
