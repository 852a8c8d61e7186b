"""float32 values as C's ``%.9g`` prints them, directly or as ranks among the distinct ones; pure.

``direct`` are two parts: a pcodec file of float32, and exceptions. ``table`` are three: the number of
distinct values (u32) and a pcodec file of them, ascending, as u32 (their bits, inverted where the sign bit is
set, else with the sign bit set; so they ascend as the numbers do); each value's rank among them as a column
of whole numbers; exceptions.

Converters give few distinct values, and ranks follow the signal as the values do, but in whole numbers; where
nearly all values are distinct, the table alone is as large as the floats.

Whether a value is a float32 is known for sure once it was printed again. That is done anyway before a block
is written, so at first the regular values are believed to be floats where the first few are; where that was
wrong, each is looked at.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ec_server.packing import exceptions, int_column, numeric_file
from ec_server.packing.decimal_values import stripped
from ec_server.packing.exceptions import Exceptions, Values
from ec_server.packing.number_scan import Samples
from ec_server.packing.number_text import (
    FLOAT_END,
    LEAST_FLOAT,
    Doubles,
    Flags,
    Numbers,
    decimal_digits,
    float_digits,
    pick,
    value_words,
)
from ec_server.packing.parts import join_parts, split_parts

_Floats = npt.NDArray[np.float32]
_Bits = npt.NDArray[np.uint32]

_POWERS = 10.0 ** np.arange(23)
_SIGN = np.uint32(1 << 31)
_NINE_DIGITS = 10**8
_LONG_MANTISSA = 10**6
"""Where all mantissas are shorter, decimal numbers are the better guess."""
_PROBE = 64
_MIX, _SPREAD = np.uint32(0x85EBCA6B), np.uint32(0x9E3779B1)
"""Odd numbers with their bits well mixed, for a hash by multiplication."""
_TABLE_UP_TO, _DIRECT_FROM = 0.95, 0.8
"""Distinct values as a share of all, up to which a table is tried, and from which on floats are."""


DIRECT, TABLE = 3, 4
"""Numbers of the codecs."""


def encode_believed(text: bytes, samples: Samples) -> list[tuple[int, bytes]]:
    """Codec and body for the values, of which only some were looked at; [] where these are no long floats."""
    some = samples.first(_PROBE)
    if int((some.mantissas >= _NINE_DIGITS).sum()) * 2 < len(some.us) or not _are_floats(text, some):
        return []
    good = samples.regular
    if not exceptions.are_few(good):
        return []
    return _encode(text, samples, *_with_others(text, samples, _nearest(samples), good))


def encode(text: bytes, samples: Samples) -> list[tuple[int, bytes]]:
    """Codec and body for the values as float32, by one way or both; [] where too many values are none."""
    if samples.mantissas.max() < _LONG_MANTISSA or not _are_floats(text, samples.first(_PROBE)):
        return []
    floats, good = _as_floats(text, samples)
    return _encode(text, samples, floats, good) if exceptions.are_few(good) else []


def _encode(text: bytes, samples: Samples, floats: _Floats, good: Flags) -> list[tuple[int, bytes]]:
    floats = exceptions.without_exceptions(floats, good)
    odd = exceptions.encode(text, samples, good)
    in_order = _in_order(floats)
    share = _distinct_share(in_order)
    bodies = []
    if share <= _TABLE_UP_TO:
        distinct, ranks = np.unique(in_order, return_inverse=True)
        table = len(distinct).to_bytes(4, "little") + numeric_file.compress_ascending(distinct)
        column = int_column.encode(ranks.astype(np.int64), signal=True)
        bodies.append((TABLE, join_parts([table, column, odd])))
    if share >= _DIRECT_FROM:
        bodies.append((DIRECT, join_parts([numeric_file.compress_floats(floats), odd])))
    return sorted(bodies, key=lambda body: len(body[1]))


def _distinct_share(bits: _Bits) -> float:
    """About how many of the numbers are distinct, as a share of all: 0.01 more or less.

    Counts the places that their hashes take in a table of more than four times their number, and reckons
    with those that share one. To sort them takes five times as long.
    """
    table_bits = len(bits).bit_length() + 2
    mixed = bits ^ (bits >> np.uint32(16))
    mixed *= _MIX
    mixed ^= mixed >> np.uint32(13)
    mixed *= _SPREAD
    mixed >>= np.uint32(32 - table_bits)
    taken = np.zeros(1 << table_bits, np.bool_)
    taken[mixed] = True
    free = 1 - np.count_nonzero(taken) / len(taken)
    return -math.log(free) * len(taken) / len(bits)


def decode_direct(body: bytes, count: int) -> Values:
    """The values of a body of DIRECT."""
    column, odd = split_parts(body, 2)
    return _printed(numeric_file.decompress(column, count).astype(np.float32), exceptions.decode(odd))


def decode_table(body: bytes, count: int) -> Values:
    """The values of a body of TABLE."""
    table, ranks, odd = split_parts(body, 3)
    distinct = numeric_file.decompress(table[4:], int.from_bytes(table[:4], "little")).astype(np.uint32)
    return _printed(_from_order(distinct).take(int_column.decode(ranks, count)), exceptions.decode(odd))


def _are_floats(text: bytes, samples: Samples) -> bool:
    """Whether most values are float32."""
    return exceptions.are_few(_as_floats(text, samples)[1])


def _nearest(samples: Samples) -> _Floats:
    """The float32 next to each regular value."""
    sizes = samples.mantissas / pick(_POWERS, samples.places)
    return np.where(samples.negative, -sizes, sizes).astype(np.float32)


def _as_floats(text: bytes, samples: Samples) -> tuple[_Floats, Flags]:
    """The values as float32, and which of them ``%.9g`` prints as they stand."""
    floats = _nearest(samples)
    wide = np.abs(floats).astype(np.float64)
    in_range = samples.regular & _prints_in_arrays(wide)
    printed = float_digits(np.where(in_range, wide, 0.0))
    stated = decimal_digits(samples.mantissas, samples.places)
    same = (printed.digits == stated.digits) & (printed.exponent == stated.exponent)
    return _with_others(text, samples, floats, in_range & stripped(samples) & same)


def _with_others(text: bytes, samples: Samples, floats: _Floats, good: Flags) -> tuple[_Floats, Flags]:
    """The same, each value that is not good looked at for itself."""
    others = np.flatnonzero(~good)
    if not len(others):
        return floats, good
    good = good.copy()
    for place, value in zip(others.tolist(), exceptions.texts_at(text, samples, others)):
        number = _float_of(value)
        if number is not None:
            floats[place], good[place] = number, True
    return floats, good


def _float_of(value: bytes) -> np.float32 | None:
    """The float32 that ``%.9g`` prints as this text; None where there is none."""
    with np.errstate(over="ignore"):
        number = np.float32(float(value))
    return number if _print_one(float(number)) == value else None


def _print_one(number: float) -> bytes:
    return b"%.9g" % number


def _prints_in_arrays(sizes: Doubles) -> Flags:
    within: Flags = (sizes < FLOAT_END) & ((sizes >= LEAST_FLOAT) | (sizes == 0))
    return within


def _in_order(floats: _Floats) -> _Bits:
    """The floats' bits so that they ascend as the numbers do; ``-0.0`` stands before ``0.0``."""
    bits = floats.view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _from_order(bits: _Bits) -> _Floats:
    return np.where(bits & _SIGN, bits ^ _SIGN, ~bits).view(np.float32)


def _printed(floats: _Floats, odd: Exceptions) -> Values:
    wide = floats.astype(np.float64)
    sizes = np.abs(wide)
    by_hand: Numbers = np.empty(0, np.int64)
    if float(sizes.min(initial=1.0)) < LEAST_FLOAT or float(sizes.max(initial=0.0)) >= FLOAT_END:
        by_hand = np.flatnonzero(~_prints_in_arrays(sizes))
        sizes[by_hand] = 0.0
    words = value_words(float_digits(sizes), np.signbit(wide))
    singly = dict(zip(by_hand.tolist(), map(_print_one, wide[by_hand].tolist())))
    return exceptions.printed_but_for(words, sorted((singly | dict(odd)).items()))
