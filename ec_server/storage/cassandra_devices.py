"""The devices on record: first and last seen, verified through, and what is to be known of their minutes.

``last_seen`` carries its own moment as timestamp, so that the latest wins in whatever order servers
write it. How far a device is verified is read anew only where a version or a comparison was added
since: people look, and look again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ec_server.storage.cassandra_record import NO_DAY, Records, by_day
from ec_server.storage.timeuuid import microseconds, timeuuid
from utilities.cassandra_util import Database, Statement
from utilities.model import DeviceRecord, MinuteState
from utilities.utc import DAY_S, ec_date, minute_of, minute_text, parse_minute

_MEMO_S = 30.0

_FIRST_SEEN = "SELECT first_seen FROM ec_device WHERE device_id = ?"
_SEE_FIRST = "UPDATE ec_device SET first_seen = ? WHERE device_id = ?"
_SEE_LAST = "UPDATE ec_device USING TIMESTAMP ? SET last_seen = ? WHERE device_id = ?"
_COVERAGE = "UPDATE ec_device SET verified_from = ? WHERE device_id = ?"
_NOTES = "SELECT state, extra, conflicts FROM ec_notable WHERE device_id = ?"

UnprovenRanges = Callable[[str, int, int], list[tuple[int, int]]]


class Devices:
    """Reads and writes ``ec_device``; one thread at a time."""

    def __init__(self, database: Database, records: Records, unproven: UnprovenRanges) -> None:
        """``unproven`` gives the ranges of minutes that are not final."""
        self._db = database
        self._records = records
        self._unproven = unproven
        self._first_seen: dict[str, int] = {}
        self._through: dict[str, tuple[float, object, int]] = {}

    def note(self, seen: Mapping[str, int]) -> None:
        """Put devices on record, or move ``last_seen`` forward: device id to epoch microseconds."""
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
        """Put on record at which minute the rounds' coverage begins."""
        self._db.write([[Statement(_COVERAGE, (minute_text(start), device_id))]])

    def all(self) -> list[DeviceRecord]:
        """Every device on record, ascending by id."""
        found = [row for row in self._db.read("SELECT * FROM ec_device") if row.last_seen]
        return self._of_rows(sorted(found, key=lambda row: str(row.device_id)))

    def one(self, device_id: str) -> DeviceRecord | None:
        """One device's record; None where it was never seen."""
        found = self._db.read("SELECT * FROM ec_device WHERE device_id = ?", device_id)
        records = self._of_rows([row for row in found if row.last_seen])
        return records[0] if records else None

    def _of_rows(self, rows: Sequence[Any]) -> list[DeviceRecord]:
        notes = self._db.read_each(_NOTES, [(row.device_id,) for row in rows])
        through = self._verified_through([row for row in rows if row.verified_from])
        return [_record(row, of_device, through.get(row.device_id)) for row, of_device in zip(rows, notes)]

    def _verified_through(self, rows: Sequence[Any]) -> dict[str, int]:
        now_s = minute_of(int(time.time()))
        spans = {
            r.device_id: (start, max(start, now_s + DAY_S))
            for r in rows
            if (start := parse_minute(r.verified_from)) is not None
        }
        days = dict(zip(spans, self._records.days_of_each(list(spans))))
        dates = [
            (device_id, ec_date(first))
            for device_id, span in spans.items()
            for first, _ in by_day(*span)
            if not days[device_id].get(ec_date(first), NO_DAY).is_final(first)
        ]
        changes: dict[str, list[Any]] = {}
        for (device_id, _), change in zip(dates, self._records.changes(dates)):
            changes.setdefault(device_id, []).append(change)
        return {
            device_id: self._remembered(device_id, span, (span, days[device_id], changes.get(device_id)))
            for device_id, span in spans.items()
        }

    def _remembered(self, device_id: str, span: tuple[int, int], seen: object) -> int:
        at_s, memo, known = self._through.get(device_id, (0.0, None, 0))
        if memo != seen or time.monotonic() - at_s > _MEMO_S:
            unproven = self._unproven(device_id, *span)
            known = unproven[0][0] if unproven else span[1]
            self._through[device_id] = (time.monotonic(), seen, known)
        return known


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
    )
