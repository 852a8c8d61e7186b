"""Reads the stored seconds of a device in order, and turns their canonical text into arrays.

Rules:

1. Memory use does not depend on the range: one second is held at a time.
2. Seconds are read only of minutes that have rows, so an empty year costs one query per day.
3. A value is always the double nearest to its text. If pyarrow is installed, it parses at twice the speed;
   what it does not accept (``+5``) is parsed by Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ec_server.storage.contract import Store
from utilities import utc
from utilities.checksum_util import parse_canonical

Microseconds = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

MOST_DAYS = 3660
"""The longest range in days: each day costs a query, even if it is empty."""

_SEPARATOR = ord(";")
_ZERO = ord("0")
_WEIGHTS = np.array([100_000, 10_000, 1_000, 100, 10, 1], np.int64)
_DIGITS = np.arange(6)


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


def check_span(span: Span, most_s: int = MOST_DAYS * utc.DAY_S) -> None:
    """ValueError if the range is empty, backwards or longer than ``most_s`` seconds."""
    if span.start >= span.stop:
        raise ValueError("from must be earlier than to: the range is half-open, [from, to)")
    if span.stop - span.start > most_s:
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
    for day in days_of(span):
        yield from store.row_counts(day.device_id, utc.minute_of(day.start), day.stop)


def seconds_of(span: Span, minute: int) -> range:
    """The seconds of a minute that lie in the span."""
    return range(max(minute, span.start), min(minute + utc.MINUTE_S, span.stop))


def microseconds_of(text: str) -> Microseconds:
    """The microseconds of a second's canonical text, ascending; of a damaged one, those that can be read."""
    found = _leading_digits(text)
    return _readable(text)[0] if found is None else found


def _leading_digits(text: str) -> Microseconds | None:
    """The six digits at the beginning of each sample; None where something else stands there."""
    raw = np.frombuffer(text.encode("ascii"), np.uint8)
    starts = np.concatenate(([0], np.flatnonzero(raw == _SEPARATOR) + 1))
    if starts[-1] + len(_DIGITS) > len(raw):
        return None
    digits = raw[starts[:, None] + _DIGITS] - np.uint8(_ZERO)
    return None if (digits > 9).any() else digits.astype(np.int64) @ _WEIGHTS


def arrays_of(text: str) -> tuple[Microseconds, Values]:
    """Microseconds and values of a second's canonical text; of a damaged one, what can be read."""
    if arrow := _arrow():
        try:
            return arrow.parse(text)
        except arrow.refused:
            pass
    microseconds, fields = _leading_digits(text), text.replace(";", ",").split(",")
    if microseconds is not None and len(fields) == 2 * len(microseconds):
        with suppress(ValueError):
            return microseconds, np.array(fields[1::2], np.float64)
    return _readable(text)


def _readable(text: str) -> tuple[Microseconds, Values]:
    """What disk or another program have changed, and is no sample any more, is left out."""
    samples = {
        us: number for us, value in parse_canonical(text).items() if (number := _number(value)) is not None
    }
    return np.array(list(samples), np.int64), np.array(list(samples.values()), np.float64)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class _Arrow:
    """pyarrow's CSV reader as a parser of canonical text, without other threads."""

    def __init__(self, arrow: Any, csv: Any) -> None:
        self._arrow, self._csv = arrow, csv
        self.refused: type[Exception] = arrow.ArrowInvalid
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
