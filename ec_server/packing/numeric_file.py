"""Arrays of numbers as pcodec standalone files, whose header names their type; pure.

The only import of pcodec. The format is documented at https://github.com/pcodec/pcodec.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from utilities.errors import BlockError

_AUTOMATIC = ChunkConfig()
_PREDICTED = ChunkConfig(delta_spec=DeltaSpec.try_conv1(32), mode_spec=ModeSpec.classic())
"""Linear prediction from the last 32 numbers; for whole numbers of at most 32 bits."""
_PROBE = 2048
"""Numbers from the middle on which the two are compared."""

_Small = npt.NDArray[np.int32]
_Any = npt.NDArray[np.int32] | npt.NDArray[np.uint32] | npt.NDArray[np.int64] | npt.NDArray[np.float32]


def compress(numbers: _Any) -> bytes:
    """The numbers as a file."""
    return bytes(standalone.simple_compress(np.ascontiguousarray(numbers), _AUTOMATIC))


def compress_signal(numbers: _Small) -> bytes:
    """The numbers as a file, by linear prediction where a few of them become smaller by it."""
    begin = max(0, (len(numbers) - _PROBE) // 2)
    probe = np.ascontiguousarray(numbers[begin : begin + _PROBE])
    best = min((_PREDICTED, _AUTOMATIC), key=lambda one: len(standalone.simple_compress(probe, one)))
    return bytes(standalone.simple_compress(np.ascontiguousarray(numbers), best))


def decompress(data: bytes, count: int) -> npt.NDArray[np.generic]:
    """The ``count`` numbers of a file. Raises BlockError where it holds no such."""
    try:
        numbers = standalone.simple_decompress(data)
    except (RuntimeError, TypeError) as error:
        raise BlockError(f"a column of numbers cannot be decompressed: {error}") from error
    if numbers is None or len(numbers) != count:
        raise BlockError(f"a column of numbers does not hold {count}")
    return np.asarray(numbers)
