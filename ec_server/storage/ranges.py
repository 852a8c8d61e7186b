"""Sets of whole minutes as sorted, disjoint, half-open ranges; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from utilities.utc import MINUTE_S

Range = tuple[int, int]
"""``[start, stop)``, both epoch seconds of minutes."""


def text_of(ranges: Iterable[Range]) -> str:
    """Ranges as one text, for a database."""
    return ",".join(f"{start}-{stop}" for start, stop in ranges)


def of_text(text: str | None) -> list[Range]:
    """The ranges in a text of ``text_of``."""
    parts = [part.split("-") for part in (text or "").split(",") if part]
    return [(int(start), int(stop)) for start, stop in parts]


def union(ranges: Iterable[Range]) -> list[Range]:
    """The ranges sorted; those that touch or overlap are merged, empty ones left out."""
    merged: list[Range] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def subtract(ranges: Iterable[Range], taken: Iterable[Range]) -> list[Range]:
    """The part of ``ranges`` that is in none of ``taken``."""
    holes = union(taken)
    left: list[Range] = []
    for start, stop in union(ranges):
        at = start
        for hole_start, hole_stop in holes:
            if hole_stop <= at:
                continue
            if hole_start >= stop:
                break
            left.append((at, hole_start))
            at = max(at, hole_stop)
        left.append((at, stop))
    return [r for r in left if r[0] < r[1]]


def clip(ranges: Iterable[Range], start: int, stop: int) -> list[Range]:
    """The part of ``ranges`` that is in ``[start, stop)``."""
    clipped = [(max(a, start), min(b, stop)) for a, b in ranges]
    return [r for r in clipped if r[0] < r[1]]


def of_minutes(minutes: Iterable[int]) -> list[Range]:
    """The ranges that consist of these minutes."""
    return union((minute, minute + MINUTE_S) for minute in minutes)


def minutes_in(ranges: Iterable[Range]) -> Iterator[int]:
    """Every minute of the ranges, in order."""
    for start, stop in ranges:
        yield from range(start, stop, MINUTE_S)
