"""One pass over a device's stored seconds: yields each of them, and collects what the report needs.

The report holds what a user of the samples must know: the state and digest of every minute, and the gaps.
Digests are computed from exactly the text that is exported, so if they are equal to the device's digests, the
export is proven. A minute whose cached digest differs was written to meanwhile, and is reported as unproven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ec_server.export.coverage import SECOND_US, Coverage, Spans
from ec_server.export.minute_lines import state_word
from ec_server.export.stored_seconds import Span, days_of, microseconds_of, seconds_of, stored_minutes
from ec_server.storage.contract import Store
from ec_server.storage.digests import digest_of_minute, digest_of_second
from utilities import utc
from utilities.model import UNPROVEN, Digest, MinuteState


@dataclass(frozen=True, slots=True)
class ExportedMinute:
    """A minute with samples or a verdict; ``digest`` is None if it has no samples."""

    minute: int
    state: str
    digest: Digest | None


@dataclass(slots=True)
class Report:
    """What was exported, in total."""

    samples: int = 0


@dataclass(frozen=True, slots=True)
class Notes:
    """Is told what the report needs, each kind ascending."""

    gap: Callable[[int, int], None]
    """Half-open in epoch microseconds."""
    minute: Callable[[ExportedMinute], None]


def extract(store: Store, span: Span, notes: Notes | None, report: Report) -> Iterator[tuple[int, str]]:
    """Yields ``(second, canonical text)`` of each stored second; fills ``notes`` and ``report`` meanwhile."""
    gaps, minutes = _Gaps(span, notes), _Minutes(store, span, notes)
    for minute, _rows, _samples in stored_minutes(store, span):
        digests: list[tuple[int, Digest]] = []
        for second in seconds_of(span, minute):
            text = store.second_text(span.device_id, second)
            if not text:
                continue
            report.samples += text.count(";") + 1
            if notes is not None and (digest := digest_of_second(text)):
                digests.append((second, digest))
                gaps.add(second, text)
            yield second, text
        if notes is not None:
            minutes.add(_minute(store, span, minute, digests))
    gaps.finish()
    minutes.finish()


def _minute(store: Store, span: Span, minute: int, seconds: list[tuple[int, Digest]]) -> ExportedMinute:
    """The minute's line; if only a part of it is in the span, the digest is that of the whole minute."""
    stop = minute + utc.MINUTE_S
    if minute < span.start or stop > span.stop:
        stored = dict(store.minute_digests(span.device_id, minute, stop))
        digest = stored.get(minute)
    else:
        digest = digest_of_minute(seconds)
    records = store.minutes(span.device_id, minute, stop)
    record = records[0] if records else None
    changed = record is not None and record.digest is not None and record.digest != digest
    return ExportedMinute(minute, UNPROVEN if changed else state_word(record), digest)


class _Minutes:
    """Tells of minutes with samples, and between them of those that have a verdict and no samples."""

    def __init__(self, store: Store, span: Span, notes: Notes | None) -> None:
        self._tell = notes.minute if notes else None
        self._settled = _settled(store, span) if notes else iter(())
        self._next = next(self._settled, None)

    def add(self, one: ExportedMinute) -> None:
        assert self._tell is not None
        self._until(one.minute)
        self._tell(one)

    def finish(self) -> None:
        self._until(None)

    def _until(self, minute: int | None) -> None:
        """All before the minute; what is on record of itself is part of its line."""
        while self._next is not None and (minute is None or self._next.minute <= minute):
            if self._tell is not None and self._next.minute != minute:
                self._tell(self._next)
            self._next = next(self._settled, None)


def _settled(store: Store, span: Span) -> Iterator[ExportedMinute]:
    """Minutes on record with a verdict, a day at a time."""
    device_id = span.device_id
    for start, stop in store.ranges_in(device_id, utc.minute_of(span.start), span.stop, tuple(MinuteState)):
        for day in days_of(Span(device_id, start, stop)):
            for record in store.minutes(device_id, day.start, day.stop):
                if record.state:
                    yield ExportedMinute(record.minute, state_word(record), None)


class _Gaps:
    """Finds the gaps between stored seconds."""

    def __init__(self, span: Span, notes: Notes | None) -> None:
        self._tell = notes.gap if notes else None
        self._at_us, self._stop_us = span.start * SECOND_US, span.stop * SECOND_US
        self._coverage = Coverage()

    def add(self, second: int, text: str) -> None:
        self._take(self._coverage.add(second, microseconds_of(text)))

    def finish(self) -> None:
        if self._tell is None:
            return
        self._take(self._coverage.finish())
        if self._at_us < self._stop_us:
            self._tell(self._at_us, self._stop_us)

    def _take(self, spans: Spans) -> None:
        assert self._tell is not None
        for begin, end in spans:
            if begin > self._at_us:
                self._tell(self._at_us, begin)
            self._at_us = max(self._at_us, end)
