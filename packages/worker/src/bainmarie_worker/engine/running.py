"""One sequence that runs: its tokens, how many of them are computed, and the draw of the next ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bainmarie_worker.engine.growth import NONE, Growth
from bainmarie_worker.engine.lookup import Lookup
from bainmarie_worker.engine.memory import Logits, Memory, Part
from bainmarie_worker.engine.own_passes import next_pass
from bainmarie_worker.engine.prefixes import Kind
from bainmarie_worker.engine.sequence import Drawn, Finish, Token, TokenStream

if TYPE_CHECKING:
    from bainmarie_worker.engine.sampling import Sampler


class Running:
    """Prompt and answer so far are `ids`; the memory holds the first `memory.length` of them."""

    def __init__(
        self,
        stream: TokenStream,
        memory: Memory,
        sampler: Sampler,
        lookup: Lookup | None,
        kind: Kind,
        end_ids: frozenset[int],
        growth: Growth = NONE,
    ) -> None:
        self.stream = stream
        self.sequence = stream.sequence
        self.ids = list(stream.sequence.prompt)
        self.memory = memory
        self.kind = kind
        self.generated = 0
        self.guess: list[int] = []
        self.needs = 0
        """Bytes its memory had when it was taken away."""
        self.stops: set[int] = set()
        """Where a pass ends and the memory is marked, so that others can begin with it."""
        self.reach = len(self.ids)
        """What counts as its prompt, however it is computed: more than that once it has outgrown its side."""
        self._growth = growth
        self._cached = memory.length
        self._sampler = sampler
        self._lookup = lookup
        self._end_ids = frozenset() if stream.sequence.ignore_eos else end_ids | stream.sequence.ends

    @property
    def todo(self) -> int:
        """Known tokens that are not computed yet; at least one."""
        return len(self.ids) - self.memory.length

    @property
    def lends(self) -> int:
        """How many of the computed tokens others of its kind may begin with."""
        computed = self.memory.length
        return self.kind.usable(min(computed, self.reach)) if self.kind.own else computed

    @property
    def own_pass(self) -> Part:
        """What its next pass has, where it is one of its own."""
        return self.part(next_pass(self.memory.length, self.reach), 0)

    def part(self, count: int, most_guessed: int) -> Part:
        """The next `count` tokens; with the last known one also guesses of what follows."""
        computed = self.memory.length
        count = min(count, *(stop - computed for stop in self.stops if stop > computed), self.todo)
        tokens = self.ids[computed : computed + count]
        self.guess = []
        if count < self.todo:
            return Part(self.memory, tokens, 0, self.sequence.adapter, reach=self.reach)
        left = self.sequence.max_tokens - self.generated - 1
        if self._growth.anew and self.kind.side == 0:
            left = min(left, self._growth.most - len(self.ids))
        if self._lookup is not None and count == 1 and computed + 1 not in self.stops:
            self.guess = self._lookup.guess(min(most_guessed, left))
        guessed = len(self.guess)
        return Part(self.memory, tokens + self.guess, 1 + guessed, self.sequence.adapter, guessed, self.reach)

    def take(self, logits: Logits, token_cost: float, row_cost: float) -> Finish | None:
        """Draws from a part's logits and tells the stream; `Finish` when that was the end."""
        drawn = self._sampler.draw(logits, self.guess)
        kept = len(drawn) - 1
        if kept < len(self.guess):
            self.memory.crop(self.memory.length - len(self.guess) + kept)
        if self._lookup is not None and self.guess:
            self._lookup.learn(len(self.guess), kept, token_cost, row_cost)
        return self._accept(drawn)

    def cancelled(self) -> Finish:
        return Finish("cancelled", self.generated, self._cached)

    def restart(self, memory: Memory) -> None:
        """An empty memory in the place of the present one: all tokens are computed again, none is drawn again."""
        self.needs = self.memory.bytes
        self.memory = memory

    @property
    def outgrown(self) -> bool:
        """Whether it has become so long that all its tokens must be computed in another way."""
        return self._growth.anew and self.kind.side != self._growth.side(len(self.ids))

    def outgrow(self, memory: Memory) -> None:
        """With a memory of its new side; what others may begin with is to be taken from the old one before."""
        self.kind = self.kind._replace(side=self._growth.side(len(self.ids)))
        self.reach = len(self.ids)
        self.memory = memory

    def _accept(self, drawn: list[Token]) -> Finish | None:
        known = len(self.ids)
        for item in drawn:
            token = item.token if isinstance(item, Drawn) else item
            self.generated += 1
            if token in self._end_ids:
                return self._ended("stop", known)
            self.ids.append(token)
            self.stream.put(item)
            if self.generated >= self.sequence.max_tokens:
                return self._ended("length", known)
        if self._lookup is not None:
            self._lookup.extend(self.ids[known:])
        return None

    def _ended(self, reason: str, known: int) -> Finish:
        """Guesses that were right but lie behind the end are forgotten."""
        if self.memory.length > len(self.ids):
            self.memory.crop(len(self.ids))
        return Finish(reason, self.generated, self._cached)
