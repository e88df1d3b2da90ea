"""All sequences of one model at work: each `step` is one pass that moves every running sequence on.

step:  drop those who left -> admit who fits -> plan -> one pass -> draw -> let go of those who ended

Sequences that must not depend on their company have passes of their own in each step (`own_passes.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from bainmarie_worker.engine import scheduler
from bainmarie_worker.engine.costs import Costs
from bainmarie_worker.engine.growth import growth
from bainmarie_worker.engine.lookup import Lookup
from bainmarie_worker.engine.memory import Computed, Forward, Memory, NoRoom, Part, independent
from bainmarie_worker.engine.prefixes import Kind, Prefixes, common
from bainmarie_worker.engine.running import Running
from bainmarie_worker.engine.sampling import Sampler
from bainmarie_worker.engine.sequence import Adapter, Finish, Sequence, TokenStream
from bainmarie_worker.errors import RequestError

_MOST = 64
"""Sequences in one pass."""
_GUESSED = 48
"""Guessed tokens of one pass, all sequences together."""
_WORTH_WAITING = 32
"""A sequence waits for another's prompt if that gives it at least so many tokens more than what is there already."""
_ASKING = 16
"""Tokens at the end of a prompt that ask for the answer, at most."""


class Batch:
    """Owns the running and the waiting sequences and all their memories. For the engine's thread only."""

    def __init__(
        self,
        forward: Forward,
        end_ids: frozenset[int],
        make_sampler: Callable[[TokenStream], Sampler],
        describe: Callable[[Exception, TokenStream], RequestError],
        memory_limit: int,
        speculate: bool = True,
    ) -> None:
        self._forward = forward
        self._growth = growth(forward)
        self._end_ids = end_ids
        self._make_sampler = make_sampler
        self._describe = describe
        self._limit = memory_limit
        self._speculate = speculate and forward.guesses
        self._waiting: deque[TokenStream] = deque()
        self._preempted: deque[Running] = deque()
        self._running: list[Running] = []
        self._prefixes = Prefixes()
        self._costs = Costs()

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting or self._preempted)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(self, stream: TokenStream) -> None:
        """Its tokens, and its end or error, come through the stream as steps are made."""
        self._waiting.append(stream)

    def uses(self, adapter: Adapter) -> bool:
        """Whether a sequence with this adapter runs or waits."""
        streams = [*self._waiting, *(one.stream for one in (*self._running, *self._preempted))]
        return any(stream.sequence.adapter == adapter for stream in streams)

    def forget(self, adapter: Adapter) -> None:
        """Drops what is kept of this adapter's ended sequences."""
        self._prefixes.drop(adapter)

    def step(self) -> None:
        """One pass for all that run. Never raises for a sequence's sake: its stream is told."""
        self._drop_cancelled()
        self._admit()
        if not self._running:
            return
        self._outgrow()
        self._make_room()
        for moving, parts in self._passes():
            if moving[0] in self._running:  # else it had to give way to a pass before
                self._move(moving, parts)

    def _move(self, moving: list[Running], parts: list[Part]) -> None:
        """One pass, and what comes of it. Where it had no room, something gives way, and they try again."""
        started = time.perf_counter()
        results = self._run(parts)
        self._costs.note(parts, time.perf_counter() - started)
        short = any(isinstance(result, NoRoom) for result in results) and self._give_way()
        for one, part, result in zip(moving, parts, results):
            if short and isinstance(result, NoRoom):
                _forget_frames(result)
            elif not short or one in self._running:
                self._advance(one, part, result, len(parts))

    def _run(self, parts: list[Part]) -> list[Computed]:
        """One pass; where a packed one failed, one for each of its parts, so that only the guilty one fails."""
        results = self._forward.run(parts)
        if not self._forward.packs or len(parts) == 1:
            return results
        for place, result in enumerate(results):
            if isinstance(result, Exception):
                _forget_frames(result)
                results[place] = self._forward.run([parts[place]])[0]
        return results

    def _passes(self) -> list[tuple[list[Running], list[Part]]]:
        """Who moves on in this step and with which tokens: those who may together, each of the others alone."""
        together = [one for one in self._running if not one.kind.own]
        others = [one for one in self._running if one.kind.own]
        alone = [others[place] for place in scheduler.turns([one.todo for one in others])]
        passes = [([one], [one.own_pass]) for one in alone]
        return [self._shared(together), *passes] if together else passes

    def _shared(self, together: list[Running]) -> tuple[list[Running], list[Part]]:
        """Those with one adapter stand side by side."""
        budget = scheduler.ALONE if len(self._running) + len(self._waiting) == 1 else scheduler.BESIDE
        counts = scheduler.plan([one.todo for one in together], budget)
        chosen = [(one, count) for one, count in zip(together, counts) if count]
        chosen.sort(key=lambda pair: pair[0].sequence.adapter or "")
        room = _GUESSED if self._speculate else 0
        parts = []
        for one, count in chosen:
            part = one.part(count, min(room, _GUESSED // len(chosen) + 1))
            room -= len(one.guess)
            parts.append(part)
        return [one for one, _ in chosen], parts

    def _advance(self, one: Running, part: Part, result: Computed, parts: int) -> None:
        if isinstance(result, Exception):
            self._fail(one, result)
            return
        if one.memory.length in one.stops:
            one.memory.mark()
        if not part.wanted:
            return
        try:
            finish = one.take(result, *self._costs.prices(parts))
        except Exception as error:  # noqa: BLE001 - no logits to draw from, or none that are numbers
            self._fail(one, error)
            return
        if finish is not None:
            self._end(one, finish)

    def _end(self, one: Running, outcome: Finish) -> None:
        self._running.remove(one)
        self._leave(one)
        self._shrink_prefixes()
        one.stream.put(outcome)

    def _leave(self, one: Running) -> None:
        """Its memory is for others from now on."""
        lends = one.memory.nearest(one.lends)
        if lends:
            one.memory.crop(lends)
            self._prefixes.put(one.kind, one.ids[:lends], one.memory)

    def _outgrow(self) -> None:
        """Those that have become too long for how they were computed begin again; nothing is drawn again."""
        for one in self._running:
            if one.outgrown:
                self._leave(one)
                one.outgrow(self._forward.memory())

    def _fail(self, one: Running, error: Exception) -> None:
        self._running.remove(one)
        known = self._describe(error, one.stream)
        _forget_frames(error)
        if known.code == "out_of_memory":
            self._prefixes.shrink(0)
            self._forward.free()
        one.stream.put(known)

    def _drop_cancelled(self) -> None:
        for one in [one for one in self._running if one.stream.cancelled.is_set()]:
            self._end(one, one.cancelled())
        for one in [one for one in self._preempted if one.stream.cancelled.is_set()]:
            self._preempted.remove(one)
            one.stream.put(one.cancelled())
        for stream in [stream for stream in self._waiting if stream.cancelled.is_set()]:
            self._waiting.remove(stream)
            stream.put(Finish("cancelled"))

    def _admit(self) -> None:
        """In the order they came, but who would compute what another is computing already waits for that."""
        while self._preempted and len(self._running) < _MOST and self._has_room(self._preempted[0].needs):
            self._running.append(self._preempted.popleft())
        for stream in list(self._waiting):
            if len(self._running) >= _MOST or self._preempted or not self._has_room():
                return
            if not self._waits(stream):
                self._waiting.remove(stream)
                self._begin(stream)

    def _begin(self, stream: TokenStream) -> None:
        sequence = stream.sequence
        kind = self._kind(sequence)
        try:
            shared, twin = max(self._alike(stream), key=lambda pair: pair[0], default=(0, None))
            if twin is not None and shared > self._prefixes.longest(kind, sequence.prompt[:-1]):
                memory: Memory | None = twin.memory.copy(shared)
            else:
                memory = self._prefixes.take(kind, sequence.prompt)[1]
            lookup = Lookup(sequence.prompt) if self._speculate and not kind.own else None
            sampler = self._make_sampler(stream)
            memory = memory or self._forward.memory()
            one = Running(stream, memory, sampler, lookup, kind, self._end_ids, self._growth)
            if not self._forward.crops:
                one.stops = self._stops(one)
            self._running.append(one)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the worker
            stream.put(self._describe(error, stream))

    def _kind(self, sequence: Sequence) -> Kind:
        seeded = sequence.sampling.seed is not None
        own = seeded and not independent(self._forward, sequence.adapter)
        return Kind(sequence.adapter, own, self._growth.side(len(sequence.prompt)))

    def _alike(self, stream: TokenStream) -> Iterator[tuple[int, Running]]:
        """(tokens that a running sequence of its kind has computed of this prompt, the sequence)."""
        prompt, kind = stream.sequence.prompt, self._kind(stream.sequence)
        for one in self._running:
            if one.kind == kind:
                length = min(one.lends, len(prompt) - 1)
                yield one.memory.nearest(kind.usable(common(one.ids[:length], prompt))), one

    def _waits(self, stream: TokenStream) -> bool:
        """Whether it waits for what another is computing, which is then told to stop where they part."""
        prompt, kind = stream.sequence.prompt, self._kind(stream.sequence)
        alike = [one for one in self._running if one.todo > 1 and one.kind == kind]
        pairs = [(kind.usable(min(common(one.ids, prompt), len(prompt) - 1)), one) for one in alike]
        coming = {length: one for length, one in pairs if self._forward.crops or length > one.memory.length}
        most = max(coming, default=0)
        if most <= _WORTH_WAITING:
            return False
        there = [self._prefixes.longest(kind, prompt), *(length for length, _ in self._alike(stream))]
        if most - max(there) <= _WORTH_WAITING:
            return False
        if not self._forward.crops:
            coming[most].stops.add(most)
        return True

    def _stops(self, one: Running) -> set[int]:
        """Where others may want to go on from: before what its prompt asks for an answer with, which is another in the
        next turn (with thoughts, say, that are left out of it), or at its last whole chunk; and where others before it
        went another way."""
        prompt, kind = one.sequence.prompt, one.kind
        end = kind.usable(len(prompt)) if kind.own else max(0, len(prompt) - _ASKING)
        others = [common(other.ids, prompt) for other in self._running if other.kind == kind]
        parting = kind.usable(max(self._prefixes.shared(kind, prompt), *others, 0))
        return {place for place in (end, min(parting, end)) if place - one.memory.length > _WORTH_WAITING}

    # Memory

    def _held(self) -> int:
        return sum(one.memory.bytes for one in self._running)

    def _has_room(self, needs: int = 0) -> bool:
        """Whether one more may begin that needs so many bytes at least; the first one always may."""
        return not self._running or self._held() + needs < self._limit

    def _shrink_prefixes(self) -> None:
        self._prefixes.shrink(max(0, self._limit - self._held()))

    def _make_room(self) -> None:
        """Where the running ones together are too large: the youngest gives its memory back and begins again later."""
        while len(self._running) > 1 and self._held() > self._limit:
            self._preempt(self._running[-1])
        self._shrink_prefixes()

    def _give_way(self) -> bool:
        """Lets something go where a pass had no room; False where there is nothing but the one that had none."""
        if self._prefixes.bytes:
            self._prefixes.shrink(self._prefixes.bytes // 2)
            return True
        if len(self._running) > 1:
            self._preempt(self._running[-1])
            return True
        return False

    def _preempt(self, one: Running) -> None:
        """It begins again when there is room. Nothing is drawn again: its tokens so far become its prompt."""
        self._running.remove(one)
        one.restart(self._forward.memory())
        self._preempted.appendleft(one)


def _forget_frames(error: Exception) -> None:
    """Frames of the pass hold its memories, and those of the step the error: together they would stay for long."""
    error.__traceback__ = None
