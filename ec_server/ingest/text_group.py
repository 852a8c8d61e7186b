"""Which of many text bodies are surely good; pure.

Surely good are plain decimal numbers at ascending microseconds, decided on the bytes between the digits.
Of all samples of all bodies, joined and each ended by ``;``, only the bytes that are no digits are kept.
Each such byte, the one before it, and how many digits stand between them must be a step of this table;
together the steps leave nothing but ``UUUUUU,VALUE;`` again and again, VALUE being
``[+-]?digits(.digits)?``. Of every other body (exponents, anything odd or wrong) this says nothing::

    before  byte    digits between
    ;       ,       6
    ,       + -     0
    , + -   .       1 or more
    , + - . ;       1 or more
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BYTES_AT_ONCE = 88 << 10
"""What is best checked in one go: with more, the arrays no longer fit into the processor's cache."""

Canonical = tuple[bytes, int, int, int]
"""Canonical text, number of samples, first and last microsecond."""

_LONGEST_SAMPLE = 200
"""Bytes; no plain number of so few digits is beyond a double."""

_Numbers = npt.NDArray[np.int64]

# Classes of bytes that are not digits; 0 is any other byte.
_OTHER, _COMMA, _SIGN, _POINT, _END = range(5)
_CLASS = np.zeros(256, dtype=np.uint8)
_CLASS[[ord(","), ord("+"), ord("-"), ord("."), ord(";")]] = [_COMMA, _SIGN, _SIGN, _POINT, _END]

# Which distances from one such byte to the next are wrong, by 5 * class before + class; _FAR is that or more.
_FAR = 15
_ANY = _FAR
_WRONG = np.ones((25, _FAR + 1), dtype=np.bool_)
_STEPS = (
    (_END, _COMMA, 7, 7),
    (_COMMA, _SIGN, 1, 1),
    (_COMMA, _POINT, 2, _ANY),
    (_SIGN, _POINT, 2, _ANY),
    (_COMMA, _END, 2, _ANY),
    (_SIGN, _END, 2, _ANY),
    (_POINT, _END, 2, _ANY),
)
for _before, _byte, _least, _most in _STEPS:
    _WRONG[5 * _before + _byte, _least : _most + 1] = False
_WRONG_AT = _WRONG.reshape(-1)


def canonical_texts(bodies: Sequence[bytes]) -> list[Canonical | None]:
    """Each body as it came, with what is known of it; None where it is not sure."""
    joined = b";" + b";".join(bodies) + b";" + bytes(8)
    raw = np.frombuffer(joined, dtype=np.uint8)[: len(joined) - 8]
    ends = np.cumsum(np.fromiter(map(len, bodies), dtype=np.int64, count=len(bodies)) + 1)
    marks = np.flatnonzero((raw - 48) >= 10)  # bytes that are no digits (unsigned, so below "0" too)
    classes = _CLASS.take(raw.take(marks))
    steps = classes[:-1] * np.uint8(5) + classes[1:]
    digits = np.minimum(marks[1:] - marks[:-1], _FAR)
    wrong = marks[1:][_WRONG_AT.take(steps.astype(np.int64) * (_FAR + 1) + digits)]

    sample_ends = marks.compress(classes == _END)
    starts = sample_ends[:-1] + 1
    wrong_samples = starts[sample_ends[1:] - sample_ends[:-1] > _LONGEST_SAMPLE]
    # The eight bytes at each sample's start, as one number that ranks as its first six do.
    eight = np.ndarray((len(joined) - 7,), dtype=">u8", buffer=joined, strides=(1,))
    rank = eight[starts].astype(np.uint64) >> np.uint64(16)
    last = sample_ends.searchsorted(ends) - 1  # index of each body's last sample
    first = np.concatenate(([0], last[:-1] + 1))
    rises = np.ones(len(starts), dtype=bool)
    np.greater(rank[1:], rank[:-1], out=rises[1:])
    rises[first] = True
    counts = last - first + 1

    bad = np.concatenate((wrong, wrong_samples, starts[~rises]))
    good = np.ones(len(bodies), dtype=bool)
    if len(bad):
        good[np.searchsorted(ends, bad)] = False
    figures = zip(
        bodies, counts.tolist(), _six_digits(raw, starts[first]), _six_digits(raw, starts[last]), strict=True
    )
    if good.all():
        return list(figures)
    return [one if is_good else None for one, is_good in zip(figures, good.tolist(), strict=True)]


def _six_digits(raw: npt.NDArray[np.uint8], at: _Numbers) -> list[int]:
    number = np.zeros(len(at), dtype=np.int64)
    for offset in range(6):
        number = number * 10 + (raw[np.minimum(at + offset, len(raw) - 1)] - np.uint8(48))
    found: list[int] = number.tolist()
    return found
