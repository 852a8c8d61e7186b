"""The proof in a day file: the verdicts of its minutes, and which ranges of minutes are settled.

Rules:

1. A verdict is stored in the minute's line in ``ec_minute``, in the same file as the rows, and is recorded
   only if the minute's cached digest is still the one that was compared.
2. ``ec_settled`` holds the same as ranges, so that a round reads one or two lines instead of one per
   minute. Both change in the same transaction. A change by another program sets ``start`` to NULL, and the
   ranges are computed again from the lines.
3. A verdict that makes a settled minute unsettled is synced to disk before it returns (sqlite_lasting.py).
4. Minutes without a line, of which neither side has anything, are not kept here but in progress.db, as
   ranges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import apsw

from ec_server.storage import ranges
from ec_server.storage.ranges import Range
from ec_server.storage.sqlite_connection import all_rows, the_value, transaction
from ec_server.storage.sqlite_day import DayFile
from utilities.model import SETTLED, Digest, MinuteRecord, MinuteState, Verdict
from utilities.utc import ec_time, iso, moment_us, parse_ec

_FIGURES = "CAST(extra AS INTEGER), CAST(conflicts AS INTEGER)"
_OPEN = "(state IS NOT 'proven' OR extra > 0 OR conflicts > 0)"
_SETTLED = "state IN ({})".format(", ".join(f"'{state.value}'" for state in SETTLED))

_STATES = {state.value for state in MinuteState}


class Noted(NamedTuple):
    """How many of some minutes are in each state, and the sums of their figures."""

    unresolved: int = 0
    unconfirmable: int = 0
    empty: int = 0
    extra: int = 0
    conflicts: int = 0


_NOTED = "device_id, sum(state IS 'unresolved'), sum(state IS 'unconfirmable'), sum(state IS 'empty'),"
_NOTED += " CAST(sum(extra) AS INTEGER), CAST(sum(conflicts) AS INTEGER)"


class DayProof:
    """The verdicts of one open day file; raises apsw's errors."""

    def __init__(self, file: DayFile) -> None:
        self._file = file

    # --- verdicts -------------------------------------------------------------------------

    def record(
        self, device_id: str, verdicts: Sequence[Verdict], compared_us: int
    ) -> tuple[list[Verdict], list[int], int]:
        """``(verdicts on minutes that have no line here, minutes that changed since, new generation)``."""
        return self._file.lasting.run(lambda: self._record(device_id, verdicts, compared_us))

    def _record(
        self, device_id: str, verdicts: Sequence[Verdict], compared_us: int
    ) -> tuple[list[Verdict], list[int], int]:
        elsewhere: list[Verdict] = []
        changed: list[int] = []
        settled: list[int] = []
        unsettled: list[int] = []
        checked = iso(compared_us)
        with transaction(self._file.db) as cursor:
            before = self._ranges(cursor, device_id)
            for verdict in verdicts:
                at = (device_id, ec_time(verdict.minute))
                self._count_check(cursor, at, checked)
                rows = the_value(
                    cursor.execute("SELECT row_count FROM ec_minute WHERE device_id = ? AND ec_time = ?", at)
                )
                if self._digest_on_record(cursor, *at) != verdict.seen or (verdict.seen is None and rows):
                    changed.append(verdict.minute)
                    continue
                if rows is None and verdict.state is not MinuteState.UNRESOLVED:
                    elsewhere.append(verdict)
                    continue
                self._put(cursor, at, verdict, checked, is_new=rows is None)
                (settled if verdict.state in SETTLED else unsettled).append(verdict.minute)
            left = ranges.subtract(before, ranges.of_minutes(unsettled))
            if left != before:
                self._file.lasting.must_last()
            self._put_ranges(cursor, device_id, ranges.union([*left, *ranges.of_minutes(settled)]))
            generation = self._file.next_generation(cursor)
        return elsewhere, changed, generation

    @staticmethod
    def _put(
        cursor: apsw.Cursor, at: tuple[str, str], verdict: Verdict, checked: str, *, is_new: bool
    ) -> None:
        if is_new:
            cursor.execute(
                "INSERT INTO ec_minute (device_id, ec_time, state, check_time, check_times)"
                " VALUES (?, ?, ?, ?, 1)",
                (*at, verdict.state.value, checked),
            )
        else:
            cursor.execute(
                "UPDATE ec_minute SET state = ?, extra = ?, conflicts = conflicts + ?"
                " WHERE device_id = ? AND ec_time = ?",
                (verdict.state.value, verdict.extra, verdict.conflicts, *at),
            )

    def _count_check(self, cursor: apsw.Cursor, at: tuple[str, str], check_time: str) -> None:
        device_id, time_text = at
        step = "check_time = ?, check_times = check_times + 1"
        cursor.execute(
            f"UPDATE ec_minute SET {step} WHERE device_id = ? AND ec_time = ?",  # noqa: S608
            (check_time, *at),
        )
        cursor.execute(
            f"UPDATE ec_checksum SET {step} WHERE device_id = ? AND ec_date = ?"  # noqa: S608
            " AND ec_time BETWEEN ? AND ?",
            (check_time, device_id, self._file.date, time_text, time_text[:4] + "59"),
        )

    def _digest_on_record(self, cursor: apsw.Cursor, device_id: str, time_text: str) -> Digest | None:
        found = cursor.execute(
            "SELECT values_count, values_checksum FROM digest_line WHERE device_id = ? AND ec_date = ?"
            " AND ec_time = ? AND ec_type = 'P'",
            (device_id, self._file.date, time_text),
        ).fetchone()
        return Digest(*found) if found else None

    def revoke(self, cursor: apsw.Cursor, device_id: str, minute: int) -> None:
        """A write makes the minute unsettled. Call within ``lasting.run``."""
        settled = self._ranges(cursor, device_id)
        left = ranges.subtract(settled, ranges.of_minutes([minute]))
        if left != settled:
            self._file.lasting.must_last()
        cursor.execute(
            "UPDATE ec_minute SET state = NULL WHERE device_id = ? AND ec_time = ?",
            (device_id, ec_time(minute)),
        )
        self._put_ranges(cursor, device_id, left)

    def revoke_all(self, generation: int) -> None:
        """Remove every verdict, as the file has reverted to an older state, and raise its generation."""
        self._file.lasting.run(lambda: self._revoke_all(generation))

    def _revoke_all(self, generation: int) -> None:
        self._file.lasting.must_last()
        with transaction(self._file.db) as cursor:
            cursor.execute("UPDATE ec_minute SET state = NULL WHERE state IS NOT NULL")
            cursor.execute("DELETE FROM ec_settled")
            self._file.next_generation(cursor, generation)

    # --- what is settled ------------------------------------------------------------------

    def settled(self, device_id: str) -> list[Range]:
        """Ranges of minutes that have a line and are settled, ascending."""
        if self._file.layout == 1:
            return self._from_lines(self._file.db.cursor(), device_id)
        return self._ranges(self._file.db.cursor(), device_id)

    def settled_of_all(self) -> dict[str, list[Range]]:
        """``settled`` of every device that has any."""
        if self._file.layout == 1:
            found = all_rows(self._file.db.execute("SELECT DISTINCT device_id FROM minute_line"))
            return {device_id: self.settled(device_id) for (device_id,) in found}
        lines = all_rows(self._file.db.execute("SELECT device_id, start, stop FROM ec_settled ORDER BY 1, 2"))
        return {
            device_id: self._checked(self._file.db.cursor(), device_id, [line[1:] for line in group])
            for device_id, group in groupby(lines, key=lambda line: line[0])
        }

    def _ranges(self, cursor: apsw.Cursor, device_id: str) -> list[Range]:
        statement = "SELECT start, stop FROM ec_settled WHERE device_id = ? ORDER BY start"
        return self._checked(cursor, device_id, all_rows(cursor.execute(statement, (device_id,))))

    def _checked(self, cursor: apsw.Cursor, device_id: str, lines: Sequence[tuple[Any, ...]]) -> list[Range]:
        known = [(start, stop) for start, stop in lines if start is not None and stop is not None]
        return known if len(known) == len(lines) else self._from_lines(cursor, device_id)

    def _from_lines(self, cursor: apsw.Cursor, device_id: str) -> list[Range]:
        found = cursor.execute(
            f"SELECT ec_time FROM minute_line WHERE device_id = ? AND {_SETTLED}",  # noqa: S608
            (device_id,),
        )
        return ranges.of_minutes(parse_ec(self._file.date, t) for (t,) in all_rows(found))

    @staticmethod
    def _put_ranges(cursor: apsw.Cursor, device_id: str, settled: Iterable[Range]) -> None:
        cursor.execute("DELETE FROM ec_settled WHERE device_id = ?", (device_id,))
        cursor.executemany("INSERT INTO ec_settled VALUES (?, ?, ?)", [(device_id, *r) for r in settled])

    def with_line(self, device_id: str, start: int, stop: int) -> list[int]:
        """Minutes of ``[start, stop)`` that have a line: they have rows, or had some."""
        found = self._file.db.execute(
            "SELECT ec_time FROM minute_line WHERE device_id = ? AND ec_time BETWEEN ? AND ?",
            (device_id, *self._file.span(start, stop)),
        )
        return [parse_ec(self._file.date, t) for (t,) in all_rows(found)]

    def in_states(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[Range]:
        """Ranges of minutes whose line has one of the states."""
        wanted = ", ".join(f"'{state.value}'" for state in states)
        found = self._file.db.execute(
            "SELECT ec_time FROM minute_line WHERE device_id = ? AND ec_time BETWEEN ? AND ?"  # noqa: S608
            f" AND state IN ({wanted})",
            (device_id, *self._file.span(start, stop)),
        )
        return ranges.of_minutes(parse_ec(self._file.date, t) for (t,) in found)

    def noted(self, device_id: str | None = None) -> dict[str, Noted]:
        """A summary of the minutes that are not simply proven, by device; of every device or of one."""
        of_device = "device_id = ? AND" if device_id is not None else ""
        found = self._file.db.execute(
            f"SELECT {_NOTED} FROM minute_line WHERE {of_device} {_OPEN} GROUP BY device_id",  # noqa: S608
            (device_id,) if device_id is not None else (),
        )
        return {of: Noted(*counts) for of, *counts in all_rows(found)}

    def checks(self, device_id: str, minute: int) -> dict[tuple[int, str], tuple[int | None, int]]:
        """When the cached digests of a minute and its seconds were last compared, and how often."""
        found = self._file.db.execute(
            "SELECT ec_time, ec_type, check_time, check_times FROM digest_line WHERE device_id = ?"
            " AND ec_date = ? AND ec_time BETWEEN ? AND ?",
            (device_id, self._file.date, *self._file.span(minute, minute + 60)),
        )
        return {
            (parse_ec(self._file.date, at), kind): (
                moment_us(checked),
                times,
            )
            for at, kind, checked, times in found
        }

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """The recorded lines, without computing anything."""
        found = self._file.db.execute(
            f"SELECT m.ec_time, p.values_count, p.values_checksum, readable_state, {_FIGURES},"  # noqa: S608
            " m.check_time, m.check_times, packed FROM minute_line m LEFT JOIN digest_line p"
            " ON p.device_id = m.device_id AND p.ec_date = ? AND p.ec_time = m.ec_time AND p.ec_type = 'P'"
            " WHERE m.device_id = ? AND m.ec_time BETWEEN ? AND ? ORDER BY m.ec_time",
            (self._file.date, device_id, *self._file.span(start, stop)),
        )
        return [
            MinuteRecord(
                parse_ec(self._file.date, time_text),
                Digest(count, md5) if md5 is not None else None,
                _state_of(state),
                extra,
                conflicts,
                moment_us(check_time),
                check_times,
                bool(packed),
            )
            for time_text, count, md5, state, extra, conflicts, check_time, check_times, packed in found
        ]


def _state_of(text: str | None) -> MinuteState | None:
    """The state of this name; None if there is no such state."""
    return MinuteState(text) if text in _STATES else None
