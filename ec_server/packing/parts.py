"""Byte strings within one byte string: each part as its length (u32, little-endian) and its bytes; pure."""

from __future__ import annotations

from collections.abc import Sequence

from utilities.errors import BlockError


def join_parts(parts: Sequence[bytes]) -> bytes:
    """The parts as one byte string."""
    return b"".join([len(part).to_bytes(4, "little") + part for part in parts])


def split_parts(data: bytes, count: int) -> list[bytes]:
    """The ``count`` parts that ``join_parts`` joined. Raises BlockError where they are not that."""
    parts, place = [], 0
    for _ in range(count):
        begin = place + 4
        place = begin + int.from_bytes(data[place:begin], "little")
        parts.append(data[begin:place])
    if place != len(data):
        raise BlockError(f"{count} parts end at byte {place}, not at {len(data)}")
    return parts
