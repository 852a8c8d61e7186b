"""Values that a codec would not print as they stand: their places and texts, beside the numbers; pure.

Stored as nothing where there are none, else as their number (u32) and two parts: their places as a column of
whole numbers, and their texts joined by ``;``, compressed with Zstandard. In the numbers each exception is
represented by the number before it, so that it does not disturb the prediction.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import zstandard

from ec_server.packing import int_column
from ec_server.packing.number_scan import Samples
from ec_server.packing.number_text import Flags, Numbers, ValueWords
from ec_server.packing.parts import join_parts, split_parts

Exceptions = list[tuple[int, bytes]]
"""Place among the block's samples, and text; ascending."""

_ONE_IN = 4
_LEVEL = 9
_LONGEST_TEXT = 1 << 28
_Array = TypeVar("_Array", npt.NDArray[np.int64], npt.NDArray[np.float32])


class Values(NamedTuple):
    """A block's values: printed in two words each, but for exceptions, whose length there is 0."""

    words: ValueWords
    exceptions: Exceptions


def are_few(good: Flags) -> bool:
    """Whether a codec for the ``good`` values alone is worth trying: at most a quarter is not good."""
    return int((~good).sum()) * _ONE_IN <= len(good)


def without_exceptions(numbers: _Array, good: Flags) -> _Array:
    """The number before in place of each that is not good; before the first good one, that one."""
    odd = np.flatnonzero(~good).tolist()
    if not odd:
        return numbers
    numbers = numbers.copy()
    before = numbers[int(good.argmax())]
    for place in odd:
        numbers[place] = numbers[place - 1] if place else before
    return numbers


def encode(text: bytes, samples: Samples, good: Flags) -> bytes:
    """Places and texts of the values that are not good."""
    places = np.flatnonzero(~good)
    if not len(places):
        return b""
    parts = [int_column.encode(places), compressed(texts_at(text, samples, places))]
    return len(places).to_bytes(4, "little") + join_parts(parts)


def decode(data: bytes) -> Exceptions:
    """What ``encode`` stored."""
    if not data:
        return []
    count = int.from_bytes(data[:4], "little")
    column, values = split_parts(data[4:], 2)
    return list(zip(int_column.decode(column, count).tolist(), decompressed(values), strict=True))


def texts_at(text: bytes, samples: Samples, places: Numbers) -> list[bytes]:
    """The values at some places, as they stand in the text."""
    begins, ends = samples.starts[places].tolist(), samples.ends[places].tolist()
    return [text[begin:end] for begin, end in zip(begins, ends)]


def compressed(values: list[bytes]) -> bytes:
    """Texts of values joined by ``;`` and compressed."""
    return zstandard.compress(b";".join(values), _LEVEL)


def decompressed(data: bytes) -> list[bytes]:
    """The texts that ``compressed`` joined."""
    return zstandard.decompress(data, max_output_size=_LONGEST_TEXT).split(b";")


def printed_but_for(words: ValueWords, exceptions: Exceptions) -> Values:
    """Values of which the exceptions are printed otherwise."""
    if exceptions:
        words.lengths[[place for place, _ in exceptions]] = 0
    return Values(words, exceptions)
