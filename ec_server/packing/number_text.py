"""Decimal text of many numbers at once, and samples put together from it; pure.

Every number here is nine digits and a decimal exponent: ``d.dddddddd * 10**exponent``, exponents from -7
to 8. This covers float32 values as C's ``%.9g`` prints them without an exponent, and decimal numbers of up
to nine digits.

1. The digits of a float are exact. With ``10**e <= |x| < 10**(e+1)`` the nine digits of ``x`` are those of
   ``|x| * 10**(8-e)``, rounded half to even. For ``e >= -4`` the power has at most 28 bits without its
   trailing zeros, and ``x`` has 24: their product fits into the 53 bits of a double, so it is rounded once.
2. A value is built in two little-endian 64-bit words, at most 16 bytes. Bytes behind its length are
   undefined.
3. A sample is written at its place in one long text as two or three words at once, in the samples' order.
   What it writes behind its own end is overwritten by the next sample.
4. numpy shifts each word by a number of its own one by one, but multiplies in vectors: where not all are
   shifted alike, a shift is a product with a power of two.

::

    ;UUUUUU,  -ddd.ddd  dddddd      8 bytes, then a value of 1 to 16
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_Scalar = TypeVar("_Scalar", bound=np.generic)

LEAST_FLOAT, FLOAT_END = 1e-4, 1e8
"""Sizes of floats that are printed here; 0 is, too."""
DIGITS = 9
MANTISSA_END = 10**DIGITS
MOST_PLACES = 7

_EXPONENTS = range(-7, 9)
_BASE = -_EXPONENTS[0]
_SPARE_BYTES = 24
_BYTE, _HALF, _WORD = np.uint64(8), np.uint64(32), np.uint64(64)
_1000 = np.uint32(1000)


def pick(table: npt.NDArray[_Scalar], index: npt.NDArray[np.integer]) -> npt.NDArray[_Scalar]:
    """The table's entries at each index, all of which it must have: not checked, for twice the speed.

    An index of any other type than a pointer's size would be converted entry by entry: five times the time.
    """
    return table.take(index.astype(np.intp, copy=False), mode="clip")


class Digits(NamedTuple):
    """Nine digits of each number, and where its point stands."""

    digits: npt.NDArray[np.uint32]
    """Below 10**9; the first digit is not 0 unless the number is."""
    exponent: Numbers
    """Index into the tables: the decimal exponent plus 7; 0 has the exponent 0."""


class ValueWords(NamedTuple):
    """Text of each value in two words, and its length in bytes."""

    low: Words
    high: Words
    lengths: Numbers


def _word(text: bytes) -> int:
    """Bytes as a little-endian number."""
    return int.from_bytes(text, "little")


def _first_bytes(count: int) -> int:
    """A mask of the first ``count`` bytes of a word."""
    return (1 << (8 * min(count, 8))) - 1


# By three digits: their text, and how many zeros they end in.
_THREE = np.array([_word(b"%03d" % i) for i in range(1000)], np.uint64)
_ZEROS = np.array([3 - len(f"{i:03}".rstrip("0")) for i in range(1000)])

# By exponent: the power that makes nine digits of a value, the text around these digits, which of them stand
# before the point, and how many bits the others move for it.
_POWER = np.array([10.0 ** (DIGITS - 1 - e) for e in _EXPONENTS])
_AROUND = [b"0." + b"0" * (-e - 1) if e < 0 else bytes(e + 1) + b"." * (e < 8) for e in _EXPONENTS]
_AROUND_LOW = np.array([_word(text[:8]) for text in _AROUND], np.uint64)
_AROUND_HIGH = np.array([_word(text[8:]) for text in _AROUND], np.uint64)
_BEFORE_POINT = np.array([_first_bytes(max(e + 1, 0)) for e in _EXPONENTS], np.uint64)
_MOVE = np.array([0 if e == 8 else 8 * max(1 - e, 1) for e in _EXPONENTS], np.uint64)
# What moves a word up by so many bits, 0 for all 64 of them.
_TIMES = np.array([(1 << int(move)) % (1 << 64) for move in _MOVE], np.uint64)
_LEAST_QUICK = int(np.flatnonzero(_MOVE <= _HALF)[0])
"""From this exponent on, words move by half their length at most."""
_INTEGER_DIGITS = np.array([max(e + 1, 1) for e in _EXPONENTS])

# By a double's binary exponent: the index of the decimal exponent of the least value that has it; and the
# least value of the next decimal exponent.
_FLOOR = np.zeros(2048, np.int64)
for _binary in range(-26, 30):
    _FLOOR[1023 + _binary] = max(0, math.floor(math.log10(2.0**_binary)) + _BASE)
_NEXT_FROM = np.array([10.0 ** (e + 1) for e in _EXPONENTS[:-1]] + [math.inf])

# By the number of digits of a mantissa less one: what makes it nine digits.
_TO_NINE = np.array([10 ** (DIGITS - 1 - e) for e in range(DIGITS)], np.uint32)


# Whole numbers of up to four digits, then the same with a sign.
_SHORT = 4
_WHOLE_TEXTS = [sign + b"%d" % i for sign in (b"", b"-") for i in range(10**_SHORT)]
_WHOLE = np.array([_word(text) for text in _WHOLE_TEXTS], np.uint64)
_WHOLE_LENGTHS = np.array([len(text) for text in _WHOLE_TEXTS])

# What moves a word up by so many bytes.
_UP_BY = np.array([1 << 8 * i for i in range(_SHORT + 2)], np.uint64)


def _shortest_length(exponent: int, zeros: int) -> int:
    """Bytes of a value whose nine digits end in ``zeros``, without trailing zeros after the point."""
    behind = max(0, DIGITS - zeros - (exponent + 1))
    return max(exponent + 1, 1) + (1 + behind if behind else 0)


_SHORTEST = np.array([_shortest_length(e, zeros) for e in _EXPONENTS for zeros in range(DIGITS + 1)])


def float_digits(sizes: Doubles) -> Digits:
    """The nine digits of float32 values' sizes: each 0, or from LEAST_FLOAT to below FLOAT_END."""
    exponent = _decimal_exponent(sizes)
    return Digits(np.rint(sizes * pick(_POWER, exponent)).astype(np.uint32), exponent)


def decimal_digits(mantissas: Numbers, places: Numbers | int) -> Digits:
    """The nine digits of ``mantissas / 10**places``: mantissas from 0 to below 10**9."""
    size = _decimal_exponent(mantissas.astype(np.float64)) - _BASE
    digits = mantissas.astype(np.uint32) * pick(_TO_NINE, size)
    exponent = size + _BASE - places
    exponent[mantissas == 0] = _BASE
    return Digits(digits, exponent)


def digit_counts(mantissas: Numbers) -> Numbers:
    """How many digits each whole number from 0 to below 10**9 has."""
    return _decimal_exponent(mantissas.astype(np.float64)) - (_BASE - 1)


def _decimal_exponent(sizes: Doubles) -> Numbers:
    exponent = pick(_FLOOR, sizes.view(np.int64) >> 52)
    exponent += sizes >= pick(_NEXT_FROM, exponent)
    exponent[sizes == 0] = _BASE
    return exponent


def value_words(number: Digits, negative: Flags, places: int | None = None) -> ValueWords:
    """Text of each number: with so many places, or as short as it can be."""
    digits, exponent = number
    at = exponent[:1] if (exponent == exponent[:1]).all() else exponent
    a, b, c = _threes(digits)
    lengths = _lengths(a, b, c, exponent, places)

    last = pick(_THREE, c)
    behind = pick(_THREE, b)
    behind <<= np.uint64(24)
    behind |= pick(_THREE, a)
    behind |= last << np.uint64(48)
    low = behind & pick(_BEFORE_POINT, at)
    behind ^= low
    low |= pick(_AROUND_LOW, at)
    high = _moved_out(behind, at)
    high |= pick(_AROUND_HIGH, at)
    times = pick(_TIMES, at)
    behind *= times
    low |= behind
    last >>= np.uint64(16)
    last *= times
    high |= last

    words = ValueWords(low, high, lengths)
    return _signed(words, negative) if negative.any() else words


def _threes(digits: npt.NDArray[np.uint32]) -> tuple[Numbers, Numbers, Numbers]:
    """Each nine digits as three numbers below 1,000."""
    thousands = digits // _1000
    a = thousands // _1000
    return tuple(one.astype(np.int64) for one in (a, thousands - a * _1000, digits - thousands * _1000))  # type: ignore[return-value]


def _lengths(a: Numbers, b: Numbers, c: Numbers, exponent: Numbers, places: int | None) -> Numbers:
    """Bytes of each value without a sign."""
    if places is not None:
        return pick(_INTEGER_DIGITS, exponent) + (1 + places if places else 0)
    zeros = pick(_ZEROS, c)
    more = np.flatnonzero(c == 0)
    zeros[more] += np.where(b[more] == 0, 3 + pick(_ZEROS, a[more]), pick(_ZEROS, b[more]))
    zeros += exponent * (DIGITS + 1)
    return pick(_SHORTEST, zeros)


def _signed(words: ValueWords, negative: Flags) -> ValueWords:
    """The same with a ``-`` before each that is negative; in place."""
    low, high, lengths = words
    signs = negative.astype(np.uint64)
    lengths += signs.view(np.int64)
    times = signs * np.uint64((1 << 8) - 1)
    times += np.uint64(1)
    high *= times
    high |= (low >> (_WORD - _BYTE)) * signs
    low *= times
    signs *= np.uint64(ord("-"))
    low |= signs
    return words


def _moved_out(words: Words, exponent: Numbers) -> Words:
    """What of each word leaves it when it moves up as its exponent says."""
    if len(exponent) == 1 or int(exponent.min(initial=0)) < _LEAST_QUICK:
        return words >> (_WORD - pick(_MOVE, exponent))
    return (words >> _HALF) * pick(_TIMES, exponent) >> _HALF


def short_decimal_words(mantissas: Numbers, negative: Flags, places: int) -> ValueWords | None:
    """The same for ``mantissas / 10**places`` with so many places, by two tables, for half the time.

    None where a number has more than four digits before or after the point.
    """
    if not 1 <= places <= _SHORT or int(mantissas.max(initial=0)) >= 10 ** (_SHORT + places):
        return None
    small = mantissas.astype(np.uint32)
    whole = small // np.uint32(10**places)
    fraction = pick(_fractions(places), small - whole * np.uint32(10**places))
    whole += negative * np.uint32(10**_SHORT)
    lengths = pick(_WHOLE_LENGTHS, whole)
    times = pick(_UP_BY, lengths)
    low = pick(_WHOLE, whole) | fraction * times
    high = (fraction >> np.uint64(24)) * (times >> np.uint64(24)) >> np.uint64(16)
    lengths += places + 1
    return ValueWords(low, high, lengths)


@lru_cache(maxsize=8)
def _fractions(places: int) -> Words:
    """The point and so many digits of each fraction."""
    return np.array([_word(b".%0*d" % (places, i)) for i in range(10**places)], np.uint64)


def head_words(us: Numbers) -> Words:
    """``;UUUUUU,`` of each microsecond."""
    small = us.astype(np.uint32)
    thousands = small // _1000
    head = pick(_THREE, thousands) << np.uint64(8) | pick(_THREE, small - thousands * _1000) << np.uint64(32)
    return head | np.uint64(_word(b";\0\0\0\0\0\0,"))


def join_samples(heads: Words, values: ValueWords) -> tuple[bytearray, Numbers]:
    """All samples' text, a ``;`` before each, and where each begins; the last place is the end of all.

    The text has some bytes to spare behind its end.
    """
    places = np.zeros(len(heads) + 1, np.int64)
    np.cumsum(values.lengths + 8, out=places[1:])
    text = bytearray(int(places[-1]) + _SPARE_BYTES)
    columns = [heads, values.low]
    if int(values.lengths.max(initial=0)) > 8:
        columns.append(values.high)
    words = np.empty((len(heads), len(columns)), np.uint64)
    for i, column in enumerate(columns):
        words[:, i] = column
    item = np.dtype((np.void, words.itemsize * len(columns)))
    anywhere = np.ndarray((len(text) - item.itemsize + 1,), item, buffer=text, strides=(1,))
    anywhere[places[:-1]] = words.view(item)[:, 0]
    return text, places
