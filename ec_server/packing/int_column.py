"""Whole numbers as bytes: nothing much for constants, else pcodec; pure.

A column's first byte says how it is stored:

=== ====================================================================================
0   every number is the int64 that follows
1   a pcodec standalone file of int32 or int64 (its header says which)
=== ====================================================================================
"""

from __future__ import annotations

import numpy as np

from ec_server.packing import numeric_file
from ec_server.packing.number_text import Numbers
from utilities.errors import BlockError

_CONSTANT, _FILE = b"\0", b"\1"
_INT32 = np.iinfo(np.int32)


def encode(numbers: Numbers, *, signal: bool = False) -> bytes:
    """The numbers as bytes; ``signal`` says that they are samples of one, which can be predicted."""
    if not len(numbers):
        return _CONSTANT + bytes(8)
    least, most = int(numbers.min()), int(numbers.max())
    if least == most:
        return _CONSTANT + least.to_bytes(8, "little", signed=True)
    if not (_INT32.min <= least and most <= _INT32.max):
        return _FILE + numeric_file.compress(numbers)
    small = numbers.astype(np.int32)
    return _FILE + (numeric_file.compress_signal(small) if signal else numeric_file.compress(small))


def decode(data: bytes, count: int) -> Numbers:
    """The ``count`` numbers of a column. Raises BlockError where it holds no such."""
    kind, body = data[:1], data[1:]
    if kind == _CONSTANT:
        return np.full(count, int.from_bytes(body, "little", signed=True), np.int64)
    if kind != _FILE:
        raise BlockError(f"a column of whole numbers begins with {kind!r}")
    return numeric_file.decompress(body, count).astype(np.int64)
