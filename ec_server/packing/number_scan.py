"""Canonical text of many samples to columns: microseconds, and each value's digits and places; pure.

A value is *regular* where it is ``-?digits(.digits)?`` of at most 16 bytes without its sign, without
superfluous leading zeros, with a mantissa (its digits without the point) below 10**9. Of any other value,
such as ``+5``, ``1e3`` or ``00.5``, nothing is known but where its text stands.

Each value's last 16 bytes are loaded as two little-endian words, ``front`` and ``tail``, so that its last
character is the highest byte. What does not belong to the value is made zeros, the point is taken out by
moving what stands before it, and eight digits at a time become a number in three multiplications.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ec_server.packing.number_text import MANTISSA_END, Flags, Numbers, Words

_PAD = 16
_HEAD = 7
"""Bytes of ``UUUUUU,``."""
_LONGEST = 16
_NO_POINT = 16

_ZEROS = np.uint64(0x3030303030303030)
_SIXES = np.uint64(0x0606060606060606)
_HIGH_NIBBLES = np.uint64(0xF0F0F0F0F0F0F0F0)
_LOW_NIBBLES = np.uint64(0x0F0F0F0F0F0F0F0F)
_BYTE, _TOP_BYTE, _TWO_BYTES = np.uint64(8), np.uint64(56), np.uint64(16)

_Places = Numbers | np.int64
"""Digits after the point of each value, or of all."""


def _first(count: int) -> int:
    """A mask of the first (lowest) ``count`` bytes of a word."""
    return (1 << 8 * min(max(count, 0), 8)) - 1


def _last(count: int) -> int:
    """A mask of the last (highest) ``count`` bytes of a word."""
    return _first(8) ^ _first(8 - count)


# By length of a value: which bytes of its two words are not its own.
_NOT_TAIL = np.array([_first(8) ^ _last(n) for n in range(_LONGEST + 1)], np.uint64)
_NOT_FRONT = np.array([_first(8) ^ _last(n - 8) for n in range(_LONGEST + 1)], np.uint64)
# By digits after the point, 16 for no point: what stays where it is, what moves up by a byte, whether the
# front's last byte moves into the tail, and what comes into the front's first byte.
_PLACES = range(_LONGEST + 1)
_TAIL_STAYS = np.array([_last(p) for p in _PLACES], np.uint64)
_TAIL_MOVES = np.array([_first(7 - p) for p in _PLACES], np.uint64)
_CARRIED = np.array([_first(1) * (p < 8) for p in _PLACES], np.uint64)
_FRONT_STAYS = np.array([_last(p - 8) for p in _PLACES], np.uint64)
_FRONT_MOVES = np.array([_first(15 - p) for p in _PLACES], np.uint64)
_FILLED = np.array([ord("0") * (p < _NO_POINT) for p in _PLACES], np.uint64)


class Samples(NamedTuple):
    """Samples of one text, in its order; arrays of one length."""

    us: Numbers
    negative: Flags
    """The value begins with ``-``."""
    mantissas: Numbers
    """The value's digits without its point, as a number; 0 where it is not regular."""
    places: Numbers
    """Digits after the point."""
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
    padded = b"".join((bytes(_PAD), text, b";", bytes(8)))
    raw = np.frombuffer(padded, np.uint8)
    words = np.ndarray((len(padded) - 7,), "<u8", buffer=padded, strides=(1,))
    ends = np.flatnonzero(raw == ord(";"))
    starts = np.concatenate(([_PAD], ends[:-1] + 1))
    us = _microseconds(words[starts])
    starts += _HEAD
    if us is None or (ends <= starts).any():
        return None
    negative = raw[starts] == ord("-")
    unsigned = starts + negative
    lengths = ends - unsigned
    places = _places(raw, ends, lengths)
    front = words[ends - 16] if int(lengths.max()) > 8 else None
    values = _Values(words[ends - 8], front, lengths, raw[unsigned])
    mantissas, regular = _decimals(values, places)
    places[places == _NO_POINT] = 0
    return Samples(us, negative, mantissas, places, regular, starts - _PAD, ends - _PAD)


def _microseconds(heads: Words) -> Numbers | None:
    """The six digits that each word begins with; None where some are not digits with a comma behind."""
    if ((heads >> np.uint64(48)) & np.uint64(0xFF) != ord(",")).any():
        return None
    digits = (heads << _TWO_BYTES) | np.uint64(0x3030)
    return None if _not_digits(digits).any() else _eight_digits(digits)


def _places(raw: npt.NDArray[np.uint8], ends: Numbers, lengths: Numbers) -> Numbers:
    """How many bytes stand behind each value's last point; _NO_POINT where there is none in its words."""
    usual = _places_of_first(raw, int(ends[0]), int(lengths[0]))
    if usual and int(lengths.min()) > usual and (raw[ends - usual - 1] == ord(".")).all():
        return np.full(len(ends), usual)
    points = np.flatnonzero(raw == ord("."))
    if len(points) == len(ends):
        places = ends - points - 1
        if ((places >= 0) & (places < np.minimum(lengths, _LONGEST))).all():
            return places
    places = np.full(len(ends), _NO_POINT)
    value = np.searchsorted(ends, points)
    places[value] = ends[value] - points - 1
    places[places >= np.minimum(lengths, _LONGEST)] = _NO_POINT
    return places


def _places_of_first(raw: npt.NDArray[np.uint8], end: int, length: int) -> int:
    """How many bytes stand behind the first value's last point; 0 where it has none in 16 bytes."""
    value = raw[max(end - length, end - _LONGEST) : end].tobytes()
    return len(value) - 1 - value.rfind(b".") if b"." in value else 0


class _Values(NamedTuple):
    """Values without their sign."""

    tail: Words
    front: Words | None
    """None where no value has more than 8 bytes."""
    lengths: Numbers
    first: npt.NDArray[np.uint8]
    """The first character."""


def _decimals(values: _Values, places: Numbers) -> tuple[Numbers, Flags]:
    """The values without their points as numbers, 0 where they are not regular; and which are."""
    lengths = values.lengths
    before_point = lengths - places - 1
    before_point[places == _NO_POINT] += _NO_POINT + 1
    bad = (before_point < 1) | (places == 0) | (lengths > _LONGEST)
    bad |= (values.first == ord("0")) & (before_point > 1)
    tail, front = _without_points(values, places)
    bad |= _not_digits(tail)
    mantissas = _eight_digits(tail)
    if front is not None and (front != _ZEROS).any():
        bad |= _not_digits(front)
        mantissas += _eight_digits(front) * 10**8
        bad |= mantissas >= MANTISSA_END
    mantissas[bad] = 0
    return mantissas, ~bad


def _without_points(values: _Values, places: Numbers) -> tuple[Words, Words | None]:
    """Each value's last 16 characters but for the point, in two words; no second one where all are zeros."""
    known = np.minimum(values.lengths, _LONGEST)
    at: _Places = places[0] if (places == places[0]).all() else places
    tail = _own_bytes(values.tail, _NOT_TAIL.take(known, mode="clip"))
    moved = (tail & _TAIL_STAYS[at]) | ((tail & _TAIL_MOVES[at]) << _BYTE)
    if values.front is None:
        return moved | (_ZEROS & _CARRIED[at]), None
    front = _own_bytes(values.front, _NOT_FRONT.take(known, mode="clip"))
    moved |= (front >> _TOP_BYTE) & _CARRIED[at]
    return moved, (front & _FRONT_STAYS[at]) | ((front & _FRONT_MOVES[at]) << _BYTE) | _FILLED[at]


def _own_bytes(words: Words, others: Words) -> Words:
    """The words with ``0`` in place of the other bytes."""
    return (words | others) ^ (others & ~_ZEROS)


def _not_digits(words: Words) -> Flags:
    """Whether some byte is not ``0`` to ``9``."""
    other = words ^ _ZEROS
    wrong: Flags = ((other | (other + _SIXES)) & _HIGH_NIBBLES) != 0
    return wrong


def _eight_digits(words: Words) -> Numbers:
    """Eight digits, the first one in the lowest byte, as a number; anything where they are not digits."""
    value = words & _LOW_NIBBLES
    value = (value * np.uint64(10) + (value >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    value = (value * np.uint64(100) + (value >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    value = (value * np.uint64(10000) + (value >> np.uint64(32))) & np.uint64(0x00000000FFFFFFFF)
    return value.view(np.int64)
