"""Tags in a text that still grows."""

from __future__ import annotations

from collections.abc import Sequence


def first_tag(text: str, tags: Sequence[str]) -> tuple[int, str] | None:
    """Where the first of the tags stands, and which it is; of two at one place the longer one."""
    places = [(place, -len(tag), tag) for tag in tags if (place := text.find(tag)) >= 0]
    if not places:
        return None
    place, _, tag = min(places)
    return place, tag


def begun(text: str, tags: Sequence[str]) -> int:
    """Length of the longest end of the text that is a beginning, not the whole, of a tag."""
    longest = min(max(map(len, tags)) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if any(_opens(tag, text[-size:]) for tag in tags)), 0)


def certain(text: str, tags: Sequence[str]) -> int:
    """How much of the text can be neither the beginning of a tag nor white space before one."""
    return len(text[: len(text) - begun(text, tags)].rstrip())


def _opens(tag: str, end: str) -> bool:
    return len(end) < len(tag) and tag.startswith(end)
