"""Reads the stored seconds of a device in order, and turns their canonical text into arrays.

Rules:

1. Memory use does not depend on the range: one second is held at a time.
2. Only minutes that have rows are asked for their seconds, so an empty year costs one look per day; of a
   longer span only the days from the first to the last that are stored are looked at.
3. A value is always the double nearest to its text. If pyarrow is installed, it parses at twice the speed;
   what it does not accept (``+5``) is parsed by Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from math import isfinite, nan
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ec_server.storage.contract import Store
from utilities import utc
from utilities.checksum_util import parse_canonical

Microseconds = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

_NARROWED_S = 366 * utc.DAY_S
"""Longer spans are narrowed: each day costs a look into the database, also where it is empty."""

_SEPARATOR = ord(";")
_ZERO = ord("0")
_WEIGHTS = np.array([100_000, 10_000, 1_000, 100, 10, 1], np.int64)
_DIGITS = np.arange(6)
_SECOND_US = 1_000_000


class Span(NamedTuple):
    """A device and a half-open range ``[start, stop)`` in epoch seconds."""

    device_id: str
    start: int
    stop: int


def parse_moment(text: str) -> int:
    """Epoch second of ``YYYYMMDDhhmm`` or ``YYYYMMDDhhmmss``; ValueError with what is allowed."""
    if len(text) == 12:
        return utc.parse_minute(text)
    if len(text) == 14:
        return utc.parse_second(text)
    raise ValueError(f"{text!r} is not a UTC moment of the form YYYYMMDDhhmm or YYYYMMDDhhmmss")


def check_span(span: Span, most_s: int | None = None) -> None:
    """ValueError if the range is empty, backwards or longer than ``most_s`` seconds."""
    if span.start >= span.stop:
        raise ValueError("from must be earlier than to: the range is half-open, [from, to)")
    if most_s is not None and span.stop - span.start > most_s:
        raise ValueError(f"the range is longer than {length_text(most_s)}: ask for shorter ones in turn")


def length_text(seconds: int) -> str:
    """A duration in its largest whole unit: ``1 hour``, ``62 days``."""
    for name, unit_s in (("day", utc.DAY_S), ("hour", utc.HOUR_S), ("minute", utc.MINUTE_S)):
        if seconds % unit_s == 0:
            count = seconds // unit_s
            return f"{count:,} {name}{'' if count == 1 else 's'}"
    return f"{seconds:,} seconds"


def days_of(span: Span) -> Iterator[Span]:
    """The span, split at midnight."""
    start = span.start
    while start < span.stop:
        stop = min(span.stop, utc.day_of(start) + utc.DAY_S)
        yield Span(span.device_id, start, stop)
        start = stop


def stored_minutes(store: Store, span: Span) -> Iterator[tuple[int, int, int]]:
    """``(minute, rows, sum of the rows' sample counts)`` of minutes with rows that overlap the span."""
    for day in days_of(narrowed(store, span)):
        yield from store.row_counts(day.device_id, utc.minute_of(day.start), day.stop)


def narrowed(store: Store, span: Span) -> Span:
    """The part of a long span in which there may be rows of the device."""
    if span.stop - span.start <= _NARROWED_S:
        return span
    first, last = store.earliest_minute(span.device_id), store.latest_second()
    if first is None or last is None:
        return Span(span.device_id, span.start, span.start)
    return Span(span.device_id, max(span.start, first), min(span.stop, last + 1))


def seconds_of(span: Span, minute: int) -> range:
    """The seconds of a minute that lie in the span."""
    return range(max(minute, span.start), min(minute + utc.MINUTE_S, span.stop))


def microseconds_of(text: str) -> Microseconds:
    """The microseconds of a second's canonical text, ascending."""
    try:
        found = _first_digits(text)
    except ValueError:
        found = np.array([-1])
    return found if _are_of_a_second(found) else np.array(sorted(parse_canonical(text)), np.int64)


def _first_digits(text: str) -> Microseconds:
    """The six digits at the beginning of each sample. ValueError if anything else is there."""
    raw = np.frombuffer(text.encode("ascii"), np.uint8)
    starts = np.concatenate(([0], np.flatnonzero(raw == _SEPARATOR) + 1))
    if starts[-1] + len(_DIGITS) > len(raw):
        raise ValueError("the last sample is too short")
    digits = raw[starts[:, None] + _DIGITS] - np.uint8(_ZERO)
    if (digits > 9).any():
        raise ValueError("a sample begins with something else")
    microseconds: Microseconds = digits.astype(np.int64) @ _WEIGHTS
    return microseconds


def arrays_of(text: str) -> tuple[Microseconds, Values]:
    """Microseconds and values of a second's canonical text; what damage has made of it is left out."""
    for parse in (_by_arrow, _by_python):
        with suppress(ValueError, IndexError):
            microseconds, values = parse(text)
            if _are_of_a_second(microseconds) and np.isfinite(values).all():
                return microseconds, values
    samples = {us: _number(value) for us, value in sorted(parse_canonical(text).items())}
    sound = {us: value for us, value in samples.items() if isfinite(value)}
    return np.array(list(sound), np.int64), np.array(list(sound.values()), np.float64)


def _by_arrow(text: str) -> tuple[Microseconds, Values]:
    arrow = _arrow()
    if arrow is None:
        raise ValueError("not installed")
    return arrow.parse(text)


def _by_python(text: str) -> tuple[Microseconds, Values]:
    return _first_digits(text), np.array(text.replace(";", ",").split(",")[1::2], np.float64)


def _are_of_a_second(microseconds: Microseconds) -> bool:
    within = len(microseconds) and microseconds[0] >= 0 and microseconds[-1] < _SECOND_US
    return bool(within and (np.diff(microseconds) > 0).all())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan


class _Arrow:
    """pyarrow's CSV reader as a parser of canonical text, without other threads."""

    def __init__(self, arrow: Any, csv: Any) -> None:
        self._arrow, self._csv = arrow, csv
        self._options = {
            "read_options": csv.ReadOptions(
                column_names=["time", "value"], use_threads=False, block_size=1 << 26
            ),
            "parse_options": csv.ParseOptions(quote_char=False),
            "convert_options": csv.ConvertOptions(
                column_types={"time": arrow.int64(), "value": arrow.float64()}, null_values=[]
            ),
        }

    def parse(self, text: str) -> tuple[Microseconds, Values]:
        raw = self._arrow.py_buffer(text.replace(";", "\n").encode("ascii"))
        table = self._csv.read_csv(self._arrow.BufferReader(raw), **self._options)
        return table.column(0).to_numpy(), table.column(1).to_numpy()


@cache
def _arrow() -> _Arrow | None:
    try:
        import pyarrow  # noqa: PLC0415 (an extra: most servers run without it)
        from pyarrow import csv  # noqa: PLC0415
    except ImportError:
        return None
    return _Arrow(pyarrow, csv)
