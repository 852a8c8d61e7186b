"""Packed seconds of a day's file: reading the table ``ec_block`` beside the rows, and taking blocks back.

Rules:

1. A row stands in ``ec_consumption`` or in a block, never in both: they are exchanged in one transaction
   (sqlite_day_packing.py). A reader of both tables does so in one transaction, too.
2. Packed rows rank as they did: a block keeps each row's rank and what orders rows of one rank, so that
   its rowid can be told. New rowids are above those of packed rows, which ``ec_block_total`` remembers.
3. Before a packed row is replaced, its second's rows are put back (``restore``) and packed again later.
4. A damaged block reads as if it were not there, and ``on_damage`` is told. A repair of its second takes
   it out and keeps its bytes in ``ec_block_replaced``.
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
"""Told the device, the minute and what is wrong with something of it."""

READABLE_TIME = "ec_time GLOB '[0-2][0-9][0-5][0-9][0-5][0-9]' AND +ec_time < '24'"
"""What is no time of day, because it was damaged or another program wrote it, is of no second."""
_SPAN = "device_id = ? AND ec_date = ? AND ec_time BETWEEN ? AND ?"
_INSERT = (
    "INSERT INTO ec_consumption (rowid, device_id, ec_date, ec_time, start_us, end_us,"
    " ec_consumption_values, values_count, values_checksum, insert_time)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_MOST_LOOSE = 10_000
_SECOND = "device_id = ? AND ec_date = ? AND ec_time = ?"


class DayBlocks:
    """The blocks of one open day file; apsw's errors."""

    def __init__(self, db: apsw.Connection, date: str, on_damage: OnDamage, *, present: bool) -> None:
        self._db = db
        self._date = date
        self._on_damage = on_damage
        self._present = present
        """False for a file of an older layout that is only read."""
        self._state: tuple[int, int] | None = None
        self._loose: set[tuple[str, int]] = set()
        """Seconds without a block while ``ec_block_total`` is ``_state``."""

    # --- reading --------------------------------------------------------------------------

    def exist(self, device_id: str, first: str, last: str) -> bool:
        """Whether there are any from one ``ec_time`` to another, both included."""
        return bool(self.times(device_id, first, last, most=1))

    def times(self, device_id: str, first: str, last: str, *, most: int = -1) -> list[str]:
        """``ec_time`` of the packed seconds, ascending."""
        if not self._present:
            return []
        statement = f"SELECT ec_time FROM ec_block WHERE {_SPAN} AND {READABLE_TIME} ORDER BY ec_time LIMIT ?"  # noqa: S608
        found = all_rows(self._db.execute(statement, (device_id, self._date, first, last, most)))
        return [time_text for (time_text,) in found]

    def of_second(self, device_id: str, time_text: str) -> Block | None:
        """The second's block; None where there is none, or a damaged one."""
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

    def rows(self, device_id: str, first: str, last: str) -> Iterator[tuple[int, StoredRow]]:
        """Rowid and row of every packed row, ascending in the second, then in the rowid."""
        for time_text in self.times(device_id, first, last):
            block = self.of_second(device_id, time_text)
            yield from rows_of(block) if block is not None else ()

    def among(self, cursor: apsw.Cursor, seconds: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        """Those of the seconds that have a block. Cheap where the same ones are asked for again and again.

        No state of ``ec_block_total`` comes twice: a new block makes its bytes more, and one taken away its
        last rowid.
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
        """The highest rowid of any row that was ever packed here; 0 for none."""
        return int(the_value(cursor.execute("SELECT last_rowid FROM ec_block_total")) or 0)

    # --- taking back ----------------------------------------------------------------------

    def restore(self, cursor: apsw.Cursor, device_id: str, time_text: str, block: Block) -> None:
        """Put the rows of a second back into ``ec_consumption``, in place of its block.

        Whoever packs the minute at this moment has to read its rows again.
        """
        self.remove(cursor, device_id, time_text)
        rows = list(rows_of(block))[::-1]
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
        """A packed row whose key another program has inserted again since: that one took its place."""
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
        """Take a block out, and its bytes off the total."""
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
        """Take a block out that cannot be decoded, and keep its bytes; its rows and samples, 0 for none."""
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


def rows_of(block: Block) -> Iterator[tuple[int, StoredRow]]:
    """Rowid and row of each row of a block, ascending in the rowid."""
    for batch, inserted_us, rank, tie in block.rows():
        yield first_rowid(rank) + tie, StoredRow(batch, inserted_us, rank)
