"""Which minutes have something to pack: asked of their records, a day at a time.

Rules:

1. A minute has something to pack where the versions at which it was packed are not those of now, nobody may
   be writing to it, and it ended long enough ago.
2. A day that is over, whose minutes are all packed and held by nobody, is put on record as packed and not
   read again until somebody writes to it: its fingerprint changes then (cassandra_minutes.py, rule 6).
"""

from __future__ import annotations

from collections.abc import Iterable

from ec_server.storage.cassandra_minutes import MinuteLines
from ec_server.storage.cassandra_record import Day, Records, now
from utilities.utc import DAY_S, MINUTE_S, parse_ec

Place = tuple[str, int]
"""``(device, minute)``."""


class Backlog:
    """Reads records; puts days on record unless it is read-only."""

    def __init__(self, records: Records, *, read_only: bool) -> None:
        self._records = records
        self._read_only = read_only

    def minutes(self, before: int) -> list[Place]:
        """The minutes that ended before a moment and have something to pack, oldest first."""
        if before <= 0:
            return []
        found: list[Place] = []
        device_ids = self._records.device_ids()
        for device_id, days in zip(device_ids, self._records.days_of_each(device_ids)):
            for date, day in days.items():
                found += self._of_day(device_id, parse_ec(date, "000000"), day, before)
        return sorted(found, key=lambda place: (place[1], place[0]))

    def _of_day(self, device_id: str, start: int, day: Day, before: int) -> list[Place]:
        if not day.fingerprint or day.is_packed or start >= before:
            return []
        stop = min(start + DAY_S, before)
        lines = self._records.on_record(device_id, start, stop)
        waiting = unpacked_in(lines.values(), before, now())
        is_over = stop == start + DAY_S and not any(one.is_leased for one in lines.values())
        if is_over and not waiting and not self._read_only:
            self._records.day_is_packed(device_id, start, day)
        return [(device_id, minute) for minute in waiting]


def unpacked_in(lines: Iterable[MinuteLines], before: int, now_us: int) -> list[int]:
    """The minutes with something to pack (rule 1); pure."""
    return [
        one.minute
        for one in lines
        if one.was_written
        and not one.is_packed
        and not one.is_busy(now_us)
        and one.minute + MINUTE_S <= before
    ]
