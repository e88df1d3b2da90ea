"""Bytes by where they lie: `cpu`, the main memory, and `gpu0`, `gpu1`, ...: each accelerator's own."""

from __future__ import annotations

from collections.abc import Mapping

Sizes = Mapping[str, int]
MAIN = "cpu"


def card(number: int) -> str:
    """An accelerator by the driver's number, as nvidia-smi has it."""
    return f"gpu{number}"


def cards_only(sizes: Sizes) -> dict[str, int]:
    return {place: size for place, size in sizes.items() if place != MAIN}


def largest(one: Sizes, other: Sizes) -> dict[str, int]:
    """Of each place the larger."""
    return {place: max(one.get(place, 0), other.get(place, 0)) for place in (*one, *other)}
