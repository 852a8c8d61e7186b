"""Canonical text of many samples to columns: microseconds, and each value's digits and places; pure.

A value is *regular* where it is ``-?digits(.digits)?`` of at most 16 bytes without its sign, without
superfluous leading zeros, with a mantissa (its digits without the point) below 10**9. Of any other value,
such as ``+5``, ``1e3`` or ``00.5``, nothing is known but where its text stands.

1. Words are eight bytes of the text as a little-endian number. Eight digits in a word become a number in
   three multiplications.
2. Nearly all values have at most nine digits. They are taken from the text by their beginning, so that the
   point is the first one in a word, and found by arithmetic; what stands behind it moves up by a byte.
3. Of the others the last 16 bytes are loaded as two words, ``front`` and ``tail``, so that the last character
   is the highest byte. What does not belong to the value is made zeros, and the point is taken out by moving
   what stands before it.
4. Loading a word from anywhere costs as much as twenty operations on words that are loaded, and looking for a
   character in the text as much as forty.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ec_server.packing import clock
from ec_server.packing.number_text import MANTISSA_END, Flags, Numbers, Words, pick

_PAD = 16
_HEAD = 8
"""Bytes of ``;UUUUUU,``."""
_LONGEST = 16
_WORD_BYTES = 8

_ZERO, _POINT, _MINUS, _COMMA, _END = b"0.-,;"
_ZERO_POINT = np.uint64(_POINT << 8 | _ZERO)
_POINTS = np.uint64(0x2E2E2E2E2E2E2E2E)
_ONES, _TOP_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_ZEROS = np.uint64(0x3030303030303030)
_SIXES = np.uint64(0x0606060606060606)
_HIGH_NIBBLES = np.uint64(0xF0F0F0F0F0F0F0F0)
_LOW_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
_LOW_BYTE, _LOW_TWO = np.uint64(0xFF), np.uint64(0xFFFF)
_BYTE, _TOP_BYTE = np.uint64(8), np.uint64(56)


def _first(count: int) -> int:
    """A mask of the first (lowest) ``count`` bytes of a word."""
    return (1 << 8 * min(max(count, 0), 8)) - 1


def _last(count: int) -> int:
    """A mask of the last (highest) ``count`` bytes of a word."""
    return _first(8) ^ _first(8 - count)


def _zeros(count: int) -> int:
    """``0`` in the first ``count`` bytes."""
    return int(_ZEROS) & _first(count)


# By number of digits: what moves them to the end of the word that they begin, and zeros before them.
_MOST = 9
_TO_END = np.array([(1 << 8 * max(8 - n, 0)) % (1 << 64) for n in range(_MOST + 1)], np.uint64)
_BEFORE = np.array([_zeros(8 - n) for n in range(_MOST + 1)], np.uint64)
_BEFORE_NINTH = np.array([10 if n == _MOST else 1 for n in range(_MOST + 1)])
_ALL_OF_NINTH = np.array([_first(8) if n == _MOST else 0 for n in range(_MOST + 1)], np.uint64)

# By length of a value: which bytes of its two words are not its own.
_NOT_TAIL = np.array([_first(8) ^ _last(n) for n in range(_LONGEST + 1)], np.uint64)
_NOT_FRONT = np.array([_first(8) ^ _last(n - 8) for n in range(_LONGEST + 1)], np.uint64)
# By digits after the point, 16 for no point: what stays where it is, what moves up by a byte, whether the
# front's last byte moves into the tail, and what comes into the front's first byte.
_NO_POINT = 16
_PLACES = range(_LONGEST + 1)
_TAIL_STAYS = np.array([_last(p) for p in _PLACES], np.uint64)
_TAIL_MOVES = np.array([_first(7 - p) for p in _PLACES], np.uint64)
_CARRIED = np.array([_first(1) * (p < 8) for p in _PLACES], np.uint64)
_FRONT_STAYS = np.array([_last(p - 8) for p in _PLACES], np.uint64)
_FRONT_MOVES = np.array([_first(15 - p) for p in _PLACES], np.uint64)
_FILLED = np.array([_ZERO * (p < _NO_POINT) for p in _PLACES], np.uint64)


class Samples(NamedTuple):
    """Samples of one text, in its order; arrays of one length."""

    us: Numbers
    negative: Flags
    """The value begins with ``-``."""
    mantissas: Numbers
    """The value's digits without its point, as a number; 0 where it is not regular."""
    places: Numbers
    """Digits after the point; 0 where it is not regular."""
    regular: Flags
    starts: Numbers
    """Where each value begins in the text."""
    ends: Numbers
    """Where it ends."""

    def first(self, count: int) -> Samples:
        """The first so many."""
        return Samples(*[column[:count] for column in self])  # type: ignore[arg-type]


def scan(text: bytes) -> Samples | None:
    """The samples of canonical text; None where it is not ``UUUUUU,VALUE`` joined by ``;``."""
    padded = b"".join((bytes(_PAD), b";", text, b";", bytes(_PAD)))
    raw = np.frombuffer(padded, np.uint8)
    bounds = np.flatnonzero(raw == _END)
    begins, ends = bounds[:-1], bounds[1:]
    if int((ends - begins).min()) <= _HEAD:
        return None
    heads, firsts = np.ascontiguousarray(_words_at(padded, begins, 2).T)
    us = _microseconds(heads)
    if us is None:
        return None
    negative = (firsts & _LOW_BYTE) == _MINUS
    starts = begins + _HEAD
    unsigned = starts + negative if negative.any() else starts
    mantissas, places, regular = _numbers(_loaded(padded, firsts, negative, unsigned, ends))
    if not regular.all():
        some = np.flatnonzero(~regular)
        standing = _Standing(padded, raw, unsigned[some], ends[some])
        mantissas[some], places[some], regular[some] = _closely(standing)
    return Samples(us, negative, mantissas, places, regular, starts - (_PAD + 1), ends - (_PAD + 1))


def _words_at(padded: bytes, places: Numbers, count: int) -> Words:
    """So many words from each place on, a row each."""
    item = np.dtype((np.void, _WORD_BYTES * count))
    anywhere = np.ndarray((len(padded) - item.itemsize + 1,), item, buffer=padded, strides=(1,))
    return anywhere[places].view("<u8").reshape(len(places), count)


def _microseconds(heads: Words) -> Numbers | None:
    """The microsecond in each ``;UUUUUU,``; None where some are no digits with a comma behind."""
    us, usual = clock.usual(len(heads))
    if np.array_equal(heads, usual):
        return us
    if (heads >> _TOP_BYTE != _COMMA).any():
        return None
    digits = (heads << _BYTE & ~np.uint64(0xFFFF)) | np.uint64(0x3030)
    return None if _not_digits(digits).any() else _eight_digits(digits)


_NOTHING, _NO = np.zeros(1, np.uint64), np.zeros(1, np.bool_)


class _Loaded(NamedTuple):
    """The first bytes of unsigned values as words, whatever stands behind them included."""

    low: Words
    high: Words
    """A single one for all, where all values have room in the first."""
    lengths: Numbers
    behind_zero: Flags
    """The value begins with ``0.``"""
    dropped: Flags
    """This ``0`` is left out here, so that the nine digits behind it can be read."""


def _loaded(padded: bytes, firsts: Words, negative: Flags, starts: Numbers, ends: Numbers) -> _Loaded:
    """Values from their ``starts`` on; ``firsts`` are the words that begin with their signs."""
    unsigned = np.where(negative, firsts >> _BYTE, firsts) if negative.any() else firsts
    behind_zero = (unsigned & _LOW_TWO) == _ZERO_POINT
    lengths = ends - starts
    if int(lengths.max()) + bool(negative.any()) <= 8:
        return _Loaded(unsigned, _NOTHING, lengths, behind_zero, _NO)
    dropped = behind_zero & (lengths > _MOST + 1)
    if dropped.any():
        starts = starts + dropped
        lengths -= dropped
    low, high = np.ascontiguousarray(_words_at(padded, starts, 2).T)
    return _Loaded(low, high, lengths, behind_zero, dropped)


def _numbers(value: _Loaded) -> tuple[Numbers, Numbers, Flags]:
    """Mantissa and places of each value, and whether it is surely regular."""
    low, high, lengths, behind_zero, dropped = value
    before = _before_point(low)
    has_point = before != ~np.uint64(0)
    count = lengths - has_point
    whole = np.bitwise_count(before).astype(np.int64) >> 3
    digits = low >> _BYTE
    digits |= high << _TOP_BYTE
    digits ^= (digits ^ low) & before
    digits *= pick(_TO_END, count)
    digits |= pick(_BEFORE, count)
    regular = (count >= 1) & (count <= _MOST) & ~_not_digits(digits)
    regular &= (whole < count) & ((whole >= 1) | dropped) | ~has_point & (count < _MOST)
    regular &= ((low & _LOW_BYTE) != _ZERO) | behind_zero | (lengths == 1)

    mantissas = _eight_digits(digits)
    if high is not _NOTHING:
        ninth = (high >> _BYTE) & _LOW_BYTE
        ninth -= np.uint64(_ZERO)
        regular &= (ninth <= np.uint64(9)) | (count < _MOST)
        ninth &= pick(_ALL_OF_NINTH, count)
        mantissas *= pick(_BEFORE_NINTH, count)
        mantissas += ninth.view(np.int64)
    return mantissas, (count - whole) * has_point, regular


def _before_point(low: Words) -> Words:
    """A mask of the bytes before the first point in each word; all of them where there is none."""
    points = low ^ _POINTS
    found = points - _ONES
    found &= ~points
    found &= _TOP_BITS
    found &= ~found + np.uint64(1)
    found >>= np.uint64(7)
    found -= np.uint64(1)
    return found


# --- longer values, and what is none ----------------------------------------------------------


class _Standing(NamedTuple):
    """Where values stand in the text, without their signs."""

    padded: bytes
    raw: npt.NDArray[np.uint8]
    starts: Numbers
    ends: Numbers


def _closely(values: _Standing) -> tuple[Numbers, Numbers, Flags]:
    """Mantissa and places of each value, 0 where it is not regular; and whether it is."""
    lengths = values.ends - values.starts
    words = _words_at(values.padded, values.ends - _LONGEST, 2)
    places = _bytes_behind_point(words)
    places[places >= np.minimum(lengths, _LONGEST)] = _NO_POINT
    before_point = lengths - places - 1
    before_point[places == _NO_POINT] += _NO_POINT + 1
    bad = (before_point < 1) | (places == 0) | (lengths > _LONGEST)
    bad |= (values.raw[values.starts] == _ZERO) & (before_point > 1)
    front, tail = _without_points(words, lengths, places)
    bad |= _not_digits(tail) | _not_digits(front)
    mantissas = _eight_digits(tail) + _eight_digits(front) * 10**8
    bad |= mantissas >= MANTISSA_END
    mantissas[bad] = 0
    places[bad | (places == _NO_POINT)] = 0
    return mantissas, places, ~bad


def _bytes_behind_point(words: Words) -> Numbers:
    """How many of the last 16 bytes stand behind the last point; _NO_POINT where there is none."""
    is_point = words.view(np.uint8)[:, ::-1] == _POINT
    return np.where(is_point.any(axis=1), is_point.argmax(axis=1), _NO_POINT)


def _without_points(words: Words, lengths: Numbers, places: Numbers) -> tuple[Words, Words]:
    """Each value's last 16 characters but for the point, in two words."""
    front, tail = words.T
    known = np.minimum(lengths, _LONGEST)
    tail = _own_bytes(tail, pick(_NOT_TAIL, known))
    front = _own_bytes(front, pick(_NOT_FRONT, known))
    tail_moved = (tail & _TAIL_STAYS[places]) | ((tail & _TAIL_MOVES[places]) << _BYTE)
    tail_moved |= (front >> _TOP_BYTE) & _CARRIED[places]
    front_moved = (front & _FRONT_STAYS[places]) | ((front & _FRONT_MOVES[places]) << _BYTE)
    return front_moved | _FILLED[places], tail_moved


def _own_bytes(words: Words, others: Words) -> Words:
    """The words with ``0`` in place of the other bytes."""
    return (words | others) ^ (others & ~_ZEROS)


# --- digits -----------------------------------------------------------------------------------


def _not_digits(words: Words) -> Flags:
    """Whether some byte is not ``0`` to ``9``."""
    other = words ^ _ZEROS
    other |= other + _SIXES
    other &= _HIGH_NIBBLES
    wrong: Flags = other != 0
    return wrong


def _eight_digits(words: Words) -> Numbers:
    """Eight digits, the first one in the lowest byte, as a number; anything where they are not digits."""
    value = words & _LOW_NIBBLES
    value *= np.uint64(10 << 8 | 1)
    value >>= np.uint64(8)
    value &= np.uint64(0x00FF00FF00FF00FF)
    value *= np.uint64(100 << 16 | 1)
    value >>= np.uint64(16)
    value &= np.uint64(0x0000FFFF0000FFFF)
    value *= np.uint64(10_000 << 32 | 1)
    value >>= np.uint64(32)
    return value.view(np.int64)
