"""One UTC day's SQLite file: rows, cached digests and what is on record of each minute.

Rules:

1. ``ec_checksum`` holds only what is true of the rows. A digest enters it in a transaction that
   finds the minute's ``version`` unchanged since the rows were read (``cache``), or the minute's
   ``writer`` still the one process that wrote all of it (``publish``).
2. While ``ec_minute.writer`` is set, nothing of that minute is cached; so the minute's own writer,
   and it alone, may add rows without looking for digests to remove.
3. A row that is inserted again with other samples gets a new rowid: rowids rank rows by insertion,
   whatever the clock does.
4. A file that retention has removed says so in ``user_version``, set in the last transaction it
   saw. Whoever still has it open must not write to it: it opens the path anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw

from ec_server.storage.contract import FinishedMinute
from ec_server.storage.merge import merged_batch
from ec_server.storage.sqlite_connection import connect, the_row, the_value, transaction
from utilities.checksum_util import join_rows, minute_digest, second_digest
from utilities.errors import PermanentStorageError
from utilities.model import (
    Batch,
    CommitMark,
    Digest,
    MinuteRecord,
    MinuteState,
    Verdict,
    WriteResult,
)
from utilities.utc import MINUTE_S, ec_date, ec_time, iso, iso_texts, minute_of, parse_ec, parse_iso

SCHEMA_VERSION = 1
REMOVED = -1
_SCHEMA = Path(__file__).with_name("schema") / "sqlite_day.sql"

_INSERT = "INSERT INTO ec_consumption VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_REPLACE = "INSERT OR REPLACE INTO ec_consumption VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_KEYED = (
    "SELECT ec_consumption_values, values_count, insert_time FROM ec_consumption"
    " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND start_us = ? AND end_us = ?"
)
_TOUCH = (
    "INSERT INTO ec_minute (device_id, ec_time, writer, row_count, row_samples) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET writer = CASE WHEN writer = excluded.writer THEN writer END,"
    " version = version + 1, sealed = 0, state = NULL, row_count = row_count + excluded.row_count,"
    " row_samples = row_samples + excluded.row_samples RETURNING writer, version"
)
_CACHE = (
    "INSERT INTO ec_checksum VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " values_count = excluded.values_count, values_checksum = excluded.values_checksum"
)
_OPEN = "(state IS NOT 'proven' OR extra > 0 OR conflicts > 0)"

_Effect = tuple[bool, int, int]
"""What a batch did: whether it changed stored data, and how many rows and samples it added."""


class DayFile:
    """An open day. Its calls raise apsw's errors; SqliteStore translates them."""

    def __init__(self, path: Path, day: int, *, read_only: bool, synchronous: str, writer: str) -> None:
        self.path = path
        self.day = day
        self.date = ec_date(day)
        self._writer = writer
        self._read_only = read_only
        self._db = connect(path, read_only=read_only, synchronous=synchronous)
        if not read_only:
            self._make_tables()
        self.inode = path.stat().st_ino

    def close(self) -> None:
        """Let go of the file, with all that is committed in the file itself rather than beside it.

        SQLite does that only for the last connection, and not if that one is read-only.
        """
        if not self._read_only:
            self._db.set_busy_timeout(0)
            with suppress(apsw.Error):  # others are at work in it: theirs to do, then
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._db.close()

    def _make_tables(self) -> None:
        with transaction(self._db) as cursor:
            version = self._version(cursor)
            if version == 0:
                cursor.execute(_SCHEMA.read_text("utf-8"))
                cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version not in (SCHEMA_VERSION, REMOVED):
                raise PermanentStorageError(
                    f"{self.path} has layout {version}, this program knows {SCHEMA_VERSION}: "
                    "run the program that wrote it, or move the file away"
                )

    @staticmethod
    def _version(cursor: apsw.Cursor) -> int:
        return int(the_value(cursor.execute("PRAGMA user_version")))

    # --- writing --------------------------------------------------------------------------

    def write(
        self, batches: Sequence[Batch], mark: CommitMark | None, insert_times_us: Sequence[int]
    ) -> WriteResult | None:
        """Commit the batches in one transaction; None where the file was removed: open it anew."""
        with transaction(self._db) as cursor:
            if self._version(cursor) == REMOVED:
                return None
            effects = self._insert(cursor, batches, iso_texts(insert_times_us))
            opened = self._touch_minutes(cursor, batches, effects)
            changed = tuple(effect[0] for effect in effects)
            if mark is not None:
                stored = sum(changed)
                cursor.execute(
                    "INSERT OR REPLACE INTO ec_writer VALUES (?, ?, ?, ?)",
                    (mark.writer, mark.sequence, stored, len(changed) - stored),
                )
        return WriteResult(changed, opened)

    def _insert(self, cursor: apsw.Cursor, batches: Sequence[Batch], times: Sequence[str]) -> list[_Effect]:
        date = self.date
        bindings = [
            (
                b.device_id,
                date,
                ec_time(b.second),
                b.values[:6],
                b.values[(last := b.values.rfind(";") + 1) : last + 6],
                b.values,
                b.count,
                b.checksum,
                inserted,
            )
            for b, inserted in zip(batches, times)
        ]
        before = self._db.total_changes()
        cursor.executemany(_INSERT, bindings)
        if self._db.total_changes() - before == len(bindings):
            return [(True, 1, b.count) for b in batches]
        return [self._settle(cursor, batch, row) for batch, row in zip(batches, bindings)]

    @staticmethod
    def _settle(cursor: apsw.Cursor, batch: Batch, row: tuple[Any, ...]) -> _Effect:
        """After an insert that may have met its key: what the batch did, merged where it must be."""
        values, count, inserted = the_row(cursor.execute(_KEYED, row[:5]))
        if inserted == row[-1]:
            return True, 1, batch.count
        merged = merged_batch(Batch(*batch.key, values, count, ""), batch)
        if merged is None:
            return False, 0, 0
        cursor.execute(_REPLACE, (*row[:5], merged.values, merged.count, merged.checksum, row[-1]))
        return True, 0, merged.count - count

    def _touch_minutes(
        self, cursor: apsw.Cursor, batches: Sequence[Batch], effects: Sequence[_Effect]
    ) -> frozenset[tuple[str, int]]:
        """Count each minute's rows, and take away its digests where it is not all this writer's."""
        sums: dict[tuple[str, int], list[int]] = {}
        for batch, (changed, rows, samples) in zip(batches, effects):
            if changed:
                total = sums.get((batch.device_id, batch.second))
                if total is None:
                    sums[batch.device_id, batch.second] = [rows, samples]
                else:
                    total[0] += rows
                    total[1] += samples
        minutes: dict[tuple[str, int], list[int]] = {}
        for device_id, second in sums:
            minutes.setdefault((device_id, minute_of(second)), []).append(second)
        opened = set()
        for (device_id, minute), seconds in minutes.items():
            rows, samples = map(sum, zip(*[sums[device_id, second] for second in seconds]))
            at = (device_id, ec_time(minute), self._writer, rows, samples)
            writer, version = the_row(cursor.execute(_TOUCH, at))
            if version == 1:
                opened.add((device_id, minute))
            elif writer != self._writer:
                self._forget_digests(cursor, device_id, minute, seconds)
        return frozenset(opened)

    def _forget_digests(
        self, cursor: apsw.Cursor, device_id: str, minute: int, seconds: Iterable[int]
    ) -> None:
        statement = (
            "DELETE FROM ec_checksum WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND ec_type = ?"
        )
        cursor.execute(statement, (device_id, self.date, ec_time(minute), "P"))
        cursor.executemany(statement, [(device_id, self.date, ec_time(s), "S") for s in seconds])

    def committed_mark(self, writer: str) -> tuple[int, int, int] | None:
        """``(sequence, stored, duplicate)`` of the writer's last commit to this day."""
        return self._db.execute(
            "SELECT sequence, stored, duplicate FROM ec_writer WHERE writer = ?", (writer,)
        ).fetchone()

    def publish(self, finished: Iterable[FinishedMinute]) -> int:
        """Cache digests of minutes that this connection's writer wrote alone; how many it was."""
        taken = 0
        with transaction(self._db) as cursor:
            for one in finished:
                cursor.execute(
                    "UPDATE ec_minute SET writer = NULL, sealed = ? WHERE device_id = ? AND ec_time = ?"
                    " AND writer = ?",
                    (int(one.complete), one.device_id, ec_time(one.minute), self._writer),
                )
                if self._db.changes() == 1:
                    whole = _minute_digest(one.seconds) if one.complete else None
                    self._put_digests(cursor, one.device_id, one.minute, one.seconds, whole)
                    taken += 1
        return taken

    def _put_digests(
        self,
        cursor: apsw.Cursor,
        device_id: str,
        minute: int,
        seconds: Iterable[tuple[int, Digest]],
        whole: Digest | None,
    ) -> None:
        rows: list[tuple[Any, ...]] = [
            (device_id, self.date, ec_time(s), "S", d.count, d.md5, None, 0) for s, d in seconds
        ]
        if whole is not None:
            check = the_row(
                cursor.execute(
                    "SELECT check_time, check_times FROM ec_minute WHERE device_id = ? AND ec_time = ?",
                    (device_id, ec_time(minute)),
                )
            )
            rows.append((device_id, self.date, ec_time(minute), "P", whole.count, whole.md5, *check))
        cursor.executemany(_CACHE, rows)

    # --- reading --------------------------------------------------------------------------

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[tuple[Batch, int]]:
        """Rows of seconds ``[start, stop)`` of this day, oldest insertion first in each second."""
        first, last = self._time_span(start, stop)
        found = self._db.execute(
            "SELECT ec_time, start_us, end_us, ec_consumption_values, values_count, values_checksum,"
            " insert_time FROM ec_consumption WHERE device_id = ? AND ec_date = ?"
            " AND ec_time BETWEEN ? AND ? ORDER BY ec_time, rowid",
            (device_id, self.date, first, last),
        )
        for time_text, start_us, end_us, values, count, checksum, inserted in found:
            second = parse_ec(self.date, time_text)
            batch = Batch(device_id, second, int(start_us), int(end_us), values, count, checksum)
            yield batch, parse_iso(inserted)

    def _time_span(self, start: int, stop: int) -> tuple[str, str]:
        return ec_time(max(start, self.day)), ec_time(min(stop, self.day + 86_400) - 1)

    def texts(
        self, device_id: str, start: int, stop: int, *, trusted: bool = True
    ) -> Iterator[tuple[int, str]]:
        """``(second, canonical text)`` of the non-empty seconds of ``[start, stop)``, ascending."""
        first, last = self._time_span(start, stop)
        found = self._db.execute(
            "SELECT ec_time, CAST(start_us AS INTEGER), CAST(end_us AS INTEGER), ec_consumption_values"
            " FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_time BETWEEN ? AND ?"
            " ORDER BY ec_time, rowid",
            (device_id, self.date, first, last),
        )
        for time_text, rows in groupby(found, key=lambda row: row[0]):
            text = join_rows((row[1:] for row in rows), trusted=trusted)
            if text:
                yield parse_ec(self.date, time_text), text

    def second_digests(self, device_id: str, minute: int, *, from_rows: bool) -> list[tuple[int, Digest]]:
        """Digests of the minute's non-empty seconds: the cached ones, and the others from the rows."""
        with transaction(self._db, "DEFERRED") as cursor:
            version, sealed = self._version_of(cursor, device_id, minute)
            cached = {} if from_rows else self._cached_seconds(cursor, device_id, minute)
            computed: dict[int, Digest] = {}
            seconds = set(self._seconds_with_rows(cursor, device_id, minute))
            for second in seconds:
                if second not in cached:
                    for _, text in self.texts(device_id, second, second + 1, trusted=not from_rows):
                        computed[second] = _second_digest(text)
        digests = sorted({s: d for s, d in (cached | computed).items() if s in seconds}.items())
        if not self._read_only and version is not None and (from_rows or computed or not sealed):
            self._cache(device_id, minute, version, digests, computed)
        return digests

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool
    ) -> list[tuple[int, Digest]]:
        """Digests of the non-empty minutes of ``[start, stop)`` of this day, ascending."""
        first, last = self._time_span(start, stop)
        cached = dict(
            self._db.execute(
                "SELECT ec_time, values_count || ' ' || values_checksum FROM ec_checksum"
                " WHERE device_id = ? AND ec_date = ? AND ec_time BETWEEN ? AND ? AND ec_type = 'P'",
                (device_id, self.date, first, last),
            )
        )
        stored: list[str] = [
            time_text
            for (time_text,) in self._db.execute(
                "SELECT ec_time FROM ec_minute WHERE device_id = ? AND ec_time BETWEEN ? AND ?"
                " AND row_count > 0 ORDER BY ec_time",
                (device_id, first, last),
            )
        ]
        found = []
        for time_text in stored:
            minute = parse_ec(self.date, time_text)
            if time_text in cached and not from_rows:
                count, md5 = cached[time_text].split()
                found.append((minute, Digest(int(count), md5)))
            elif whole := _minute_digest(self.second_digests(device_id, minute, from_rows=from_rows)):
                found.append((minute, whole))
        return found

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, samples as the rows count them)``."""
        found = self._db.execute(
            "SELECT ec_time, row_count, row_samples FROM ec_minute WHERE device_id = ?"
            " AND ec_time BETWEEN ? AND ? AND row_count > 0 ORDER BY ec_time",
            (device_id, *self._time_span(start, stop)),
        )
        return [(parse_ec(self.date, t), rows, samples) for t, rows, samples in found]

    def _seconds_with_rows(self, cursor: apsw.Cursor, device_id: str, minute: int) -> list[int]:
        """One index seek a second, so that finding them reads no row."""
        at, last = ec_time(minute), ec_time(minute + 59)
        seconds = []
        statement = (
            "SELECT min(ec_time) FROM ec_consumption WHERE device_id = ? AND ec_date = ?"
            " AND ec_time >= ? AND ec_time <= ?"
        )
        while time_text := the_value(cursor.execute(statement, (device_id, self.date, at, last))):
            seconds.append(parse_ec(self.date, time_text))
            at = f"{time_text}~"  # ranks after every row of that second
        return seconds

    def _cached_seconds(self, cursor: apsw.Cursor, device_id: str, minute: int) -> dict[int, Digest]:
        found = cursor.execute(
            "SELECT ec_time, values_count, values_checksum FROM ec_checksum WHERE device_id = ?"
            " AND ec_date = ? AND ec_time BETWEEN ? AND ? AND ec_type = 'S'",
            (device_id, self.date, ec_time(minute), ec_time(minute + 59)),
        )
        return {parse_ec(self.date, t): Digest(count, md5) for t, count, md5 in found}

    @staticmethod
    def _version_of(cursor: apsw.Cursor, device_id: str, minute: int) -> tuple[int | None, bool]:
        found = cursor.execute(
            "SELECT version, sealed FROM ec_minute WHERE device_id = ? AND ec_time = ?",
            (device_id, ec_time(minute)),
        ).fetchone()
        return (found[0], bool(found[1])) if found else (None, False)

    def _cache(
        self,
        device_id: str,
        minute: int,
        version: int,
        digests: Sequence[tuple[int, Digest]],
        computed: dict[int, Digest],
    ) -> None:
        """Keep what was computed, unless the minute's rows have changed since they were read."""
        with transaction(self._db) as cursor:
            cursor.execute(
                "UPDATE ec_minute SET writer = NULL, sealed = ? WHERE device_id = ? AND ec_time = ?"
                " AND version = ?",
                (int(bool(digests)), device_id, ec_time(minute), version),
            )
            if self._db.changes() == 1:
                gone = self._cached_seconds(cursor, device_id, minute).keys() - dict(digests).keys()
                self._forget_digests(cursor, device_id, minute, gone)
                self._put_digests(cursor, device_id, minute, computed.items(), _minute_digest(digests))

    # --- proof ----------------------------------------------------------------------------

    def record_verdicts(
        self, device_id: str, verdicts: Sequence[Verdict], compared_us: int
    ) -> tuple[list[Verdict], list[int]]:
        """``(verdicts on minutes that no row here can hold, minutes that changed since)``."""
        elsewhere, changed = [], []
        with transaction(self._db) as cursor:
            for verdict in verdicts:
                at = (device_id, ec_time(verdict.minute))
                self._count_check(cursor, at, iso(compared_us))
                row_count = the_value(
                    cursor.execute("SELECT row_count FROM ec_minute WHERE device_id = ? AND ec_time = ?", at)
                )
                if self._digest_on_record(cursor, *at) != verdict.seen or (
                    verdict.seen is None and row_count
                ):
                    changed.append(verdict.minute)
                elif row_count is None and verdict.state is MinuteState.UNRESOLVED:
                    cursor.execute(
                        "INSERT INTO ec_minute (device_id, ec_time, state, check_time, check_times)"
                        " VALUES (?, ?, ?, ?, 1)",
                        (*at, verdict.state.value, iso(compared_us)),
                    )
                elif row_count is None:
                    elsewhere.append(verdict)
                else:
                    cursor.execute(
                        "UPDATE ec_minute SET state = ?, extra = ?, conflicts = conflicts + ?"
                        " WHERE device_id = ? AND ec_time = ?",
                        (verdict.state.value, verdict.extra, verdict.conflicts, *at),
                    )
        return elsewhere, changed

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
            (check_time, device_id, self.date, time_text, time_text[:4] + "59"),
        )

    def _digest_on_record(self, cursor: apsw.Cursor, device_id: str, time_text: str) -> Digest | None:
        found = cursor.execute(
            "SELECT values_count, values_checksum FROM ec_checksum WHERE device_id = ? AND ec_date = ?"
            " AND ec_time = ? AND ec_type = 'P'",
            (device_id, self.date, time_text),
        ).fetchone()
        return Digest(*found) if found else None

    def final_minutes(self, device_id: str, start: int, stop: int) -> list[int]:
        """Minutes on record as proven or unconfirmable."""
        found = self._db.execute(
            "SELECT ec_time FROM ec_minute WHERE device_id = ? AND ec_time BETWEEN ? AND ?"
            " AND state IN ('proven', 'unconfirmable')",
            (device_id, *self._time_span(start, stop)),
        )
        return [parse_ec(self.date, t) for (t,) in found]

    def open_minutes(self, device_id: str, start: int, stop: int) -> list[int]:
        """Minutes with a line on record that is neither proven nor unconfirmable."""
        found = self._db.execute(
            f"SELECT ec_time FROM ec_minute WHERE device_id = ? AND ec_time BETWEEN ? AND ? AND {_OPEN}"  # noqa: S608
            " AND (state IS NULL OR state = 'unresolved') ORDER BY ec_time",
            (device_id, *self._time_span(start, stop)),
        )
        return [parse_ec(self.date, t) for (t,) in found]

    def notable(self, device_id: str | None = None) -> list[tuple[str, int, str | None, int, int]]:
        """``(device, minute, state, extra, conflicts)`` of minutes not simply proven that have rows."""
        of_device = "device_id = ? AND" if device_id is not None else ""
        found = self._db.execute(
            f"SELECT device_id, ec_time, CASE WHEN row_count > 0 OR state IS NOT 'unconfirmable'"  # noqa: S608
            f" THEN state ELSE 'proven' END, extra, conflicts FROM ec_minute WHERE {of_device} {_OPEN}",
            (device_id,) if device_id is not None else (),
        )
        return [(d, parse_ec(self.date, t), state, extra, c) for d, t, state, extra, c in found]

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """What is on record, without computing anything."""
        found = self._db.execute(
            "SELECT m.ec_time, p.values_count, p.values_checksum, m.state, m.extra, m.conflicts,"
            " m.check_time, m.check_times FROM ec_minute m LEFT JOIN ec_checksum p"
            " ON p.device_id = m.device_id AND p.ec_date = ? AND p.ec_time = m.ec_time AND p.ec_type = 'P'"
            " WHERE m.device_id = ? AND m.ec_time BETWEEN ? AND ? ORDER BY m.ec_time",
            (self.date, device_id, *self._time_span(start, stop)),
        )
        return [
            MinuteRecord(
                parse_ec(self.date, time_text),
                Digest(count, md5) if md5 is not None else None,
                MinuteState(state) if state is not None else None,
                extra,
                conflicts,
                parse_iso(check_time) if check_time is not None else None,
                check_times,
            )
            for time_text, count, md5, state, extra, conflicts, check_time, check_times in found
        ]

    def first_minute(self, device_id: str) -> int | None:
        """The earliest minute of the day that has rows of the device."""
        time_text = the_value(
            self._db.execute(
                "SELECT min(ec_time) FROM ec_minute WHERE device_id = ? AND row_count > 0", (device_id,)
            )
        )
        return parse_ec(self.date, time_text) if time_text is not None else None

    def unsealed(self, before: int) -> list[tuple[str, int]]:
        """``(device, minute)`` with rows, ended before ``before``, without a cached minute digest."""
        found = self._db.execute(
            "SELECT device_id, ec_time FROM ec_minute WHERE sealed = 0 AND ec_time < ? AND row_count > 0"
            " ORDER BY ec_time",
            (ec_time(before - MINUTE_S + 1) if before - MINUTE_S + 1 < self.day + 86_400 else "~",),
        )
        return [(d, parse_ec(self.date, t)) for d, t in found]

    def mark_removed(self) -> None:
        """Tell every process that has the file open that it must not be written to any more."""
        with transaction(self._db, "EXCLUSIVE") as cursor:
            cursor.execute(f"PRAGMA user_version = {REMOVED}")


def _second_digest(text: str) -> Digest:
    digest = second_digest(text)
    assert digest is not None, "a second with rows has samples"
    return Digest(*digest)


def _minute_digest(seconds: Iterable[tuple[int, Digest]]) -> Digest | None:
    digest = minute_digest((ec_time(s), d.count, d.md5) for s, d in seconds)
    return Digest(*digest) if digest else None
