"""The values of a block: a table of codecs, tried in order of likelihood and size; pure.

A column's first byte is the number of its codec; what follows is said where the codec is:

=== ========== =======================================================================
0   text       here: the values joined by ``;``, compressed with Zstandard
1   fixed      decimal_values: ``231.50``, all values with so many places
2   shortest   decimal_values: ``231.5``, without trailing zeros
3   direct     float_values: float32, as C's ``%.9g`` prints them
4   table      float_values: the same, by rank among the distinct ones
=== ========== =======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ec_server.packing import decimal_values, exceptions, float_values
from ec_server.packing.exceptions import Values
from ec_server.packing.number_scan import Samples
from ec_server.packing.number_text import ValueWords
from utilities.errors import BlockError

_TEXT = 0


def _decode_text(body: bytes, count: int) -> Values:
    values = exceptions.decompressed(body)
    if len(values) != count:
        raise BlockError(f"a column of text does not hold {count} values")
    nothing = np.zeros(count, np.uint64)
    return Values(ValueWords(nothing, nothing, np.zeros(count, np.int64)), list(enumerate(values)))


_ENCODERS = (decimal_values.encode, float_values.encode)
_DECODERS: dict[int, Callable[[bytes, int], Values]] = {
    _TEXT: _decode_text,
    decimal_values.FIXED: decimal_values.decode_fixed,
    decimal_values.SHORTEST: decimal_values.decode_shortest,
    float_values.DIRECT: float_values.decode_direct,
    float_values.TABLE: float_values.decode_table,
}


def candidates(text: bytes, samples: Samples) -> Iterator[bytes]:
    """The values as each codec that suits them stores them, likeliest and smallest first; at last as text.

    What is not asked for is not encoded.
    """
    yield from map(_column, float_values.encode_believed(text, samples))
    yield from sorted((_column(one) for encode in _ENCODERS for one in encode(text, samples)), key=len)
    values = exceptions.texts_at(text, samples, np.arange(len(samples.us)))
    yield bytes([_TEXT]) + exceptions.compressed(values)


def _column(encoded: tuple[int, bytes]) -> bytes:
    number, body = encoded
    return bytes([number]) + body


def decode(data: bytes, count: int) -> Values:
    """The ``count`` values of a column. Raises BlockError where it holds no such."""
    decoder = _DECODERS.get(data[0])
    if decoder is None:
        raise BlockError(f"values are stored by codec {data[0]}, which this version does not know")
    return decoder(data[1:], count)
