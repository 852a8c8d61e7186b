"""The microseconds of a block: next to nothing for a regular clock, deltas for any other; pure.

A clock of ``rate`` ticks a second has tick ``i`` at microsecond ``(i * 1,000,000 + offset) // rate``; the
offset is 0 where the meter cuts fractions off, and ``rate // 2`` where it rounds. Lost samples and
overlapping rows leave runs of consecutive ticks. The column's first byte says how it is stored:

=== ====================================================================================
0   ``rate`` and ``offset`` (u32 each), the number of runs (u32), then two parts: the first
    tick of each run as a column of whole numbers, and the length of each run as another
1   a column of whole numbers: the first microsecond, then each one's distance from the last
=== ====================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ec_server.packing import int_column
from ec_server.packing.number_text import Numbers, Words, head_words
from ec_server.packing.parts import join_parts, split_parts
from utilities.errors import BlockError

_TICKS, _DISTANCES = 0, 1
_US = 1_000_000
_HEADER = struct.Struct("<BIII")
_HIGHEST_RATE = 200_000
_PROBE = 64
_ROUND_STEPS = (1, 10, 50, 100, 500, 1000)
"""A rate that is estimated from few samples is tried rounded to these, too."""


class Times(NamedTuple):
    """Microseconds and their text, sample by sample."""

    us: Numbers
    heads: Words
    """``;UUUUUU,`` as number_text writes it."""


def usual(count: int) -> Times:
    """What a second of ``count`` samples has mostly: a clock of so many ticks that cuts fractions off."""
    face = _face(min(count, _HIGHEST_RATE), 0)
    return Times(face.us[:count], face.heads[:count])


def encode(us: Numbers) -> bytes:
    """Microseconds within a second, in any order, as bytes."""
    if np.array_equal(us, usual(len(us)).us):
        return _runs(len(us), 0, np.zeros(1, np.int64), np.array([len(us)]))
    for rate in _likely_rates(us):
        for offset in (0, rate // 2):
            ticks = _ticks(us, rate, offset)
            packed = _encode_ticks(rate, offset, ticks) if ticks is not None else None
            if packed is not None:
                return packed
    return bytes([_DISTANCES]) + int_column.encode(np.diff(us, prepend=0))


def decode(data: bytes, count: int) -> Times:
    """The ``count`` microseconds of a column. Raises BlockError where it holds no such."""
    if data[:1] == bytes([_DISTANCES]):
        us = np.cumsum(int_column.decode(data[1:], count))
        return Times(us, head_words(us))
    if data[:1] != bytes([_TICKS]):
        raise BlockError(f"a column of microseconds begins with {data[:1]!r}")
    _, rate, offset, runs = _HEADER.unpack_from(data)
    first, length = split_parts(data[_HEADER.size :], 2)
    firsts, lengths = int_column.decode(first, runs), int_column.decode(length, runs)
    if int(lengths.sum()) != count:
        raise BlockError(f"runs of ticks do not make up {count} samples")
    face = _face(rate, offset)
    if runs == 1:
        span = slice(int(firsts[0]), int(firsts[0]) + count)
        return Times(face.us[span], face.heads[span])
    begins = np.cumsum(lengths) - lengths
    ticks = np.arange(count) + np.repeat(firsts - begins, lengths)
    return Times(face.us.take(ticks), face.heads.take(ticks))


def _ticks(us: Numbers, rate: int, offset: int) -> Numbers | None:
    """The tick of each microsecond; None where some are none of such a clock; the first few mostly tell."""
    few = us[:_PROBE]
    if not np.array_equal((_ticks_before(few, rate, offset) * _US + offset) // rate, few):
        return None
    ticks = _ticks_before(us, rate, offset)
    return ticks if np.array_equal(_face(rate, offset).us.take(ticks, mode="clip"), us) else None


def _ticks_before(us: Numbers, rate: int, offset: int) -> Numbers:
    """The earliest tick that is not before each microsecond."""
    return -((offset - us * rate) // _US)


def _encode_ticks(rate: int, offset: int, ticks: Numbers) -> bytes | None:
    """The column of runs of ticks; None where there are so many runs that it would not pay."""
    begins = np.flatnonzero(np.diff(ticks, prepend=ticks[0] - 2) != 1)
    if len(begins) > max(1, len(ticks) // 8):
        return None
    lengths = np.diff(begins, append=len(ticks))
    return _runs(rate, offset, ticks[begins], lengths)


def _runs(rate: int, offset: int, firsts: Numbers, lengths: Numbers) -> bytes:
    header = _HEADER.pack(_TICKS, rate, offset, len(firsts))
    return header + join_parts([int_column.encode(firsts), int_column.encode(lengths)])


def _likely_rates(us: Numbers) -> Iterator[int]:
    """Rates that samples may have: as many as there are, or what fits the longest stretch without a gap."""
    yield min(len(us), _HIGHEST_RATE)
    steps = np.diff(us)
    if not len(steps):
        return
    usual = int(np.median(steps))
    breaks = np.flatnonzero(np.abs(steps - usual) > 1)
    edges = np.concatenate(([-1], breaks, [len(steps)]))
    longest = int(np.diff(edges).argmax())
    begin, end = int(edges[longest]) + 1, int(edges[longest + 1])
    if begin >= end or us[end] <= us[begin]:
        return
    estimate = (end - begin) * _US / int(us[end] - us[begin])
    rates = dict.fromkeys(round(estimate / step) * step for step in _ROUND_STEPS)
    yield from (rate for rate in rates if 0 < rate <= _HIGHEST_RATE)


@lru_cache(maxsize=8)
def _face(rate: int, offset: int) -> Times:
    """All ticks of one second of a clock."""
    us = (np.arange(rate, dtype=np.int64) * _US + offset) // rate
    heads = head_words(us)
    us.setflags(write=False)
    heads.setflags(write=False)
    return Times(us, heads)
