"""The bytes that a token stands for, from the name that its vocabulary gives it."""

from __future__ import annotations

import re

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A byte of which SentencePiece knows no piece."""
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that GPT-2's byte-level BPE writes as the character of that number; the others are those from 256 on."""
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + place): byte for place, byte in enumerate(_OTHERS)},
}


def token_bytes(name: object) -> bytes | None:
    """None where the name is of another kind than byte-level BPE, SentencePiece's byte fallback, or bytes."""
    if isinstance(name, bytes):
        return name
    if not isinstance(name, str):
        return None
    fallback = _FALLBACK.fullmatch(name)
    if fallback:
        return bytes((int(fallback.group(1), 16),))
    return bytes(map(_BYTES.__getitem__, name)) if _BYTES.keys() >= set(name) else None
