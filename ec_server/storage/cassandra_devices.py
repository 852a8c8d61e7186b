"""The records of devices: first and last seen, verified through, and counts of notable minutes.

``last_seen`` is written with its own value as the timestamp, so that the latest wins in whatever order
servers write it. How far a device is verified is only displayed, but often: the result is cached for
``_VALID_S``, except for its last ``_OVERLAP_S`` and for days that were written to. Rounds do not use it
(cassandra_settled.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ec_server.storage.cassandra_clock import boot_time_s
from ec_server.storage.cassandra_days import Day, Days
from ec_server.storage.ranges import Range, of_text, text_of
from ec_server.storage.timeuuid import microseconds, timeuuid
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.model import DeviceRecord, MinuteState
from utilities.utc import DAY_S, day_of, ec_date, minute_of, minute_text, parse_minute

_VALID_S = 600.0
_OVERLAP_S = 3600

_FIRST_SEEN = "SELECT first_seen FROM ec_device WHERE device_id = ?"
_SEE_FIRST = "UPDATE ec_device SET first_seen = ? WHERE device_id = ?"
_SEE_LAST = "UPDATE ec_device USING TIMESTAMP ? SET last_seen = ? WHERE device_id = ?"
_COVERAGE = "UPDATE ec_device SET verified_from = ? WHERE device_id = ?"
_REOPENED = "UPDATE ec_device SET reopened = ? WHERE device_id = ?"
_NOTES = "SELECT state, extra, conflicts FROM ec_notable WHERE device_id = ?"

FirstUnproven = Callable[[str, int, int], int]


@dataclass(frozen=True, slots=True)
class _Through:
    """Up to where a device was last found to be settled."""

    start: int
    earlier: tuple[str, ...]
    """Fingerprints of past days."""
    valid_until_s: float
    through: int


class Devices:
    """Reads and writes ``ec_device``. Not thread-safe."""

    def __init__(self, database: Database, days: Days, first_unproven: FirstUnproven) -> None:
        """``first_unproven`` returns the first minute of a range that is not settled, or the range's end."""
        self._db = database
        self._days = days
        self._first_unproven = first_unproven
        self._first_seen: dict[str, int] = {}
        self._through: dict[str, _Through] = {}

    def note(self, seen: Mapping[str, int]) -> None:
        """Record devices as seen, or move their ``last_seen`` forward: device id to epoch microseconds."""
        unknown = [device_id for device_id in seen if device_id not in self._first_seen]
        for device_id, rows in zip(unknown, self._db.read_each(_FIRST_SEEN, [(d,) for d in unknown])):
            if rows and rows[0].first_seen:
                self._first_seen[device_id] = microseconds(rows[0].first_seen)
        self._db.write(self._statements(device_id, seen_us) for device_id, seen_us in seen.items())
        for device_id, seen_us in seen.items():
            self._first_seen[device_id] = min(seen_us, self._first_seen.get(device_id, seen_us))

    def _statements(self, device_id: str, seen_us: int) -> list[Statement]:
        statements = [Statement(_SEE_LAST, (seen_us, timeuuid(seen_us), device_id))]
        if seen_us < self._first_seen.get(device_id, seen_us + 1):
            statements.append(Statement(_SEE_FIRST, (timeuuid(seen_us), device_id)))
        return statements

    def note_coverage(self, device_id: str, start: int) -> None:
        """Record the first minute that rounds cover."""
        self._db.write([[Statement(_COVERAGE, (minute_text(start), device_id))]])

    def note_reopened(self, device_id: str, reopened: Sequence[Range]) -> None:
        """Record which minutes the device is recording again."""
        self._db.write([[Statement(_REOPENED, (text_of(reopened), device_id))]])

    def all(self) -> list[DeviceRecord]:
        """Every recorded device, ascending by id."""
        found = [row for row in self._db.read("SELECT * FROM ec_device") if row.last_seen]
        return self._of_rows(sorted(found, key=lambda row: str(row.device_id)))

    def one(self, device_id: str) -> DeviceRecord | None:
        """One device's record; None if it was never seen."""
        found = self._db.read("SELECT * FROM ec_device WHERE device_id = ?", device_id)
        records = self._of_rows([row for row in found if row.last_seen])
        return records[0] if records else None

    def _of_rows(self, rows: Sequence[Any]) -> list[DeviceRecord]:
        notes = self._db.read_each(_NOTES, [(row.device_id,) for row in rows])
        through = self._verified_through([row for row in rows if row.verified_from])
        return [_record(row, of_device, through.get(row.device_id)) for row, of_device in zip(rows, notes)]

    def _verified_through(self, rows: Sequence[Any]) -> dict[str, int]:
        starts = {r.device_id: start for r in rows if (start := parse_minute(r.verified_from)) is not None}
        days = self._days.of_each(list(starts))
        return {
            device_id: self._look_again(device_id, start, of_device)
            for (device_id, start), of_device in zip(starts.items(), days)
        }

    def _look_again(self, device_id: str, start: int, days: Mapping[str, Day]) -> int:
        """Search again, from ``start`` if a past day changed, else from shortly before the cached result."""
        today = ec_date(day_of(int(time.time())))
        earlier = tuple(day.fingerprint for date, day in days.items() if date < today)
        known = self._through.get(device_id)
        now_s = boot_time_s()
        if known is None or (known.start, known.earlier) != (start, earlier) or now_s > known.valid_until_s:
            known = _Through(start, earlier, now_s + _VALID_S, start)
        stop = max(start, minute_of(int(time.time())) + DAY_S)
        through = self._first_unproven(device_id, max(start, known.through - _OVERLAP_S), stop)
        self._through[device_id] = replace(known, through=through)
        return through


def _record(row: Any, notes: Sequence[Any], verified_through: int | None) -> DeviceRecord:
    states = [note.state for note in notes]
    return DeviceRecord(
        row.device_id,
        microseconds(row.first_seen or row.last_seen),
        microseconds(row.last_seen),
        parse_minute(row.verified_from) if row.verified_from else None,
        verified_through,
        states.count(MinuteState.UNRESOLVED.value),
        states.count(MinuteState.UNCONFIRMABLE.value),
        sum(note.conflicts or 0 for note in notes),
        sum(note.extra or 0 for note in notes),
        states.count(MinuteState.EMPTY.value),
        tuple(of_text(row.reopened)),
    )
