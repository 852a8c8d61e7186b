"""Repairs one second of a day file: its rows become those that the device has.

Rules:

1. Rows that a repair replaces, and damaged ones, are kept as replaced.
2. A repaired second is read back before it is committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import apsw

from ec_server.storage.merge import RepairedSecond, batch_of
from ec_server.storage.sqlite_connection import all_rows
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_day_rows import DayRows, is_whole
from ec_server.storage.sqlite_rank import rank_of
from ec_server.storage.sqlite_row_writes import INSERT, NOTHING, Effect, RowWrites
from utilities.checksum_util import format_canonical, parse_canonical
from utilities.model import Batch, StoredRow
from utilities.utc import ec_time

_NUMBER = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?")
_INDEXED = (
    "SELECT rowid, start_us, end_us FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_time = ?"
)


class DayRepairs:
    """Repairs in one open day file; raises apsw's errors."""

    def __init__(self, file: DayFile, rows: DayRows) -> None:
        self._file, self._rows = file, rows
        self._write = RowWrites(file)

    def second(self, cursor: apsw.Cursor, batches: Sequence[Batch], now_us: int) -> list[Effect]:
        """Write the device's own values of one second, within a transaction; returns each batch's effect."""
        lost = self._make_way(cursor, batches, now_us)
        found = self._read(batches[0])
        damaged = [one for one in found if not is_whole(one[1].batch.values, one[1].batch.checksum)]
        rows, samples = map(sum, zip(lost, self._replace_damaged(cursor, damaged)))
        if damaged:
            found = self._read(batches[0])
        stored = {row.batch.key: (rowid, row) for rowid, row in found}
        second = RepairedSecond(row for _, row in stored.values())
        effects: list[Effect] = []
        for batch, rowid in zip(batches, self._write.rowids(cursor, now_us, len(batches))):
            after = second.after(batch)
            if after is None:
                effects.append(NOTHING)
                continue
            row = StoredRow(after, now_us, rank_of(rowid))
            if batch.key in stored:
                old_rowid, old = stored[batch.key]
                self._write.replace(cursor, old_rowid, "repair")
                effects.append((True, 0, after.count - old.batch.count))
            else:
                effects.append((True, 1, after.count))
            cursor.execute(INSERT, self._write.binding(row, rowid))
            stored[after.key] = (rowid, row)
        self._expect_to_read_back(batches[0], stored.values(), second)
        changed, more_rows, more_samples = effects[0]
        effects[0] = (changed or rows > 0, more_rows - rows, more_samples - samples)
        return effects

    def _read(self, batch: Batch) -> list[tuple[int, StoredRow]]:
        """The rows of the batch's second, with their rowids."""
        return self._rows.of_second(batch.device_id, batch.second)

    def _expect_to_read_back(
        self, batch: Batch, stored: Iterable[tuple[int, StoredRow]], second: RepairedSecond
    ) -> None:
        """Raise CorruptError if SQLite finds other rows than were written: then an index is damaged.

        Mostly the index says so by itself. It knows nothing of packed rows: then all rows are read.
        """
        at = (batch.device_id, self._file.date, ec_time(batch.second))
        indexed = {rowid: (start, end) for rowid, start, end in all_rows(self._file.db.execute(_INDEXED, at))}
        written = {rowid: (f"{row.batch.start_us:06d}", f"{row.batch.end_us:06d}") for rowid, row in stored}
        if written.items() <= indexed.items():
            return
        if {row.batch.key: row.batch.values for _, row in self._read(batch)} != second.texts:
            raise apsw.CorruptError(f"the repaired second {ec_time(batch.second)} cannot be read back")

    def _make_way(self, cursor: apsw.Cursor, batches: Sequence[Batch], now_us: int) -> tuple[int, int]:
        """Restore a packed second if needed; returns the rows and samples of a damaged block."""
        device_id, time_text = batches[0].device_id, ec_time(batches[0].second)
        lost = self._file.blocks.set_damaged_aside(cursor, device_id, time_text, now_us)
        block = self._file.blocks.of_second(device_id, time_text)
        if block is not None:
            packed = {row.batch.key for row in block.stored()}
            if any(batch.key in packed for batch in batches):
                self._file.blocks.restore(cursor, device_id, time_text, block)
        return lost

    def _replace_damaged(
        self, cursor: apsw.Cursor, damaged: Iterable[tuple[int, StoredRow]]
    ) -> tuple[int, int]:
        """Move rows that do not match their checksums to the replaced rows.

        Their readable samples are inserted again as a row, so that nothing is lost. Returns how many rows
        and samples fewer there are afterwards.
        """
        rows = samples = 0
        for rowid, row in damaged:
            self._write.replace(cursor, rowid, "repair")
            rows, samples = rows + 1, samples + row.batch.count
            samples_read = parse_canonical(row.batch.values).items()
            readable = format_canonical({us: v for us, v in samples_read if _NUMBER.fullmatch(v)})
            if readable:
                after = row._replace(batch=batch_of(row.batch.device_id, row.batch.second, readable))
                before = self._file.db.total_changes()
                cursor.execute(INSERT, self._write.binding(after, rowid))
                if self._file.db.total_changes() > before:
                    rows, samples = rows - 1, samples - after.batch.count
        return rows, samples
