"""How rows get into a day's file: messages, repairs, replays, and what they take the place of.

Rules:

1. One call is one transaction: rows, the rows that they replace, the minutes' lines, the cached digests
   and verdicts that they make wrong, and the writer's mark.
2. Ingest assumes that every row is new, in one statement, and looks only where fewer were inserted.
3. ``None`` instead of a result: the file was removed meanwhile, and nothing was written. Open it anew.
4. A write to a minute that has a verdict is synced before it returns (sqlite_lasting.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import apsw

from ec_server.storage.contract import ReplacedRow
from ec_server.storage.merge import RepairedSecond, batch_of, merged
from ec_server.storage.sqlite_connection import all_rows, the_row, the_value, transaction
from ec_server.storage.sqlite_day import REMOVED, DayFile
from ec_server.storage.sqlite_day_blocks import rows_of
from ec_server.storage.sqlite_day_digests import DayDigests
from ec_server.storage.sqlite_day_proof import DayProof
from ec_server.storage.sqlite_day_rows import DayRows, is_whole
from ec_server.storage.sqlite_rank import first_rowid, rank_of, rowids_after
from utilities.checksum_util import format_canonical, parse_canonical
from utilities.model import Batch, CommitMark, StoredRow, WriteResult
from utilities.utc import ec_time, iso, iso_texts, minute_of

_COLUMNS = (
    "device_id, ec_date, ec_time, start_us, end_us, ec_consumption_values, values_count,"
    " values_checksum, insert_time"
)
_INSERT = (
    f"INSERT INTO ec_consumption (rowid, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
    " ON CONFLICT DO NOTHING"
)
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

_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")

_Effect = tuple[bool, int, int]
"""What a batch did: whether it changed stored data, and how many rows and samples it added."""
_NOTHING: _Effect = (False, 0, 0)


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction did."""

    result: WriteResult
    generation: int | None
    """The file's new generation, where what proof rests on has changed."""


class DayWrites:
    """Writes to one open day file; apsw's errors."""

    def __init__(self, file: DayFile, rows: DayRows, digests: DayDigests, proof: DayProof) -> None:
        self._file, self._rows = file, rows
        self._digests, self._proof = digests, proof

    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None, now_us: int) -> Written | None:
        """Commit batches that arrived in messages; ``now_us`` is the first one's insert time."""
        return self._file.lasting.run(lambda: self._ingest(batches, mark, now_us))

    def _ingest(self, batches: Sequence[Batch], mark: CommitMark | None, now_us: int) -> Written | None:
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return None
            rowids = self._rowids(cursor, now_us, len(batches))
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
        return self._file.lasting.run(lambda: self._replay(rows))

    def _replay(self, rows: Sequence[StoredRow]) -> Written | None:
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return None
            effects: list[_Effect] = []
            for row in rows:
                if self._packed_already(cursor, [row.batch]):
                    effects.append(_NOTHING)
                    continue
                effects += self._insert_loose(
                    cursor,
                    [row.batch],
                    [row.inserted_us],
                    [self._free_rowid(cursor, row)],
                    merged_rowid=self._rowids(cursor, max(row.inserted_us, row.rank), 1)[0],
                )
            return self._account(cursor, [row.batch for row in rows], effects)

    def repair(self, batches: Sequence[Batch]) -> Written | None:
        """Commit what the device says of its seconds; afterwards these values win."""
        return self._file.lasting.run(lambda: self._repair_all(batches))

    def _repair_all(self, batches: Sequence[Batch]) -> Written | None:
        now_us = time.time_ns() // 1000
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return None
            effects: list[_Effect] = []
            for _, group in groupby(batches, key=lambda batch: (batch.device_id, batch.second)):
                effects += self._repair(cursor, list(group), now_us)
            return self._account(cursor, batches, effects)

    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> bool:
        """Put rows on record that were replaced elsewhere; False where the file was removed meanwhile."""
        with transaction(self._file.db) as cursor:
            if self._file.version(cursor) == REMOVED:
                return False
            for one in kept:
                _, *row = self._binding(one.row, 0)
                cursor.execute(_KEEP, (*row, iso(one.replaced_us), one.reason))
        return True

    # --- one row --------------------------------------------------------------------------

    def _rowids(self, cursor: apsw.Cursor, now_us: int, count: int) -> range:
        last = the_value(cursor.execute("SELECT max(rowid) FROM ec_consumption")) or 0
        return rowids_after(max(last, self._file.blocks.last_rowid(cursor)), now_us, count)

    def _free_rowid(self, cursor: apsw.Cursor, row: StoredRow) -> int:
        """The first rowid of the row's rank, or after it, that no row has, nor a packed one of its second."""
        rowid = first_rowid(row.rank)
        block = self._file.blocks.of_second(row.batch.device_id, ec_time(row.batch.second))
        packed = {at for at, _ in rows_of(block)} if block is not None else set()
        taken = "SELECT 1 FROM ec_consumption WHERE rowid = ?"
        while rowid in packed or the_value(cursor.execute(taken, (rowid,))):
            rowid += 1
        return rowid

    def _bindings(
        self, batches: Sequence[Batch], moments_us: Iterable[int], rowids: Iterable[int]
    ) -> list[tuple[Any, ...]]:
        """The values of _INSERT for each batch; every message comes by here."""
        date = self._file.date
        return [
            (
                rowid,
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
            for b, rowid, inserted in zip(batches, rowids, iso_texts(moments_us))
        ]

    def _binding(self, row: StoredRow, rowid: int) -> tuple[Any, ...]:
        return self._bindings([row.batch], [row.inserted_us], [rowid])[0]

    def _insert(
        self,
        cursor: apsw.Cursor,
        batches: Sequence[Batch],
        moments_us: Sequence[int],
        rowids: Sequence[int],
    ) -> list[_Effect]:
        """Insert rows, but for those that are packed already."""
        again = self._packed_already(cursor, batches)
        if not again:
            return self._insert_loose(cursor, batches, moments_us, rowids, None)
        new = [i for i in range(len(batches)) if i not in again]
        effects = [_NOTHING] * len(batches)
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
        """Places of batches that are packed. A second is restored where another would change a packed row."""
        again: set[int] = set()
        seconds = {(batch.device_id, batch.second) for batch in batches}
        for device_id, second in self._file.blocks.among(cursor, seconds):
            time_text = ec_time(second)
            block = self._file.blocks.of_second(device_id, time_text)
            if block is None:
                continue
            packed = {row.batch.key: row.batch.values for _, row in rows_of(block)}
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
    ) -> list[_Effect]:
        """Insert rows that no packed row is in the way of; ``merged_rowid`` as in ``_settle``."""
        bindings = self._bindings(batches, moments_us, rowids)
        before = self._file.db.total_changes()
        cursor.executemany(_INSERT, bindings)
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
    ) -> _Effect:
        """After an insert that may have met its key: what the row did, merged where it must be.

        A merged row gets ``merged_rowid``. Rows above it follow in the same call, and are not seen yet.
        """
        found = the_value(cursor.execute(f"SELECT rowid FROM ec_consumption WHERE {_KEY}", binding[1:6]))  # noqa: S608
        if found == binding[0]:
            return True, 1, row.batch.count
        same = "SELECT 1 FROM ec_consumption WHERE rowid = ? AND ec_consumption_values = ?"
        if the_value(cursor.execute(same, (found, row.batch.values))):
            return _NOTHING
        second = dict(self._rows.with_rowid(row.batch.device_id, row.batch.second, row.batch.second + 1))
        stored = second.get(found)
        if stored is None:  # its key or time cannot be read: what arrived takes its place
            self._replace(cursor, found, "message")
            cursor.execute(_INSERT, binding)
            return True, 0, 0
        if self._was_replaced(cursor, binding):
            return _NOTHING
        after = merged([one for at, one in second.items() if at < merged_rowid], stored, row)
        if after is None:
            return _NOTHING
        self._replace(cursor, found, "message")
        merged_row = StoredRow(after, row.inserted_us, rank_of(merged_rowid))
        cursor.execute(_INSERT, self._binding(merged_row, merged_rowid))
        return True, 0, after.count - stored.batch.count

    def _repair(self, cursor: apsw.Cursor, batches: Sequence[Batch], now_us: int) -> list[_Effect]:
        """Repair one second; damaged rows of it go on record."""
        lost = self._make_way(cursor, batches, now_us)
        rows, samples = map(sum, zip(lost, self._replace_damaged(cursor, batches[0], now_us)))
        stored = {
            row.batch.key: (rowid, row)
            for rowid, row in self._rows.with_rowid(
                batches[0].device_id, batches[0].second, batches[0].second + 1
            )
        }
        second = RepairedSecond(row for _, row in stored.values())
        effects: list[_Effect] = []
        for batch, rowid in zip(batches, self._rowids(cursor, now_us, len(batches))):
            after = second.after(batch)
            if after is None:
                effects.append(_NOTHING)
                continue
            row = StoredRow(after, now_us, rank_of(rowid))
            if batch.key in stored:
                old_rowid, old = stored[batch.key]
                self._replace(cursor, old_rowid, "repair")
                effects.append((True, 0, after.count - old.batch.count))
            else:
                effects.append((True, 1, after.count))
            cursor.execute(_INSERT, self._binding(row, rowid))
            stored[after.key] = (rowid, row)
        changed, more_rows, more_samples = effects[0]
        effects[0] = (changed or rows > 0, more_rows - rows, more_samples - samples)
        return effects

    def _make_way(self, cursor: apsw.Cursor, batches: Sequence[Batch], now_us: int) -> tuple[int, int]:
        """Restore a packed second where packed rows are in question; rows and samples of a damaged block."""
        device_id, time_text = batches[0].device_id, ec_time(batches[0].second)
        lost = self._file.blocks.set_damaged_aside(cursor, device_id, time_text, now_us)
        block = self._file.blocks.of_second(device_id, time_text)
        if block is not None:
            packed = {row.batch.key for _, row in rows_of(block)}
            if any(batch.key in packed for batch in batches):
                self._file.blocks.restore(cursor, device_id, time_text, block)
        return lost

    @staticmethod
    def _replace(cursor: apsw.Cursor, rowid: int, reason: str) -> None:
        """Take a row out, and keep it on record as replaced."""
        cursor.execute(
            f"INSERT INTO ec_replaced SELECT {_COLUMNS}, ?, ? FROM ec_consumption WHERE rowid = ?",  # noqa: S608
            (iso(time.time_ns() // 1000), reason, rowid),
        )
        cursor.execute("DELETE FROM ec_consumption WHERE rowid = ?", (rowid,))

    def _replace_damaged(self, cursor: apsw.Cursor, batch: Batch, now_us: int) -> tuple[int, int]:
        """Take rows of the second that do not fit their checksums out, and keep them as replaced.

        What of their samples can be read is put back as a row of its own, so that nothing is lost. Returns
        by how many rows and samples that made it less.
        """
        rows = samples = 0
        for rowid, row in list(self._rows.with_rowid(batch.device_id, batch.second, batch.second + 1)):
            if is_whole(row.batch.values, row.batch.checksum):
                continue
            self._replace(cursor, rowid, "repair")
            rows, samples = rows + 1, samples + row.batch.count
            samples_read = parse_canonical(row.batch.values).items()
            readable = format_canonical({us: v for us, v in samples_read if _NUMBER.fullmatch(v)})
            if readable:
                after = row._replace(batch=batch_of(batch.device_id, batch.second, readable))
                before = self._file.db.total_changes()
                cursor.execute(_INSERT, self._binding(after, rowid))
                if self._file.db.total_changes() > before:
                    rows, samples = rows - 1, samples - after.batch.count
        return rows, samples

    @staticmethod
    def _was_replaced(cursor: apsw.Cursor, binding: tuple[Any, ...]) -> bool:
        statement = (
            "SELECT 1 FROM ec_replaced WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND start_us = ?"
            " AND end_us = ? AND values_checksum = ?"
        )
        return bool(the_value(cursor.execute(statement, (*binding[1:6], binding[8]))))

    # --- minutes --------------------------------------------------------------------------

    def _account(self, cursor: apsw.Cursor, batches: Sequence[Batch], effects: Sequence[_Effect]) -> Written:
        """Count each minute's rows, and take away what of its digests and proof is true no more."""
        opened, revoked = set(), False
        for (device_id, minute), seconds in _by_minute(batches, effects).items():
            rows, samples = map(sum, zip(*seconds.values(), strict=True))
            at = (device_id, ec_time(minute), self._file.writer, rows, samples)
            writer, version, state = the_row(cursor.execute(_TOUCH, at))
            if state is not None:
                revoked = True
                self._proof.revoke(cursor, device_id, minute)
            if version == 1:
                opened.add((device_id, minute))
            elif writer != self._file.writer:
                self._digests.forget(cursor, device_id, minute, seconds)
        generation = self._file.next_generation(cursor) if opened or revoked else None
        return Written(WriteResult(tuple(effect[0] for effect in effects), frozenset(opened)), generation)


def _by_minute(
    batches: Iterable[Batch], effects: Iterable[_Effect]
) -> dict[tuple[str, int], dict[int, list[int]]]:
    """Rows and samples that each second gained, by minute; of batches that changed something."""
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
