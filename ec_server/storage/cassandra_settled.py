"""Which minutes of a device are settled: read from their records and rows, cached for whole days.

Rules:

1. A minute is settled if its record and what is stored with its rows both say so (cassandra_minutes.py).
   Both are read for the minutes asked about: one query for a day's records, and one for each 60 minutes.
2. Only whole past days are cached, and only by the process that has read the day completely, as long as the
   record of the day (``ec_day``) and its fingerprint stay the same. That record alone settles nothing, but it
   makes the day unsettled if another process has found a minute unresolved.
3. A cached day is read again after ``REREAD_AFTER_S``, at most one day every ``REREAD_EVERY_S``, so that a
   year of many devices costs little and a truncated table is noticed nevertheless.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ec_server.storage import ranges
from ec_server.storage.cassandra_clock import boot_time_s, now
from ec_server.storage.cassandra_days import NO_DAY, Day, Days, by_day
from ec_server.storage.cassandra_record import Records
from ec_server.storage.ranges import Range
from utilities.model import SETTLED, MinuteState
from utilities.utc import DAY_S, day_of, ec_date

REREAD_AFTER_S = 3600.0
REREAD_EVERY_S = 5.0
_REMEMBERED_DAYS = 200_000


class Settled:
    """Reads records and caches days. Not thread-safe."""

    def __init__(self, records: Records, days: Days, *, read_only: bool) -> None:
        """If ``read_only``, no days are recorded."""
        self._records = records
        self._days = days
        self._read_only = read_only
        self._seen: dict[tuple[str, int], tuple[str, int, float]] = {}
        """Device and day to the day's fingerprint, from which minute on it was read, and when."""
        self._next_reread_s = 0.0

    def unproven(self, device_id: str, start: int, stop: int) -> Iterator[Range]:
        """The ranges of minutes in ``[start, stop)`` that are not settled, ascending, day by day."""
        days = self._days.of_device(device_id)
        for first, last in by_day(start, stop):
            day = days.get(ec_date(first), NO_DAY)
            if not self._holds(device_id, first, day):
                yield from self._read(device_id, first, last, day)

    def first_unproven(self, device_id: str, start: int, stop: int) -> int:
        """The first minute in ``[start, stop)`` that is not settled; ``stop`` if there is none."""
        return next(self.unproven(device_id, start, stop), (stop, stop))[0]

    def in_states(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[Range]:
        """The ranges of minutes in ``[start, stop)`` whose state is one of these."""
        now_us = now()
        spans = [(start, stop)]
        if stop - start > 2 * DAY_S:  # the range may be the whole time that can be expressed
            days = self._days.on_record(device_id)
            spans = ranges.clip([(day, day + DAY_S) for day in days], start, stop)
        return ranges.of_minutes(
            minute
            for span in spans
            for minute, one in self._records.lines(device_id, *span).items()
            if one.verdict(now_us) in states
        )

    def _read(self, device_id: str, first: int, last: int, day: Day) -> list[Range]:
        now_us, lines = now(), self._records.lines(device_id, first, last)
        settled = ranges.of_minutes(m for m, one in lines.items() if one.verdict(now_us) in SETTLED)
        is_over = last == day_of(first) + DAY_S and not any(one.is_leased for one in lines.values())
        if is_over and settled == [(first, last)]:
            self._remember(device_id, first, day)
            if not day.is_final(first) and not self._read_only:
                self._days.record_final(device_id, first, day)
        return ranges.subtract([(first, last)], settled)

    def _remember(self, device_id: str, first: int, day: Day) -> None:
        key = (device_id, day_of(first))
        self._seen.pop(key, None)
        self._seen[key] = (day.fingerprint, first, boot_time_s())
        if len(self._seen) > _REMEMBERED_DAYS:
            del self._seen[next(iter(self._seen))]

    def _holds(self, device_id: str, first: int, day: Day) -> bool:
        fingerprint, seen_from, at_s = self._seen.get((device_id, day_of(first)), ("", first, 0.0))
        if not (at_s and day.is_final(first) and fingerprint == day.fingerprint and seen_from <= first):
            return False
        now_s = boot_time_s()
        if now_s - at_s < REREAD_AFTER_S or now_s < self._next_reread_s:
            return True
        self._next_reread_s = now_s + REREAD_EVERY_S
        return False
