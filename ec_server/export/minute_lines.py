"""What is known of each minute of a device, for ``/api/devices/ID/minutes`` and for exports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ec_server.export.stored_seconds import Span, days_of
from ec_server.storage.contract import Store
from utilities import utc
from utilities.model import UNPROVEN, MinuteRecord

MOST_COUNTED = 3_000_000
"""Samples that an answer may read to count them: a full minute at 44,000 a second, in about 2 s."""


@dataclass(frozen=True, slots=True)
class MinuteLine:
    """One minute; ``samples`` counts a microsecond once, or as often as rows hold it (``minute_lines``)."""

    minute: int
    state: str
    samples: int
    rows: int
    conflicts: int
    extra: int
    packed: bool
    checked_us: int | None

    def as_object(self) -> dict[str, object]:
        """The line as a JSON object (docs/status.md)."""
        return {
            "minute": utc.minute_text(self.minute),
            "state": self.state,
            "samples": self.samples,
            "rows": self.rows,
            "conflicts": self.conflicts,
            "extra": self.extra,
            "packed": self.packed,
            "checked": None if self.checked_us is None else utc.iso(self.checked_us),
        }


def minute_lines(store: Store, span: Span, counted: int = 0) -> Iterator[MinuteLine]:
    """Every minute that the span touches, ascending, whether anything is known of it or not.

    A microsecond counts once where the minute's digest is cached. It does in others as long as no more
    than ``counted`` samples have to be read for that; in the rest it counts as often as rows hold it.
    """
    for day in days_of(span):
        start = utc.minute_of(day.start)
        records = {record.minute: record for record in store.minutes(day.device_id, start, day.stop)}
        counts = {m: (rows, samples) for m, rows, samples in store.row_counts(day.device_id, start, day.stop)}
        for minute in range(start, day.stop, utc.MINUTE_S):
            record, (rows, samples) = records.get(minute), counts.get(minute, (0, 0))
            if rows and (record is None or record.digest is None) and samples <= counted:
                counted -= samples
                samples = _count(store, day.device_id, minute)
            yield _line(minute, record, rows, samples)


def state_word(record: MinuteRecord | None) -> str:
    """The value of the record's `MinuteState`, or ``unproven``."""
    return record.state.value if record and record.state else UNPROVEN


def _count(store: Store, device_id: str, minute: int) -> int:
    return sum(digest.count for _, digest in store.minute_digests(device_id, minute, minute + utc.MINUTE_S))


def _line(minute: int, record: MinuteRecord | None, rows: int, samples: int) -> MinuteLine:
    known = record or MinuteRecord(minute, None, None)
    return MinuteLine(
        minute,
        state_word(record),
        known.digest.count if known.digest else samples,
        rows,
        known.conflicts,
        known.extra,
        known.packed,
        known.check_time_us,
    )
