"""Packed seconds of a day file: reads the table ``ec_block``, and turns blocks back into rows.

Rules:

1. A row is in ``ec_consumption`` or in a block, never in both: one transaction moves it
   (sqlite_day_packing.py). Whoever reads both tables must do so in one transaction, too.
2. Packed rows keep their rank: a block stores each row's rank and its position among rows of the same
   rank, from which its rowid can be computed. New rowids are above those of packed rows, the highest of
   which ``ec_block_total`` keeps.
3. Before a packed row is replaced, the rows of its second are restored (``restore``); they are packed again
   later.
4. A damaged block is treated as absent, and ``on_damage`` is called. A repair of its second moves its bytes
   to ``ec_block_replaced``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apsw

from ec_server.packing.block import Block, unpack
from ec_server.storage.sqlite_connection import all_rows, the_row, the_value
from ec_server.storage.sqlite_rank import first_rowid
from utilities.errors import BlockError
from utilities.model import StoredRow
from utilities.utc import MINUTE_S, ec_time, iso, iso_texts, parse_ec

OnDamage = Callable[[str, int, str], object]
"""Called with the device, the minute and what is damaged in it."""

READABLE_TIME = "ec_time GLOB '[0-2][0-9][0-5][0-9][0-5][0-9]' AND +ec_time < '24'"
"""A row whose ``ec_time`` is not a time of day (damaged, or written by another program) is ignored."""
_SPAN = "device_id = ? AND ec_date = ? AND ec_time BETWEEN ? AND ?"
_INSERT = (
    "INSERT INTO ec_consumption (rowid, device_id, ec_date, ec_time, start_us, end_us,"
    " ec_consumption_values, values_count, values_checksum, insert_time)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_MOST_LOOSE = 10_000
_SECOND = "device_id = ? AND ec_date = ? AND ec_time = ?"


class DayBlocks:
    """The blocks of one open day file; raises apsw's errors."""

    def __init__(self, db: apsw.Connection, date: str, on_damage: OnDamage, *, present: bool) -> None:
        self._db = db
        self._date = date
        self._on_damage = on_damage
        self._present = present
        """False for a read-only file of an older layout."""
        self._state: tuple[int, int] | None = None
        self._loose: set[tuple[str, int]] = set()
        """Seconds known to have no block as long as ``ec_block_total`` is ``_state``."""

    # --- reading --------------------------------------------------------------------------

    def exist(self, device_id: str, first: str, last: str) -> bool:
        """Whether there are any blocks between two ``ec_time``, both included."""
        return bool(self.times(device_id, first, last, most=1))

    def times(self, device_id: str, first: str, last: str, *, most: int = -1) -> list[str]:
        """``ec_time`` of the packed seconds, ascending."""
        if not self._present:
            return []
        statement = f"SELECT ec_time FROM ec_block WHERE {_SPAN} AND {READABLE_TIME} ORDER BY ec_time LIMIT ?"  # noqa: S608
        found = all_rows(self._db.execute(statement, (device_id, self._date, first, last, most)))
        return [time_text for (time_text,) in found]

    def of_second(self, device_id: str, time_text: str) -> Block | None:
        """The second's block; None if there is none or it is damaged."""
        try:
            return self._decoded(device_id, time_text)
        except BlockError as error:
            second = parse_ec(self._date, time_text)
            detail = f"the packed second {time_text} cannot be read: {error}"
            self._on_damage(device_id, second - second % MINUTE_S, detail)
            return None

    def _decoded(self, device_id: str, time_text: str) -> Block | None:
        if not self._present:
            return None
        data = the_value(
            self._db.execute(
                f"SELECT CAST(block AS BLOB) FROM ec_block WHERE {_SECOND}",  # noqa: S608
                (device_id, self._date, time_text),
            )
        )
        if data is None:
            return None
        block = unpack(data)
        if (block.device_id, ec_time(block.second)) != (device_id, time_text):
            raise BlockError(f"it is the block of {block.device_id}, second {ec_time(block.second)}")
        return block

    def among(self, cursor: apsw.Cursor, seconds: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        """Those of the seconds that have a block. Cheap for seconds that are asked for repeatedly.

        ``ec_block_total`` never has the same values again after a change: a new block increases
        ``block_bytes``, a removed one ``last_rowid``.
        """
        state = the_row(cursor.execute("SELECT last_rowid, block_bytes FROM ec_block_total"))
        if state == (0, 0):
            return
        if state != self._state or len(self._loose) > _MOST_LOOSE:
            self._state, self._loose = (int(state[0]), int(state[1])), set()
        for device_id, second in set(seconds) - self._loose:
            time_text = ec_time(second)
            if self.exist(device_id, time_text, time_text):
                yield device_id, second
            else:
                self._loose.add((device_id, second))

    def last_rowid(self, cursor: apsw.Cursor) -> int:
        """A rowid that no packed row exceeds; 0 if nothing was ever packed here."""
        return int(the_value(cursor.execute("SELECT last_rowid FROM ec_block_total")) or 0)

    # --- restoring ------------------------------------------------------------------------

    def restore(self, cursor: apsw.Cursor, device_id: str, time_text: str, block: Block) -> None:
        """Move the rows of a second from its block back into ``ec_consumption``.

        Whoever packs the minute at this moment has to read its rows again.
        """
        self.remove(cursor, device_id, time_text)
        rows = rows_of(block)[::-1]
        times = iso_texts([row.inserted_us for _, row in rows])
        for (rowid, row), inserted in zip(rows, times):
            while the_value(cursor.execute("SELECT 1 FROM ec_consumption WHERE rowid = ?", (rowid,))):
                rowid += 1  # noqa: PLW2901
            batch = row.batch
            values = (
                device_id, self._date, time_text, f"{batch.start_us:06d}", f"{batch.end_us:06d}",
                batch.values, batch.count, batch.checksum, inserted,
            )  # fmt: skip
            cursor.execute(_INSERT, (rowid, *values))
            if self._db.changes() == 0:
                self._keep_replaced(cursor, values)
        cursor.execute(
            "UPDATE ec_minute SET packed = 0, version = version + 1 WHERE device_id = ? AND ec_time = ?",
            (device_id, time_text[:4] + "00"),
        )

    def _keep_replaced(self, cursor: apsw.Cursor, row: tuple[Any, ...]) -> None:
        """Keep a packed row as replaced: another program has inserted a row with its key since."""
        cursor.execute(
            "INSERT INTO ec_replaced VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'message')",
            (*row, iso(time.time_ns() // 1000)),
        )
        cursor.execute(
            "UPDATE ec_minute SET row_count = row_count - 1, row_samples = row_samples - ?"
            " WHERE device_id = ? AND ec_time = ?",
            (row[6], row[0], row[2][:4] + "00"),
        )

    def remove(self, cursor: apsw.Cursor, device_id: str, time_text: str) -> None:
        """Delete a block, and subtract its bytes from the total."""
        key = (device_id, self._date, time_text)
        cursor.execute(
            "UPDATE ec_block_total SET last_rowid = last_rowid + 1, block_bytes = block_bytes - coalesce("  # noqa: S608
            f"(SELECT length(block) FROM ec_block WHERE {_SECOND}), 0)",
            key,
        )
        cursor.execute(f"DELETE FROM ec_block WHERE {_SECOND}", key)  # noqa: S608

    def set_damaged_aside(
        self, cursor: apsw.Cursor, device_id: str, time_text: str, now_us: int
    ) -> tuple[int, int]:
        """Move a block that cannot be decoded to ``ec_block_replaced``; its rows and samples, or (0, 0)."""
        try:
            self._decoded(device_id, time_text)
        except BlockError:
            key = (device_id, self._date, time_text)
            cursor.execute(
                "INSERT INTO ec_block_replaced SELECT device_id, ec_date, ec_time, row_count,"  # noqa: S608
                f" values_count, block, ? FROM ec_block WHERE {_SECOND}",
                (iso(now_us), *key),
            )
            rows, samples = the_row(
                cursor.execute(f"SELECT row_count, values_count FROM ec_block WHERE {_SECOND}", key)  # noqa: S608
            )
            self.remove(cursor, device_id, time_text)
            return int(rows), int(samples)
        return 0, 0


def rows_of(block: Block) -> list[tuple[int, StoredRow]]:
    """Rowid and row of each row of a block, by rowid, ascending."""
    return [
        (first_rowid(rank) + tie, StoredRow(batch, inserted_us, rank))
        for batch, inserted_us, rank, tie in block.rows()
    ]
