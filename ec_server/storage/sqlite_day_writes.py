"""Writes rows to a day file: messages, repairs and replays, and keeps the rows that these replace.

Rules:

1. One call is one transaction: the rows, the rows that they replace, the minutes' lines, the removal of
   cached digests and verdicts that no longer hold, and the writer's mark.
2. Ingest assumes that all rows are new and inserts them with one statement; it looks for duplicates only
   if fewer rows were inserted.
3. The result ``None`` means that the file was removed meanwhile and nothing was written: open it again.
4. A write to a minute that has a verdict is synced to disk before it returns (sqlite_lasting.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import apsw

from ec_server.storage.contract import ReplacedRow
from ec_server.storage.merge import merged
from ec_server.storage.sqlite_connection import all_rows, the_row, the_value, transaction
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_day_digests import DayDigests
from ec_server.storage.sqlite_day_layout import REMOVED
from ec_server.storage.sqlite_day_proof import DayProof
from ec_server.storage.sqlite_day_repairs import DayRepairs
from ec_server.storage.sqlite_day_rows import DayRows
from ec_server.storage.sqlite_rank import rank_of
from ec_server.storage.sqlite_row_writes import INSERT, NOTHING, Effect, RowWrites
from ec_server.storage.sqlite_written import Written
from utilities.model import Batch, CommitMark, StoredRow, WriteResult
from utilities.utc import ec_time, iso, minute_of

_KEEP = (
    "INSERT INTO ec_replaced SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 WHERE NOT EXISTS ("
    "SELECT 1 FROM ec_replaced WHERE device_id = ?1 AND ec_time = ?3 AND start_us = ?4 AND end_us = ?5"
    " AND values_checksum = ?8 AND insert_time = ?9 AND replaced_time = ?10 AND reason = ?11)"
)
_KEY = "device_id = ? AND ec_date = ? AND ec_time = ? AND start_us = ? AND end_us = ?"
_TOUCH = (
    "INSERT INTO ec_minute (device_id, ec_time, writer, row_count, row_samples) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET writer = CASE WHEN writer = excluded.writer THEN writer END,"
    " version = version + 1, digest_cached = 0, packed = 0,"
    " row_count = row_count + excluded.row_count, row_samples = row_samples + excluded.row_samples"
    " RETURNING writer, version, state"
)


class DayWrites:
    """Writes to one open day file; raises apsw's errors."""

    def __init__(self, file: DayFile, rows: DayRows, digests: DayDigests, proof: DayProof) -> None:
        self._file, self._rows = file, rows
        self._digests, self._proof = digests, proof
        self._write, self._repairs = RowWrites(file), DayRepairs(file, rows)

    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None, now_us: int) -> Written | None:
        """Commit batches that arrived in messages; ``now_us`` is the first one's insert time."""
        return self._file.own.committed(self._file.lasting.run(lambda: self._ingest(batches, mark, now_us)))

    def _ingest(self, batches: Sequence[Batch], mark: CommitMark | None, now_us: int) -> Written | None:
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return None
            rowids = self._write.rowids(cursor, now_us, len(batches))
            effects = self._insert(cursor, batches, range(now_us, now_us + len(batches)), rowids)
            written = self._account(cursor, batches, effects)
            if mark is not None:
                stored = written.result.stored
                cursor.execute(
                    "INSERT OR REPLACE INTO ec_writer VALUES (?, ?, ?, ?)",
                    (mark.writer, mark.sequence, stored, len(batches) - stored),
                )
        return written

    def replay(self, rows: Sequence[StoredRow]) -> Written | None:
        """Commit rows that keep their insert times and ranks."""
        return self._file.own.committed(self._file.lasting.run(lambda: self._replay(rows)))

    def _replay(self, rows: Sequence[StoredRow]) -> Written | None:
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return None
            effects: list[Effect] = []
            for row in rows:
                if self._packed_already(cursor, [row.batch]):
                    effects.append(NOTHING)
                    continue
                effects += self._insert_loose(
                    cursor,
                    [row.batch],
                    [row.inserted_us],
                    [self._write.free_rowid(cursor, row)],
                    merged_rowid=self._write.rowids(cursor, max(row.inserted_us, row.rank), 1)[0],
                )
            return self._account(cursor, [row.batch for row in rows], effects)

    def repair(self, batches: Sequence[Batch]) -> Written | None:
        """Commit the device's own values of some seconds; afterwards these values win."""
        return self._file.own.committed(self._file.lasting.run(lambda: self._repair_all(batches)))

    def _repair_all(self, batches: Sequence[Batch]) -> Written | None:
        now_us = time.time_ns() // 1000
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return None
            self._file.restore_lines(cursor, {(b.device_id, minute_of(b.second)) for b in batches})
            effects: list[Effect] = []
            for _, group in groupby(batches, key=lambda batch: (batch.device_id, batch.second)):
                effects += self._repairs.second(cursor, list(group), now_us)
            return self._account(cursor, batches, effects)

    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> bool:
        """Record rows that were replaced elsewhere; False if the file was removed meanwhile."""
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return False
            for one in kept:
                _, *row = self._write.binding(one.row, 0)
                cursor.execute(_KEEP, (*row, iso(one.replaced_us), one.reason))
        return True

    # --- rows ----------------------------------------------------------------------------

    def _insert(
        self,
        cursor: apsw.Cursor,
        batches: Sequence[Batch],
        moments_us: Sequence[int],
        rowids: Sequence[int],
    ) -> list[Effect]:
        """Insert rows, except those that are packed already."""
        again = self._packed_already(cursor, batches)
        if not again:
            return self._insert_loose(cursor, batches, moments_us, rowids, None)
        new = [i for i in range(len(batches)) if i not in again]
        effects = [NOTHING] * len(batches)
        inserted = self._insert_loose(
            cursor,
            [batches[i] for i in new],
            [moments_us[i] for i in new],
            [rowids[i] for i in new],
            None,
        )
        for i, effect in zip(new, inserted, strict=True):
            effects[i] = effect
        return effects

    def _packed_already(self, cursor: apsw.Cursor, batches: Sequence[Batch]) -> set[int]:
        """Positions of batches that are packed already; restores seconds whose packed rows would change."""
        again: set[int] = set()
        seconds = {(batch.device_id, batch.second) for batch in batches}
        for device_id, second in self._file.blocks.among(cursor, seconds):
            time_text = ec_time(second)
            block = self._file.blocks.of_second(device_id, time_text)
            if block is None:
                continue
            packed = {row.batch.key: row.batch.values for row in block.stored()}
            meets = [i for i, batch in enumerate(batches) if batch.key in packed]
            same = {i for i in meets if packed[batches[i].key] == batches[i].values}
            if len(same) < len(meets):
                self._file.blocks.restore(cursor, device_id, time_text, block)
            else:
                again |= same
        return again

    def _insert_loose(
        self,
        cursor: apsw.Cursor,
        batches: Sequence[Batch],
        moments_us: Sequence[int],
        rowids: Sequence[int],
        merged_rowid: int | None,
    ) -> list[Effect]:
        """Insert rows that conflict with no packed row; for ``merged_rowid`` see ``_settle``."""
        bindings = self._write.bindings(batches, moments_us, rowids)
        before = self._file.db.total_changes()
        cursor.executemany(INSERT, bindings)
        if self._file.db.total_changes() - before == len(bindings):
            return [(True, 1, batch.count) for batch in batches]
        statement = "SELECT rowid FROM ec_consumption WHERE rowid BETWEEN ? AND ?"
        within = (min(rowids), max(rowids))
        inserted = {rowid for (rowid,) in all_rows(cursor.execute(statement, within))}
        return [
            (True, 1, batch.count)
            if at[0] in inserted
            else self._settle(
                cursor, StoredRow(batch, moment_us, rank_of(at[0])), at, merged_rowid or int(at[0])
            )
            for batch, moment_us, at in zip(batches, moments_us, bindings)
        ]

    def _settle(
        self, cursor: apsw.Cursor, row: StoredRow, binding: tuple[Any, ...], merged_rowid: int
    ) -> Effect:
        """The effect of a row after an insert that may have found its key taken; merges rows if necessary.

        A merged row gets ``merged_rowid``. Rows above it follow in the same call and are not considered yet.
        """
        found = the_value(cursor.execute(f"SELECT rowid FROM ec_consumption WHERE {_KEY}", binding[1:6]))  # noqa: S608
        if found == binding[0]:
            return True, 1, row.batch.count
        same = "SELECT 1 FROM ec_consumption WHERE rowid = ? AND ec_consumption_values = ?"
        if the_value(cursor.execute(same, (found, row.batch.values))):
            return NOTHING
        second = dict(self._rows.of_second(row.batch.device_id, row.batch.second))
        stored = second.get(found)
        if stored is None:  # its key or time is unreadable: the new row replaces it
            self._write.replace(cursor, found, "message")
            cursor.execute(INSERT, binding)
            return True, 0, 0
        if self._was_replaced(cursor, binding):
            return NOTHING
        after = merged([one for at, one in second.items() if at < merged_rowid], stored, row)
        if after is None:
            return NOTHING
        self._write.replace(cursor, found, "message")
        merged_row = StoredRow(after, row.inserted_us, rank_of(merged_rowid))
        cursor.execute(INSERT, self._write.binding(merged_row, merged_rowid))
        return True, 0, after.count - stored.batch.count

    @staticmethod
    def _was_replaced(cursor: apsw.Cursor, binding: tuple[Any, ...]) -> bool:
        statement = (
            "SELECT 1 FROM ec_replaced WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND start_us = ?"
            " AND end_us = ? AND values_checksum = ?"
        )
        return bool(the_value(cursor.execute(statement, (*binding[1:6], binding[8]))))

    # --- minutes --------------------------------------------------------------------------

    def _account(self, cursor: apsw.Cursor, batches: Sequence[Batch], effects: Sequence[Effect]) -> Written:
        """Update each minute's row counts, and remove its digests and proof if they no longer hold."""
        opened, revoked, versions = set(), False, {}
        for (device_id, minute), seconds in _by_minute(batches, effects).items():
            rows, samples = map(sum, zip(*seconds.values(), strict=True))
            at = (device_id, ec_time(minute), self._file.writer, rows, samples)
            writer, version, state = the_row(cursor.execute(_TOUCH, at))
            follows = version == self._file.own.version((device_id, minute)) + 1
            versions[device_id, minute] = version
            if state is not None:
                revoked = True
                self._proof.revoke(cursor, device_id, minute)
            if version == 1:
                opened.add((device_id, minute))
            elif writer != self._file.writer or not follows:
                self._digests.forget(cursor, device_id, minute, seconds)
        generation = self._file.next_generation(cursor) if opened or revoked else None
        result = WriteResult(tuple(effect[0] for effect in effects), frozenset(opened))
        return Written(result, generation, versions)


def _by_minute(
    batches: Iterable[Batch], effects: Iterable[Effect]
) -> dict[tuple[str, int], dict[int, list[int]]]:
    """Rows and samples that each changed second gained, by minute."""
    sums: dict[tuple[str, int], list[int]] = {}
    for batch, (changed, rows, samples) in zip(batches, effects):
        if changed:
            total = sums.get((batch.device_id, batch.second))
            if total is None:
                sums[batch.device_id, batch.second] = [rows, samples]
            else:
                total[0] += rows
                total[1] += samples
    minutes: dict[tuple[str, int], dict[int, list[int]]] = {}
    for (device_id, second), gained in sums.items():
        minutes.setdefault((device_id, minute_of(second)), {})[second] = gained
    return minutes
