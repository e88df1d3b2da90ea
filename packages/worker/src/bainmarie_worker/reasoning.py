"""What a model writes for itself before it answers, told apart from the answer: `<think>...</think>` and its kin.

Harmony's analysis channel is `tool_parsers/harmony.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from bainmarie_worker.tool_parsers import Delta, Parser, Reasoning, Text
from bainmarie_worker.tool_parsers.tags import certain


@dataclass(frozen=True)
class Marks:
    """What stands around it."""

    open: str
    close: str

    def begun_in(self, prompt: str) -> bool:
        """Whether the prompt itself ends with the opening mark, so that the answer begins inside."""
        return prompt.rstrip().endswith(self.open)


_KNOWN = (
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
    Marks("[THINK]", "[/THINK]"),  # Magistral, Ministral
    Marks("<|channel>thought", "<channel|>"),  # Gemma 4
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marks("<think>", "</think>"),  # Qwen, DeepSeek, GLM, Nemotron, SmolLM3, MiniMax, Kimi and many others
    Marks("<thought>", "</thought>"),  # EXAONE Deep
)


def marks_of(template: str) -> Marks | None:
    """The marks of which a chat template knows; None for a model that does not reason."""
    return next((marks for marks in _KNOWN if marks.close in template), None)


class ReasoningParser:
    """Reasoning where the answer begins with it, without the white space around it; the rest is `rest`'s to read.

    So calls inside it are no calls. An answer that ends inside is reasoning alone.
    """

    def __init__(self, marks: Marks, rest: Parser | None, *, inside: bool, inline: bool = False) -> None:
        """`inside`: the answer begins there. `inline`: all is text, as the model wrote it."""
        self._marks = marks
        self._rest = rest
        self._inline = inline
        self._held = ""
        self._read = self._inside if inside else self._before
        self._said = False

    def feed(self, text: str) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        while self._read(found):
            pass
        return found

    def finish(self) -> list[Delta]:
        held, self._held = self._held, ""
        if self._read == self._inside:
            return self._thought(held if self._inline else held.rstrip())
        if self._read == self._behind:
            held = ""
        return [*(self._answer(held) if held else []), *(self._rest.finish() if self._rest else [])]

    def _before(self, found: list[Delta]) -> bool:
        """Until it is clear whether the answer begins with the mark."""
        start, mark = self._held.lstrip(), self._marks.open
        if mark.startswith(start) and start != mark:
            return False
        if not start.startswith(mark):
            self._read = self._after
            return True
        if self._inline:
            found += self._thought(self._held[: len(self._held) - len(start)] + mark)
        self._held, self._read = start[len(mark) :], self._inside
        return True

    def _inside(self, found: list[Delta]) -> bool:
        if not self._said and not self._inline:
            self._held = self._held.lstrip()
        close = self._marks.close
        thought, mark, rest = self._held.partition(close)
        if mark:
            found += self._thought(thought + mark if self._inline else thought.rstrip())
            self._held, self._read = rest, self._after if self._inline else self._behind
            return True
        end = certain(self._held, [close])
        found += self._thought(self._held[:end])
        self._held = self._held[end:]
        return False

    def _behind(self, found: list[Delta]) -> bool:
        """White space between reasoning and answer says nothing."""
        self._held = self._held.lstrip()
        if self._held:
            self._read = self._after
        return bool(self._held)

    def _after(self, found: list[Delta]) -> bool:
        held, self._held = self._held, ""
        found += self._answer(held)
        return False

    def _thought(self, text: str) -> list[Delta]:
        if not text:
            return []
        self._said = True
        return [Text(text) if self._inline else Reasoning(text)]

    def _answer(self, text: str) -> list[Delta]:
        if not text:
            return []
        return self._rest.feed(text) if self._rest else [Text(text)]
