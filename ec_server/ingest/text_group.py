"""Which of many text bodies are certainly valid; pure.

Only the bytes between the digits are examined. All samples of all bodies are joined, each ended by ``;``, and
all bytes that are not digits are selected. Each of them, together with the one before it and the distance
between the two, must be a step in a table. These steps allow only a sequence of ``UUUUUU,VALUE;``.

There are two tables. The first is for what devices send, where VALUE is ``[+-]?digits(.digits)?``::

    before  byte    digits between
    ;       ,       6
    ,       + -     0
    , + -   .       1 or more
    , + - . ;       1 or more

Bodies that do not match it are checked with the second table, which has every form of a number: exponents,
``.5`` and ``5.``. About the rest (anything wrong, samples of more than 200 bytes) nothing is decided here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

BYTES_AT_ONCE = 88 << 10
"""The best amount to check at once: with more, the arrays no longer fit into the processor's cache."""

Canonical = tuple[bytes, int, int, int]
"""Canonical text, number of samples, first and last microsecond."""

_LONGEST_SAMPLE = 200
"""Bytes; a number of so few digits without exponent is in the range of a double."""

_Numbers = npt.NDArray[np.int64]

_Bytes = npt.NDArray[np.uint8]

_FAR = 15
"""Distances to the previous byte from this on are treated alike."""
_ANY = _FAR
_Step = tuple[int, int, int, int]
"""Class of the previous byte, class of the byte, smallest and largest distance."""


def _wrong(classes: int, steps: Sequence[_Step]) -> npt.NDArray[np.bool_]:
    """By class of the previous byte, class and distance: whether this is not a step."""
    wrong = np.ones((classes, classes, _FAR + 1), dtype=np.bool_)
    for before, byte, least, most in steps:
        wrong[before, byte, least : most + 1] = False
    return wrong.reshape(-1)


def _class_of(**classes: int) -> _Bytes:
    """The class of each byte; 0 for bytes that cannot be in a number."""
    table = np.zeros(256, dtype=np.uint8)
    for text, number in classes.items():
        table[[ord(_BYTES[name]) for name in text.split("_")]] = number
    return table


_BYTES = {"comma": ",", "plus": "+", "minus": "-", "point": ".", "end": ";", "e": "e", "E": "E"}

# --- what devices send ------------------------------------------------------------------------

_OTHER, _COMMA, _SIGN, _POINT, _END = range(5)
_CLASS = _class_of(comma=_COMMA, plus_minus=_SIGN, point=_POINT, end=_END)
_WRONG = _wrong(
    5,
    (
        (_END, _COMMA, 7, 7),
        (_COMMA, _SIGN, 1, 1),
        (_COMMA, _POINT, 2, _ANY),
        (_SIGN, _POINT, 2, _ANY),
        (_COMMA, _END, 2, _ANY),
        (_SIGN, _END, 2, _ANY),
        (_POINT, _END, 2, _ANY),
    ),
)


def _wrong_in_plain(_joined: bytes, raw: _Bytes, marks: _Numbers) -> tuple[_Numbers, _Numbers]:
    """The places of wrong steps, and of the ends of samples."""
    classes = _CLASS.take(raw.take(marks))
    steps = classes[:-1] * np.uint8(5) + classes[1:]
    distances = np.minimum(marks[1:] - marks[:-1], _FAR)
    wrong = marks[1:][_WRONG.take(steps.astype(np.int64) * (_FAR + 1) + distances)]
    return wrong, marks.compress(classes == _END)


# --- every form of a number -------------------------------------------------------------------

_PLUS, _MINUS, _DOT, _STOP, _EXPONENT, _LEADING_DOT, _EXPONENT_PLUS, _EXPONENT_MINUS = range(2, 10)
_FULL_CLASS = _class_of(comma=_COMMA, plus=_PLUS, minus=_MINUS, point=_DOT, end=_STOP, e_E=_EXPONENT)
_BEFORE_DIGITS = (_COMMA, _PLUS, _MINUS)
_SURE_DIGITS = 3
"""Up to this distance to the end, an exponent is below 100: with so few digits a double cannot overflow."""
_SURE_POWER = 308
_FULL_WRONG = _wrong(
    10,
    (
        (_STOP, _COMMA, 7, 7),
        (_COMMA, _PLUS, 1, 1),
        (_COMMA, _MINUS, 1, 1),
        *((before, _DOT, 2, _ANY) for before in _BEFORE_DIGITS),
        *((before, _LEADING_DOT, 1, 1) for before in _BEFORE_DIGITS),
        *((before, byte, 2, _ANY) for before in _BEFORE_DIGITS for byte in (_STOP, _EXPONENT)),
        *((_DOT, byte, 1, _ANY) for byte in (_STOP, _EXPONENT)),
        *((_LEADING_DOT, byte, 2, _ANY) for byte in (_STOP, _EXPONENT)),
        (_EXPONENT, _EXPONENT_PLUS, 1, 1),
        (_EXPONENT, _EXPONENT_MINUS, 1, 1),
        *((before, _STOP, 2, _ANY) for before in (_EXPONENT, _EXPONENT_PLUS, _EXPONENT_MINUS)),
    ),
)


def _wrong_in_any(joined: bytes, raw: _Bytes, marks: _Numbers) -> tuple[_Numbers, _Numbers]:
    """As ``_wrong_in_plain``; numbers with a large exponent are checked one by one."""
    classes = _FULL_CLASS.take(raw.take(marks))
    distances = np.minimum(marks[1:] - marks[:-1], _FAR)
    before, byte = classes[:-1], classes[1:]
    next_to = distances == 1
    leading = next_to & (byte == _DOT) & (before >= _COMMA) & (before <= _MINUS)
    signs = next_to & (before == _EXPONENT) & ((byte == _PLUS) | (byte == _MINUS))
    byte[leading] = _LEADING_DOT
    byte[signs] += _EXPONENT_PLUS - _PLUS
    steps = before.astype(np.int64) * 10 + byte
    is_wrong = _FULL_WRONG.take(steps * (_FAR + 1) + distances)
    large = (byte == _STOP) & (distances > _SURE_DIGITS)
    large &= ((before == _EXPONENT) | (before == _EXPONENT_PLUS)) & ~is_wrong
    sample_ends = marks.compress(classes == _STOP)
    infinite = _infinite(joined, raw, marks, np.flatnonzero(large) + 1, sample_ends)
    return np.concatenate((marks[1:][is_wrong], infinite)), sample_ends


def _infinite(
    joined: bytes, raw: _Bytes, marks: _Numbers, large: _Numbers, sample_ends: _Numbers
) -> _Numbers:
    """The ends of samples that overflow a double, among those at the indices ``large`` of the marks.

    A number of n digits before its exponent is below 10 ** (n + exponent), and a double can hold everything
    below 10 ** 308. What that does not decide is checked one by one.
    """
    if not len(large):
        return large
    ends = marks[large]
    has_sign = raw[marks[large - 1]] == ord("+")
    exponent_at = marks[large - 1 - has_sign]
    commas = sample_ends[sample_ends.searchsorted(ends) - 1] + 7
    exponents = _digits(raw, ends - 3, 3)
    of_three = ends - marks[large - 1] == 4
    in_doubt = ends[~(of_three & (exponents + (exponent_at - commas - 1) <= _SURE_POWER))]
    commas = sample_ends[sample_ends.searchsorted(in_doubt) - 1] + 7
    text = joined.decode("latin-1")
    values = [text[comma + 1 : end] for comma, end in zip(commas.tolist(), in_doubt.tolist(), strict=True)]
    finite = np.isfinite(np.fromiter(map(_value, values), np.float64, len(values)))
    infinite: _Numbers = in_doubt[~finite]
    return infinite


def _value(text: str) -> float:
    """The number; NaN if it is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- both -------------------------------------------------------------------------------------


def canonical_texts(bodies: Sequence[bytes]) -> list[Canonical | None]:
    """Each body as it came, with its properties; None if it is not certainly valid."""
    found = _checked(bodies, _wrong_in_plain)
    odd = [place for place, one in enumerate(found) if one is None]
    if odd:
        for place, one in zip(odd, _checked([bodies[place] for place in odd], _wrong_in_any), strict=True):
            found[place] = one
    return found


def _checked(
    bodies: Sequence[bytes],
    wrong_in: Callable[[bytes, _Bytes, _Numbers], tuple[_Numbers, _Numbers]],
) -> list[Canonical | None]:
    joined = b";" + b";".join(bodies) + b";" + bytes(8)
    raw = np.frombuffer(joined, dtype=np.uint8)[: len(joined) - 8]
    ends = np.cumsum(np.fromiter(map(len, bodies), dtype=np.int64, count=len(bodies)) + 1)
    marks = np.flatnonzero((raw - 48) >= 10)  # bytes that are not digits (unsigned, so also those below "0")
    wrong, sample_ends = wrong_in(joined, raw, marks)

    starts = sample_ends[:-1] + 1
    wrong_samples = starts[sample_ends[1:] - sample_ends[:-1] > _LONGEST_SAMPLE]
    # The eight bytes at the start of each sample, as one number that orders like the first six.
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


def _six_digits(raw: _Bytes, at: _Numbers) -> list[int]:
    found: list[int] = _digits(raw, at, 6).tolist()
    return found


def _digits(raw: _Bytes, at: _Numbers, count: int) -> _Numbers:
    """The number that ``count`` digits from each place form."""
    number = np.zeros(len(at), dtype=np.int64)
    for offset in range(count):
        number = number * 10 + (raw[np.minimum(at + offset, len(raw) - 1)] - np.uint8(48))
    return number
