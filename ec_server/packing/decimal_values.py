"""Decimal numbers with so many digits after the point, as whole numbers; pure.

``fixed`` numbers have exactly ``places`` digits after the point (``231.50``); ``shortest`` ones have at most
so many and no trailing zeros (``231.5``). Both are stored as three parts: ``places`` (u8) and ``step`` (u32);
the whole numbers ``value * 10**places / step`` as a column; exceptions. The step is the numbers' greatest
common divisor: a converter of 20 bits counts in steps of its own, not in thousandths.
"""

from __future__ import annotations

import struct

import numpy as np

from ec_server.packing import exceptions, int_column
from ec_server.packing.exceptions import Values
from ec_server.packing.number_scan import Samples
from ec_server.packing.number_text import (
    MANTISSA_END,
    MOST_PLACES,
    Flags,
    Numbers,
    decimal_digits,
    short_decimal_words,
    value_words,
)
from ec_server.packing.parts import join_parts, split_parts
from utilities.errors import BlockError

_HEADER = struct.Struct("<BI")
_POWERS = 10 ** np.arange(MOST_PLACES + 1)
_PROBE = 64
_MOST = 0.99
"""The share of values whose places decide how many ``shortest`` keeps."""


FIXED, SHORTEST = 1, 2
"""Numbers of the codecs."""


def encode(text: bytes, samples: Samples) -> list[tuple[int, bytes]]:
    """Codec and body for the values as decimal numbers; [] where too many values are none.

    ``shortest`` is not tried where all values have the same number of places.
    """
    known = samples.places[samples.regular]
    if not len(known):
        return []
    found = _encode(text, samples, *_as_fixed(samples, known))
    fixed = [(FIXED, body) for body in found]
    if (known == known[0]).all():
        return fixed
    return fixed + [(SHORTEST, body) for body in _encode(text, samples, *_as_shortest(samples, known))]


def decode_fixed(body: bytes, count: int) -> Values:
    """The values of a body of FIXED."""
    return _decode(body, count, fixed=True)


def decode_shortest(body: bytes, count: int) -> Values:
    """The values of a body of SHORTEST."""
    return _decode(body, count, fixed=False)


def stripped(samples: Samples) -> Flags:
    """Which values have no trailing zero after the point."""
    found: Flags = (samples.mantissas % 10 != 0) | (samples.places == 0)
    return found


def _as_fixed(samples: Samples, known: Numbers) -> tuple[int, Flags, Numbers]:
    """The usual number of places, the values that have it, and all mantissas."""
    places = int(np.bincount(known)[: MOST_PLACES + 1].argmax())
    good: Flags = samples.regular & (samples.places == places)
    return places, good, samples.mantissas


def _as_shortest(samples: Samples, known: Numbers) -> tuple[int, Flags, Numbers]:
    """The most places, the values without trailing zeros, and all mantissas for so many places."""
    places = min(int(np.quantile(known, _MOST, method="higher")), MOST_PLACES)
    mantissas = samples.mantissas * _POWERS.take(np.clip(places - samples.places, 0, MOST_PLACES))
    good = samples.regular & stripped(samples) & (samples.places <= places)
    return places, good & (mantissas < MANTISSA_END), mantissas


def _encode(text: bytes, samples: Samples, places: int, good: Flags, mantissas: Numbers) -> list[bytes]:
    good = good & ~(samples.negative & (mantissas == 0))
    if not exceptions.are_few(good):
        return []
    numbers = mantissas.copy()
    np.negative(numbers, out=numbers, where=samples.negative)
    numbers = exceptions.without_exceptions(numbers, good)
    step = _step(numbers)
    column = int_column.encode(numbers // step if step > 1 else numbers, signal=True)
    return [join_parts([_HEADER.pack(places, step), column, exceptions.encode(text, samples, good)])]


def _step(numbers: Numbers) -> int:
    """What all numbers are multiples of; at least 1. Mostly a few of them tell that it is 1."""
    some = int(np.gcd.reduce(numbers[:_PROBE]))
    return 1 if some == 1 else int(np.gcd.reduce(numbers)) or 1


def _decode(body: bytes, count: int, *, fixed: bool) -> Values:
    head, column, odd = split_parts(body, 3)
    places, step = _HEADER.unpack(head)
    numbers = int_column.decode(column, count)
    if step > 1:
        numbers *= step
    sizes = np.abs(numbers)
    if places > MOST_PLACES or (sizes >= MANTISSA_END).any():
        raise BlockError("a column of decimal numbers holds some that are too long")
    negative = numbers < 0
    words = short_decimal_words(sizes, negative, places) if fixed else None
    if words is None:
        words = value_words(decimal_digits(sizes, places), negative, places if fixed else None)
    return exceptions.printed_but_for(words, exceptions.decode(odd))
