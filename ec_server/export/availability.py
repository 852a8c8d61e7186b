"""Finds where samples are stored and proven, and the gaps, without reading complete seconds.

The number of samples of a second is in its cached digest. For each number, one second is read to learn
whether seconds of that number have no gaps. Seconds of other numbers are read, so that lost messages show to
the microsecond. At most ``MOST_READ_SECONDS`` are read: after that, a second counts as stored from its
beginning to its end, and the answer is not exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ec_server.export.coverage import SECOND_US, Coverage, Spans, clipped, gaps_between, is_whole
from ec_server.export.stored_seconds import Span, days_of, microseconds_of, stored_minutes
from ec_server.storage.contract import Store
from utilities import utc
from utilities.model import MinuteState

MOST_READ_SECONDS = 3_600
MOST_DAYS = 62


@dataclass(slots=True)
class Availability:
    """Half-open spans in epoch microseconds; ``stored`` and ``gaps`` together cover the whole range."""

    stored: Spans = field(default_factory=list)
    proven: Spans = field(default_factory=list)
    gaps: Spans = field(default_factory=list)
    exact: bool = True


def find_availability(store: Store, span: Span, found: Availability) -> Iterator[None]:
    """Fill ``found``; yields after each minute, so that the caller can keep a connection alive."""
    coverage, seconds = Coverage(), _Seconds(store, span.device_id)
    spans: Spans = []
    for minute, _, _ in stored_minutes(store, span):
        for second, digest in store.second_digests(span.device_id, minute):
            spans += seconds.add(coverage, second, digest.count)
        yield
    spans += coverage.finish()
    limits = (span.start * SECOND_US, span.stop * SECOND_US)
    found.stored = list(clipped(spans, *limits))
    found.gaps = list(gaps_between(found.stored, *limits))
    found.proven = _within(found.stored, _proven_ranges(store, span))
    found.exact = seconds.exact


class _Seconds:
    """Adds seconds to a coverage, reading only those that may have gaps."""

    def __init__(self, store: Store, device_id: str) -> None:
        self._store, self._device_id = store, device_id
        self._intervals_us: dict[int, int] = {}
        """Number of samples of a second without a gap, to their interval."""
        self._left = MOST_READ_SECONDS
        self.exact = True

    def add(self, coverage: Coverage, second: int, count: int) -> Spans:
        if interval_us := self._intervals_us.get(count):
            return coverage.add_whole(second, interval_us)
        if self._left <= 0:
            self.exact = False
            return coverage.add_whole(second, SECOND_US // max(count, 1) or 1)
        self._left -= 1
        text = self._store.second_text(self._device_id, second)
        if not text:  # removed since it was listed
            return []
        microseconds = microseconds_of(text)
        if interval_us := is_whole(second, microseconds):
            self._intervals_us[count] = interval_us
        return coverage.add(second, microseconds)


def _proven_ranges(store: Store, span: Span) -> Iterator[tuple[int, int]]:
    for day in days_of(span):
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
