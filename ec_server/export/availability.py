"""Finds where samples are stored and proven, and the gaps, without reading complete seconds.

A second's count is in its cached digest. Which counts belong to seconds without a gap is learnt from
the samples of one second of each count; a second of such a count, between two seconds that are stored,
is not read. All others are, so lost messages, beginnings and ends show to the microsecond. Small counts
tell nothing: the same few samples may lie anywhere. At most ``MOST_READ_SECONDS`` are read, and of at most
``MOST_MINUTES`` the seconds are looked at: beyond that, a second, or a minute, counts as stored from its
beginning to its end, and the answer is not exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ec_server.export.coverage import SECOND_US, Coverage, Spans, clipped, gaps_between, is_whole
from ec_server.export.stored_seconds import Span, days_of, microseconds_of, narrowed, stored_minutes
from ec_server.storage.contract import Store
from utilities import utc
from utilities.model import MinuteState

MOST_READ_SECONDS = 3_600
MOST_MINUTES = 62 * 1440
_TELLING_COUNT = 1_000
"""So many samples, as many as in a second without a gap, have none either."""


@dataclass(slots=True)
class Availability:
    """Half-open spans in epoch microseconds; ``stored`` and ``gaps`` together cover the whole range."""

    stored: Spans = field(default_factory=list)
    proven: Spans = field(default_factory=list)
    gaps: Spans = field(default_factory=list)
    exact: bool = True


def find_availability(store: Store, span: Span, found: Availability) -> Iterator[None]:
    """Fill ``found``; comes up for air after each minute, or each day of minutes that are not looked at."""
    seconds = _Seconds(store, span.device_id)
    spans: Spans = []
    for number, (minute, _, _) in enumerate(stored_minutes(store, span)):
        if number >= MOST_MINUTES:
            spans += seconds.add_minute(minute)
        else:
            for second, digest in store.second_digests(span.device_id, minute):
                if span.start <= second < span.stop:
                    spans += seconds.add(second, digest.count)
        if number < MOST_MINUTES or number % 1440 == 0:
            yield
    spans += seconds.finish()
    limits = (span.start * SECOND_US, span.stop * SECOND_US)
    found.stored = list(clipped(spans, *limits))
    found.gaps = list(gaps_between(found.stored, *limits))
    found.proven = _within(found.stored, _proven_ranges(store, span))
    found.exact = seconds.exact


class _Seconds:
    """Adds seconds, ascending, to a coverage, reading only those that may have gaps or end a span."""

    def __init__(self, store: Store, device_id: str) -> None:
        self._store, self._device_id = store, device_id
        self._coverage = Coverage()
        self._waiting: tuple[int, int] | None = None
        """The latest second and its count: the next one tells whether it is inside of a span."""
        self._before = -1
        """The second before it."""
        self._intervals_us: dict[int, int] = {}
        """Number of samples of a second without a gap, to their interval."""
        self._left = MOST_READ_SECONDS
        self.exact = True

    def add(self, second: int, count: int) -> Spans:
        """The spans that end before it."""
        closed = self._settle(second)
        self._waiting = (second, count)
        return closed

    def add_minute(self, minute: int) -> Spans:
        """The same, of a whole minute that is not looked at."""
        closed = self._settle(-1)
        self._waiting = None
        self.exact = False
        return [*closed, *self._coverage.add_whole(minute, SECOND_US, utc.MINUTE_S)]

    def finish(self) -> Spans:
        """Those that are left."""
        return [*self._settle(-1), *self._coverage.finish()]

    def _settle(self, following: int) -> Spans:
        if self._waiting is None:
            return []
        second, count = self._waiting
        is_inside = self._before == second - 1 and following == second + 1
        self._before = second
        interval_us = self._intervals_us.get(count) if count >= _TELLING_COUNT else None
        if interval_us and is_inside:
            return self._coverage.add_whole(second, interval_us)
        if self._left <= 0:
            self.exact = False
            return self._coverage.add_whole(second, interval_us or SECOND_US // max(count, 1) or 1)
        self._left -= 1
        return self._read(second, count)

    def _read(self, second: int, count: int) -> Spans:
        text = self._store.second_text(self._device_id, second)
        if not text:  # removed since it was listed
            return []
        microseconds = microseconds_of(text)
        if interval_us := is_whole(second, microseconds):
            self._intervals_us[count] = interval_us
        return self._coverage.add(second, microseconds)


def _proven_ranges(store: Store, span: Span) -> Iterator[tuple[int, int]]:
    for day in days_of(narrowed(store, span)):
        for record in store.minutes(day.device_id, utc.minute_of(day.start), day.stop):
            if record.state is MinuteState.PROVEN:
                yield record.minute * SECOND_US, (record.minute + utc.MINUTE_S) * SECOND_US


def _within(spans: Spans, ranges: Iterator[tuple[int, int]]) -> Spans:
    """The part of ``spans`` in ``ranges``; both ascending, adjacent parts merged."""
    pieces: Spans = []
    at = 0
    for begin, end in ranges:
        while at < len(spans) and spans[at][1] <= begin:
            at += 1
        for start, stop in clipped(_until(spans, at, end), begin, end):
            if pieces and pieces[-1][1] >= start:
                pieces[-1] = (pieces[-1][0], max(stop, pieces[-1][1]))
            else:
                pieces.append((start, stop))
    return pieces


def _until(spans: Spans, at: int, end: int) -> Iterator[tuple[int, int]]:
    while at < len(spans) and spans[at][0] < end:
        yield spans[at]
        at += 1
