"""Which of many text bodies are surely good; pure.

Decided on the bytes between the digits. Of all samples of all bodies, joined and each ended by ``;``, only
the bytes that are no digits are kept. Each such byte, the one before it, and how far it stands behind that
one must be a step of a table; together the steps leave nothing but ``UUUUUU,VALUE;`` again and again.

Two tables. The first is for what devices send, VALUE being ``[+-]?digits(.digits)?``::

    before  byte    digits between
    ;       ,       6
    ,       + -     0
    , + -   .       1 or more
    , + - . ;       1 or more

Bodies of which it is not sure meet the second, which has every form of a number: exponents, ``.5`` and
``5.``. Of what is left (anything wrong, samples of more than 200 bytes) this says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

BYTES_AT_ONCE = 88 << 10
"""What is best checked in one go: with more, the arrays no longer fit into the processor's cache."""

Canonical = tuple[bytes, int, int, int]
"""Canonical text, number of samples, first and last microsecond."""

_LONGEST_SAMPLE = 200
"""Bytes; no plain number of so few digits is beyond a double."""

_Numbers = npt.NDArray[np.int64]

_Bytes = npt.NDArray[np.uint8]

_FAR = 15
"""A distance to the byte before; this or more is one."""
_ANY = _FAR
_Step = tuple[int, int, int, int]
"""Class of the byte before, class of the byte, least and largest distance."""


def _wrong(classes: int, steps: Sequence[_Step]) -> npt.NDArray[np.bool_]:
    """By class before, class and distance: whether that is no step."""
    wrong = np.ones((classes, classes, _FAR + 1), dtype=np.bool_)
    for before, byte, least, most in steps:
        wrong[before, byte, least : most + 1] = False
    return wrong.reshape(-1)


def _class_of(**classes: int) -> _Bytes:
    """By byte: its class; 0 is any byte that no number has."""
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
    """Where a step is wrong, and where samples end."""
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
"""Distance to the end with which an exponent is below 100: with so few digits no double overflows."""
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
    """As ``_wrong_in_plain``; numbers with a large exponent are looked at one by one."""
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
    """Ends of samples that no double holds, of those whose ends are the ``large`` ones of the marks.

    A number of n digits before its exponent is below 10 ** (n + exponent), and a double holds what is below
    10 ** 308. What that does not decide is looked at one by one.
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
    """The number; NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- both -------------------------------------------------------------------------------------


def canonical_texts(bodies: Sequence[bytes]) -> list[Canonical | None]:
    """Each body as it came, with what is known of it; None if it is not sure."""
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
    marks = np.flatnonzero((raw - 48) >= 10)  # bytes that are no digits (unsigned, so below "0" too)
    wrong, sample_ends = wrong_in(joined, raw, marks)

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


def _six_digits(raw: _Bytes, at: _Numbers) -> list[int]:
    found: list[int] = _digits(raw, at, 6).tolist()
    return found


def _digits(raw: _Bytes, at: _Numbers, count: int) -> _Numbers:
    """The number that ``count`` digits from each place on are."""
    number = np.zeros(len(at), dtype=np.int64)
    for offset in range(count):
        number = number * 10 + (raw[np.minimum(at + offset, len(raw) - 1)] - np.uint8(48))
    return number
