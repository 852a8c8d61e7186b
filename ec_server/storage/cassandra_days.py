"""The records of days: which exist, and which need not be looked at again.

See cassandra_minutes.py, rule 6. Every conclusion about a day is recorded with the fingerprint at which the
day was read, and holds as long as the day's fingerprint is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ec_server.storage.cassandra_claims import REMOVED
from ec_server.storage.cassandra_clock import now
from ec_server.storage.cassandra_minutes import LEASE_S, fingerprint
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.utc import DAY_S, day_of, ec_date, ec_time, parse_ec

_DAY_PACKED = (
    "UPDATE ec_day USING TTL ? SET packed_version = ? WHERE device_id = ? AND ec_date = ? AND writer = ''"
)
_NOTED = "SELECT ec_date FROM ec_notable WHERE device_id = ?"
_DAYS = (
    "SELECT ec_date, writer, version, proven_from, proven_version, sealed_version, packed_version"
    " FROM ec_day WHERE device_id = ?"
)
_LAST_WRITES = (
    "SELECT max(writetime(version)), max(writetime(leased_until)), max(writetime(digest_version)),"
    " max(writetime(state_version)), max(writetime(check_time)), max(writetime(packed_version))"
    " FROM ec_minute WHERE device_id = ? AND ec_date = ?"
)
_REMOVED_DAY = (
    "UPDATE ec_day USING TTL ? AND TIMESTAMP ? SET version = ?"
    " WHERE device_id = ? AND ec_date = ? AND writer = ?"
)
_REMOVED_KEPT_S = 60 * DAY_S
"""Longer than Cassandra keeps tombstones (gc_grace_seconds, 10 days)."""
_DAY_PROVEN = (
    "UPDATE ec_day USING TTL ? SET proven_from = ?, proven_version = ?"
    " WHERE device_id = ? AND ec_date = ? AND writer = ''"
)
_DAY_SEALED = (
    "UPDATE ec_day USING TTL ? SET sealed_version = ? WHERE device_id = ? AND ec_date = ? AND writer = ''"
)


@dataclass(frozen=True, slots=True)
class Day:
    """The record of one day of one device."""

    fingerprint: str = ""
    """Fingerprint of the writers' versions; empty if nobody wrote."""
    proven_from: str | None = None
    proven_version: str | None = None
    sealed_version: str | None = None
    packed_version: str | None = None

    def is_final(self, start: int) -> bool:
        """Whether every minute from ``start`` to the day's end is recorded as final."""
        return self.proven_version == self.fingerprint and (self.proven_from or "~") <= ec_time(start)[:4]

    @property
    def is_sealed(self) -> bool:
        """Whether the digest of every minute is cached."""
        return self.sealed_version == self.fingerprint

    @property
    def is_packed(self) -> bool:
        """Whether no minute has rows to pack."""
        return self.packed_version == self.fingerprint


NO_DAY = Day()


class Days:
    """Reads and writes ``ec_day``. Not thread-safe."""

    def __init__(self, database: Database, ttl_s: Callable[[int], int]) -> None:
        """``ttl_s`` gives the seconds that the record of a moment's day is kept; 0 means forever."""
        self._db = database
        self._ttl_s = ttl_s

    def device_ids(self) -> list[str]:
        """Every device that has recorded days."""
        return sorted(row.device_id for row in self._db.read("SELECT DISTINCT device_id FROM ec_day"))

    def of_device(self, device_id: str) -> dict[str, Day]:
        """The recorded days of a device by ``ec_date``, ascending."""
        return _days_of_rows(self._db.read(_DAYS, device_id))

    def on_record(self, device_id: str) -> list[int]:
        """The days that have rows or recorded minutes without rows, ascending."""
        noted = {row.ec_date for row in self._db.read(_NOTED, device_id)}
        return sorted(parse_ec(date, "000000") for date in noted | self.of_device(device_id).keys())

    def of_each(self, device_ids: Sequence[str]) -> list[dict[str, Day]]:
        """``of_device`` of several devices at once."""
        return [_days_of_rows(rows) for rows in self._db.read_each(_DAYS, [(d,) for d in device_ids])]

    def record_final(self, device_id: str, start: int, day: Day) -> None:
        """Record that the day, as it was read, is final from ``start`` to its end."""
        values = (self._ttl_s(start), ec_time(start)[:4], day.fingerprint, device_id, ec_date(start))
        self._db.write([[Statement(_DAY_PROVEN, values)]])

    def record_sealed(self, device_id: str, start: int, day: Day) -> None:
        """Record that every digest of the day, as it was read, is cached."""
        values = (self._ttl_s(start), day.fingerprint, device_id, ec_date(start))
        self._db.write([[Statement(_DAY_SEALED, values)]])

    def record_packed(self, device_id: str, start: int, day: Day) -> None:
        """Record that the day, as it was read, has nothing left to pack."""
        values = (self._ttl_s(start), day.fingerprint, device_id, ec_date(start))
        self._db.write([[Statement(_DAY_PACKED, values)]])

    def reopen(self, device_id: str, minutes: Iterable[int]) -> None:
        """Record that the days of these minutes are not final: the minutes are unresolved."""
        days = {day_of(minute) for minute in minutes}
        values = [(self._ttl_s(day), None, None, device_id, ec_date(day)) for day in days]
        self._db.write([Statement(_DAY_PROVEN, one)] for one in values)

    def ceiling(self, device_id: str, day: int) -> int:
        """A write timestamp above every one stored of a day, whichever clock wrote it.

        A writer's versions are above the ranks of its rows, except for the last rows of a writer that died.
        """
        (found,) = self._db.read(_LAST_WRITES, device_id, ec_date(day))
        latest_us, moment_us = max((moment for moment in found if moment is not None), default=0), now()
        return moment_us if latest_us < moment_us else latest_us + 2 * LEASE_S * 1_000_000

    def remove(self, device_id: str, day: int, ceiling: int) -> None:
        """Delete a day's records; its own line last, so that an interrupted removal is found and continued.

        A line keeps up to which write timestamp the day was removed, for later writers: whatever they
        write with a lower timestamp would never be visible.
        """
        where = (device_id, ec_date(day))
        self._db.write([[Statement(_REMOVED_DAY, (_REMOVED_KEPT_S, ceiling + 1, ceiling, *where, REMOVED))]])
        for table in ("ec_minute", "ec_checksum", "ec_notable", "ec_day"):
            cql = f"DELETE FROM {table} USING TIMESTAMP ? WHERE device_id = ? AND ec_date = ?"  # noqa: S608
            self._db.write([[Statement(cql, (ceiling, *where))]])


def _days_of_rows(rows: Iterable[Any]) -> dict[str, Day]:
    found: dict[str, Day] = {}
    for date, group in groupby(rows, key=lambda row: row.ec_date):
        of_day = list(group)
        whole = fingerprint(
            (row.writer, row.version) for row in of_day if row.writer not in ("", REMOVED) and row.version
        )
        own = [row for row in of_day if not row.writer]
        record = [
            (row.proven_from, row.proven_version, row.sealed_version, row.packed_version) for row in own
        ]
        if whole or own:
            found[date] = Day(whole, *(record[0] if record else ()))
    return found


def by_day(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """``[start, stop)`` split at midnight."""
    while start < stop:
        last = min(stop, day_of(start) + DAY_S)
        yield start, last
        start = last
