"""Canonical text of many binary bodies at once, as C's ``"%06d,%.9g"`` would print it; pure.

Rules:

1. A body is surely good where its stride, its microseconds and its values are: each value 0, or from
   1e-4 to below 1e8, where ``%.9g`` writes no exponent and eight digits at most before the point. Of
   every other body this says nothing.
2. The digits are exact. With ``10**e <= |x| < 10**(e+1)`` the nine digits of ``x`` are those of
   ``|x| * 10**(8-e)``, rounded half to even. ``x`` has 24 bits and ``10**12``, the largest power, has
   28 without its zeros: their product fits into the 53 of a double, so that it is rounded only once.
3. A sample is put together as three little-endian 64-bit words and written at its place in one long
   text, words of later bytes first: what a word writes beyond its sample's end is then written again by
   the next sample, which has 9 bytes at least.

::

    ;UUUUUU,  -ddd.ddd  dddddd      8 bytes, and a value of 1 to 15
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ec_server.ingest.message_body import STRIDE, US_END
from ec_server.ingest.text_group import Canonical

_Words = npt.NDArray[np.uint64]
_Numbers = npt.NDArray[np.int64]
_Doubles = npt.NDArray[np.float64]

BYTES_AT_ONCE = 108 << 10
"""What is best made text in one go: with more, the arrays no longer fit into the processor's cache."""

_SAMPLE = np.dtype([("us", "<i4"), ("value", "<f4"), ("end", "u1")])

_LEAST_SIZE, _SIZE_END = 1e-4, 1e8
_EXPONENTS = range(-4, 8)
_DIGITS = 9
_SPARE_BYTES = 24
"""Behind the last sample: its words may write there."""
_BYTE, _WORD = np.uint64(8), np.uint64(64)
_1000 = np.uint32(1000)


def _word(text: bytes) -> int:
    """Bytes as a little-endian number."""
    return int.from_bytes(text, "little")


def _first_bytes(count: int) -> int:
    """A mask of so many."""
    return (1 << (8 * count)) - 1


# Of three digits: their text, and how many zeros they end in.
_THREE = np.array([_word(b"%03d" % i) for i in range(1000)], np.uint64)
_ZEROS = np.array([3 - len(f"{i:03}".rstrip("0")) for i in range(1000)])

# By exponent, counted from the least one: the power that makes nine digits of a value, what stands
# around these digits, which of them stand before the point, and how far the others move for it.
_POWER = np.array([10.0 ** (_DIGITS - 1 - e) for e in _EXPONENTS])
_AROUND = [b"0." + b"0" * (-e - 1) if e < 0 else bytes(e + 1) + b"." for e in _EXPONENTS]
_AROUND_LOW = np.array([_word(text[:8]) for text in _AROUND], np.uint64)
_AROUND_HIGH = np.array([_word(text[8:]) for text in _AROUND], np.uint64)
_BEFORE_POINT = np.array([_first_bytes(max(e + 1, 0)) for e in _EXPONENTS], np.uint64)
_MOVE = np.array([8 * max(1 - e, 1) for e in _EXPONENTS], np.uint64)
_OF_ZERO = -_EXPONENTS[0]

# By a double's binary exponent: the decimal one of the least value that has it; and from where on a
# value is of the next decimal one.
_FLOOR = np.zeros(2048, np.int64)
for _binary in range(-14, 27):
    _FLOOR[1023 + _binary] = max(0, math.floor(math.log10(2.0**_binary)) - _EXPONENTS[0])
_NEXT_FROM = np.array([10.0 ** (e + 1) for e in _EXPONENTS[:-1]] + [math.inf])


def _length(exponent: int, zeros: int) -> int:
    """Bytes of a value whose nine digits end in ``zeros``: what stands behind the point last is left out."""
    behind = max(0, _DIGITS - zeros - (exponent + 1))
    return max(exponent + 1, 1) + (1 + behind if behind else 0)


_LENGTH = np.array([_length(e, zeros) for e in _EXPONENTS for zeros in range(_DIGITS + 1)])


def canonical_texts(bodies: Sequence[bytes]) -> list[Canonical | None]:
    """The text of each body, with what is known of it; None where it is not sure.

    ``bodies`` are SAMPLES of whole strides, the last one without its ``;``: 9n - 1 bytes, n from 1 on.
    """
    samples = np.frombuffer(b";".join(bodies) + b";", _SAMPLE)
    us, values = samples["us"].astype(np.int64), samples["value"].astype(np.float64)
    sizes = np.abs(values)
    counts = (np.fromiter(map(len, bodies), np.int64, len(bodies)) + 1) // STRIDE
    ends = np.cumsum(counts)
    firsts = ends - counts

    good = (samples["end"] == ord(";")) & (us >= 0) & (us < US_END)
    good &= (sizes < _SIZE_END) & ((sizes >= _LEAST_SIZE) | (sizes == 0))
    rises = us[1:] > us[:-1]
    rises[firsts[1:] - 1] = True
    good[1:] &= rises
    all_good = np.logical_and.reduceat(good, firsts)
    if not good.all():  # what no text is made of takes the place of something harmless
        us[~good], values[~good], sizes[~good] = 0, 0.0, 0.0
    text, places = _sample_texts(us, values, sizes)
    return [
        (text[begin + 1 : end], count, first_us, last_us) if is_good else None
        for is_good, begin, end, count, first_us, last_us in zip(
            all_good.tolist(),
            places[firsts].tolist(),
            places[ends].tolist(),
            counts.tolist(),
            us[firsts].tolist(),
            us[ends - 1].tolist(),
            strict=True,
        )
    ]


def _sample_texts(us: _Numbers, values: _Doubles, sizes: _Doubles) -> tuple[bytes, _Numbers]:
    """All samples' text, a ``;`` before each, and where each begins; the last place is the end of all."""
    low, high, lengths = _value_words(values, sizes)
    places = np.zeros(len(us) + 1, np.int64)
    np.cumsum(lengths + 8, out=places[1:])
    us = us.astype(np.uint32)
    thousands = us // _1000
    head = _THREE.take(thousands) << np.uint64(8) | _THREE.take(us - thousands * _1000) << np.uint64(32)
    head |= np.uint64(_word(b";\0\0\0\0\0\0,"))

    text = bytearray(int(places[-1]) + _SPARE_BYTES)
    words = np.ndarray((len(text) - 7,), "<u8", buffer=text, strides=(1,))
    at = places[:-1]
    words[at + 16] = high
    words[at + 8] = low
    words[at] = head
    return bytes(text), places


def _value_words(values: _Doubles, sizes: _Doubles) -> tuple[_Words, _Words, _Numbers]:
    """Each value's text in two words, and its length; anything may stand behind it."""
    exponent = _FLOOR.take(sizes.view(np.int64) >> 52)
    exponent += sizes >= _NEXT_FROM.take(exponent)
    exponent[sizes == 0] = _OF_ZERO
    digits = np.rint(sizes * _POWER.take(exponent)).astype(np.uint32)
    thousands = digits // _1000
    a, c = thousands // _1000, digits - thousands * _1000
    b = thousands - a * _1000

    last_three = _THREE.take(c)
    first_eight = _THREE.take(a) | _THREE.take(b) << np.uint64(24) | last_three << np.uint64(48)
    before = first_eight & _BEFORE_POINT.take(exponent)
    behind, move = first_eight ^ before, _MOVE.take(exponent)
    low = _AROUND_LOW.take(exponent) | before | behind << move
    high = _AROUND_HIGH.take(exponent) | behind >> (_WORD - move) | last_three >> np.uint64(16) << move

    zeros = _ZEROS.take(c)
    more = np.flatnonzero(c == 0)
    zeros[more] += np.where(b[more] == 0, 3 + _ZEROS.take(a[more]), _ZEROS.take(b[more]))
    lengths = _LENGTH.take(exponent * (_DIGITS + 1) + zeros)

    negative = np.signbit(values)
    if negative.any():
        shift = negative * _BYTE
        high = high << shift | low >> (_WORD - shift)
        low = low << shift | negative * np.uint64(ord("-"))
        lengths += negative
    return low, high, lengths
