"""Writes single rows to a day file: their rowids and columns, and the rows that they replace.

Rule: a row is inserted only if no row has its key; a row that it replaces is first kept as replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from ec_server.storage.sqlite_connection import the_value
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_day_blocks import rows_of
from ec_server.storage.sqlite_rank import first_rowid, rowids_after
from utilities.model import Batch, StoredRow
from utilities.utc import ec_time, iso, iso_texts

_COLUMNS = (
    "device_id, ec_date, ec_time, start_us, end_us, ec_consumption_values, values_count,"
    " values_checksum, insert_time"
)
INSERT = (
    f"INSERT INTO ec_consumption (rowid, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
    " ON CONFLICT DO NOTHING"
)

Effect = tuple[bool, int, int]
"""What a batch did: whether it changed stored data, and how many rows and samples it added."""
NOTHING: Effect = (False, 0, 0)


class RowWrites:
    """Writes single rows to one open day file, within the caller's transaction; raises apsw's errors."""

    def __init__(self, file: DayFile) -> None:
        self._file = file

    def rowids(self, cursor: apsw.Cursor, now_us: int, count: int) -> range:
        """Rowids for ``count`` new rows, above those of all others."""
        last = the_value(cursor.execute("SELECT max(rowid) FROM ec_consumption")) or 0
        return rowids_after(max(last, self._file.blocks.last_rowid(cursor)), now_us, count)

    def free_rowid(self, cursor: apsw.Cursor, row: StoredRow) -> int:
        """The first free rowid from the row's rank on; packed rows of its second count as well."""
        rowid = first_rowid(row.rank)
        block = self._file.blocks.of_second(row.batch.device_id, ec_time(row.batch.second))
        packed = {at for at, _ in rows_of(block)} if block is not None else set()
        taken = "SELECT 1 FROM ec_consumption WHERE rowid = ?"
        while rowid in packed or the_value(cursor.execute(taken, (rowid,))):
            rowid += 1
        return rowid

    def bindings(
        self, batches: Sequence[Batch], moments_us: Iterable[int], rowids: Iterable[int]
    ) -> list[tuple[Any, ...]]:
        """The values of INSERT for each batch; every message comes by here."""
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

    def binding(self, row: StoredRow, rowid: int) -> tuple[Any, ...]:
        """The values of INSERT for one row."""
        return self.bindings([row.batch], [row.inserted_us], [rowid])[0]

    @staticmethod
    def replace(cursor: apsw.Cursor, rowid: int, reason: str) -> None:
        """Move a row to the replaced rows."""
        cursor.execute(
            f"INSERT INTO ec_replaced SELECT {_COLUMNS}, ?, ? FROM ec_consumption WHERE rowid = ?",  # noqa: S608
            (iso(time.time_ns() // 1000), reason, rowid),
        )
        cursor.execute("DELETE FROM ec_consumption WHERE rowid = ?", (rowid,))
