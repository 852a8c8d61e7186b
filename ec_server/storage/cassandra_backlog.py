"""Which minutes have rows to pack, according to their records, read one day at a time.

Rules:

1. A minute has rows to pack if its versions are not those at which it was packed, nobody can be writing to
   it, and it ended long enough ago.
2. A past day whose minutes are all packed, and leased by nobody, is recorded as packed. It is not read again
   until somebody writes to it, which changes its fingerprint (cassandra_minutes.py, rule 6).
3. Days are read oldest first, no further than needed. Only the count, which is just displayed, reads them
   all; it is cached for a while.
"""

from __future__ import annotations

from collections.abc import Iterable

from ec_server.storage.cassandra_clock import boot_time_s, now
from ec_server.storage.cassandra_days import Day, Days
from ec_server.storage.cassandra_minutes import MinuteLines
from ec_server.storage.cassandra_record import Records
from utilities.utc import DAY_S, MINUTE_S, parse_ec

_COUNT_VALID_S = 15.0

Place = tuple[str, int]
"""``(device, minute)``."""


class Backlog:
    """Reads the records of minutes; records packed days, unless read-only."""

    def __init__(self, records: Records, days: Days, *, read_only: bool) -> None:
        self._records = records
        self._days = days
        self._read_only = read_only
        self._count = 0
        self._counted_until_s = 0.0

    def minutes(self, before: int, most: int) -> list[Place]:
        """The minutes that ended before ``before`` and have rows to pack, oldest first."""
        found: list[Place] = []
        for start, days in self._unpacked(before):
            if len(found) >= most:
                break
            found += sorted(
                (place for device_id, day in days for place in self._of_day(device_id, start, day, before)),
                key=lambda place: (place[1], place[0]),
            )
        return found[:most]

    def count(self, before: int) -> int:
        """How many such minutes there are; may be some seconds old."""
        now_s = boot_time_s()
        if now_s >= self._counted_until_s:
            days = [(start, *one) for start, of_day in self._unpacked(before) for one in of_day]
            self._count = sum(
                len(self._of_day(device_id, start, day, before)) for start, device_id, day in days
            )
            self._counted_until_s = now_s + _COUNT_VALID_S
        return self._count

    def _unpacked(self, before: int) -> list[tuple[int, list[tuple[str, Day]]]]:
        """The days that may have rows to pack, ascending, each with its devices."""
        found: dict[str, list[tuple[str, Day]]] = {}
        device_ids = self._days.device_ids() if before > 0 else []
        for device_id, days in zip(device_ids, self._days.of_each(device_ids)):
            for date, day in days.items():
                if day.fingerprint and not day.is_packed:
                    found.setdefault(date, []).append((device_id, day))
        starts = {parse_ec(date, "000000"): of_day for date, of_day in found.items()}
        return [(start, starts[start]) for start in sorted(starts) if start < before]

    def _of_day(self, device_id: str, start: int, day: Day, before: int) -> list[Place]:
        stop = min(start + DAY_S, before)
        lines = self._records.on_record(device_id, start, stop)
        waiting = unpacked_in(lines.values(), before, now())
        is_over = stop == start + DAY_S and not any(one.is_leased for one in lines.values())
        if is_over and not waiting and not self._read_only:
            self._days.record_packed(device_id, start, day)
        return [(device_id, minute) for minute in waiting]


def unpacked_in(lines: Iterable[MinuteLines], before: int, now_us: int) -> list[int]:
    """The minutes with rows to pack (rule 1); pure."""
    return [
        one.minute
        for one in lines
        if one.was_written
        and not one.is_packed
        and not one.is_busy(now_us)
        and one.minute + MINUTE_S <= before
    ]
