"""Packs the rows of a day file into blocks, and returns the freed space.

Rules:

1. Rows are read and packed outside any write transaction, so that ingest waits only for the exchange: one
   transaction inserts blocks and deletes their rows, if the minute's ``version`` has not changed since the
   rows were read. Otherwise nothing happens, and the minute is packed another time. A transaction exchanges
   several seconds, as a commit costs as much as a second's rows, but a bounded number of rows.
2. Packing changes nothing that others can see: neither ``version``, nor proof, digests or counts.
3. A row that a block could not reproduce byte for byte stays a row: rows that other programs wrote in
   another form, and damaged ones.
4. ``ec_minute.packed`` says that nothing is left to pack; any write to the minute resets it.
5. Today's file keeps free space for new rows. Once a day is over, all its free space is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw

from ec_server.packing.block import Row, pack, pack_columns
from ec_server.storage.contract import Packed, StoredBytes
from ec_server.storage.sqlite_connection import all_rows, the_row, the_value, transaction
from ec_server.storage.sqlite_day import DayFile, snapshot
from ec_server.storage.sqlite_day_blocks import READABLE_TIME
from ec_server.storage.sqlite_day_columns import columns_of
from ec_server.storage.sqlite_day_layout import REMOVED
from ec_server.storage.sqlite_rank import first_rowid, rank_of
from utilities.model import Batch
from utilities.utc import MINUTE_S, ec_time, iso_texts, parse_ec, parse_iso

_SECOND = "device_id = ? AND ec_date = ? AND ec_time = ?"
_MINUTE = "device_id = ? AND ec_time = ?"
_IN_ITS_OWN_FORM = (
    "typeof(ec_consumption_values) = 'text' AND typeof(values_checksum) = 'text'"
    " AND typeof(insert_time) = 'text' AND typeof(values_count) = 'integer'"
    " AND ec_consumption_values || values_checksum || insert_time || start_us || end_us"
    " NOT GLOB '*[^!-~]*'"
)
_ROWS_AT_ONCE = 10_000
"""Rows exchanged in one transaction: it blocks ingest for about 50 ms."""
_PAGES_AT_ONCE = 1000
_KEPT_SHARE, _KEPT_PAGES = 4, 16_384
"""A quarter of today's file may be free, or 64 MB."""
_WORTH_A_REWRITE = 8
"""A file that cannot shrink in steps is rewritten if more than one page in this many is free."""


class _ChangedError(Exception):
    """The minute was written to since its rows were read."""


class _Exchange(NamedTuple):
    """A second's rows and the block that replaces them; None if there is none."""

    time_text: str
    block: bytes | None = None
    rows: int = 0
    """Samples in the block."""
    samples: int = 0
    gone: Sequence[int] = ()
    """Rowids of the rows that the block replaces."""
    gone_samples: int = 0
    left: int = 0
    """How many rows are not packed."""


class DayPacking:
    """Packing of one open day file; raises apsw's errors."""

    def __init__(self, file: DayFile) -> None:
        self._file = file

    def unpacked(self, before: int, most: int) -> list[tuple[str, int]]:
        """``(device, minute)`` that ended before ``before`` and has rows to pack, oldest first."""
        found = self._file.db.execute(
            "SELECT device_id, ec_time FROM minute_line WHERE packed = 0 AND row_count > 0 AND ec_time < ?"
            " ORDER BY ec_time LIMIT ?",
            (self._first_too_new(before), most),
        )
        return [(device_id, parse_ec(self._file.date, at)) for device_id, at in all_rows(found)]

    def count_unpacked(self, before: int) -> int:
        """How many minutes ``unpacked`` would return without a limit."""
        statement = "SELECT count(*) FROM minute_line WHERE packed = 0 AND row_count > 0 AND ec_time < ?"
        return int(the_value(self._file.db.execute(statement, (self._first_too_new(before),))))

    def _first_too_new(self, before: int) -> str:
        """``ec_time`` of the first minute of the day that has not ended before ``before``."""
        minute = before - MINUTE_S + 1
        return ec_time(max(minute, self._file.day)) if minute < self._file.day + 86_400 else "~"

    def pack_minute(self, device_id: str, minute: int) -> Packed:
        """Pack a minute's rows; stops when somebody else writes to the minute."""
        at = (device_id, ec_time(minute))
        version = the_value(self._file.db.execute(f"SELECT version FROM ec_minute WHERE {_MINUTE}", at))  # noqa: S608
        packed = Packed()
        ready: list[_Exchange] = []
        try:
            for time_text in self._times_with_rows(*at):
                ready.append(self._prepare(device_id, time_text, version))
                if sum(len(one.gone) for one in ready) >= _ROWS_AT_ONCE:
                    packed += self._exchange(at, version, ready)
                    ready = []
            packed += self._exchange(at, version, ready, are_last=True)
        except _ChangedError:
            return packed
        return packed

    def _times_with_rows(self, device_id: str, minute_text: str) -> list[str]:
        found = self._file.db.execute(
            "SELECT DISTINCT ec_time FROM ec_consumption WHERE device_id = ? AND ec_date = ?"  # noqa: S608
            f" AND ec_time BETWEEN ? AND ? AND {READABLE_TIME} ORDER BY ec_time",
            (device_id, self._file.date, minute_text, minute_text[:4] + "59"),
        )
        return [time_text for (time_text,) in all_rows(found)]

    def _expect(self, cursor: apsw.Cursor, at: tuple[str, str], version: int | None) -> None:
        found = the_value(cursor.execute(f"SELECT version FROM ec_minute WHERE {_MINUTE}", at))  # noqa: S608
        if found is None or found != version or self._file.version(cursor) == REMOVED:
            raise _ChangedError

    def _exchange(
        self, at: tuple[str, str], version: int | None, ready: Sequence[_Exchange], *, are_last: bool = False
    ) -> Packed:
        """Replace rows by blocks; with the last ones the minute is marked as packed."""
        packed = Packed()
        with transaction(self._file.db) as cursor:
            self._expect(cursor, at, version)
            for one in ready:
                if one.block is not None:
                    self._put(cursor, at[0], one, one.block)
                packed += Packed(len(one.gone), one.gone_samples, one.left)
            if are_last:
                cursor.execute(f"UPDATE ec_minute SET packed = 1 WHERE {_MINUTE}", at)  # noqa: S608
        return packed

    def _put(self, cursor: apsw.Cursor, device_id: str, one: _Exchange, block: bytes) -> None:
        key = (device_id, self._file.date, one.time_text)
        self._file.blocks.remove(cursor, device_id, one.time_text)
        cursor.execute("INSERT INTO ec_block VALUES (?, ?, ?, ?, ?, ?)", (*key, one.rows, one.samples, block))
        self._delete(cursor, key, one.gone, are_all=not one.left)
        cursor.execute(
            "UPDATE ec_block_total SET block_bytes = block_bytes + ?, last_rowid = max(last_rowid, ?)",
            (len(block), max(one.gone)),
        )

    # --- one second -----------------------------------------------------------------------

    def _prepare(self, device_id: str, time_text: str, version: int | None) -> _Exchange:
        """The second's block, and which rows it replaces."""
        with snapshot(self._file.db):
            self._expect(self._file.db.cursor(), (device_id, time_text[:4] + "00"), version)
            if not self._file.blocks.exist(device_id, time_text, time_text):
                found = columns_of(self._file, device_id, time_text)
                if found is not None and (data := pack_columns(found.columns)) is not None:
                    counts = found.columns.counts
                    samples = int(counts.sum())
                    return _Exchange(time_text, data, len(counts), samples, found.rowids.tolist(), samples, 0)
            return self._prepare_row_by_row(device_id, time_text)

    def _prepare_row_by_row(self, device_id: str, time_text: str) -> _Exchange:
        """The same if there is a block already, or a row that a block cannot hold."""
        loose, others = self._loose_rows(device_id, time_text)
        block = self._file.blocks.of_second(device_id, time_text)
        is_packed = self._file.blocks.exist(device_id, time_text, time_text)
        if not loose or (is_packed and block is None):  # a damaged block is left to a repair
            return _Exchange(time_text, left=len(loose) + others)
        before = block.rows() if block is not None else []
        data, left = pack([*before, *loose])
        stay = {row[1:] for row in left}
        gone = [row for row in loose if row[1:] not in stay]
        if data is None or not gone:
            return _Exchange(time_text, left=len(left) + others)
        return _Exchange(
            time_text,
            data,
            len(before) + len(gone),
            sum(row.batch.count for row in [*before, *gone]),
            [first_rowid(row.rank) + row.tie for row in gone],
            sum(row.batch.count for row in gone),
            len(left) + others,
        )

    def _loose_rows(self, device_id: str, time_text: str) -> tuple[list[Row], int]:
        """The second's rows in the server's own form, and how many are in another."""
        second = parse_ec(self._file.date, time_text)
        found = all_rows(
            self._file.db.execute(
                "SELECT rowid, start_us, end_us, ec_consumption_values, values_count, values_checksum,"  # noqa: S608
                f" insert_time FROM ec_consumption WHERE {_SECOND} AND {_IN_ITS_OWN_FORM} ORDER BY rowid",
                (device_id, self._file.date, time_text),
            )
        )
        count = int(
            the_value(
                self._file.db.execute(
                    f"SELECT count(*) FROM ec_consumption WHERE {_SECOND}",  # noqa: S608
                    (device_id, self._file.date, time_text),
                )
            )
        )
        rows = []
        moments = _moments([row[-1] for row in found])
        for (rowid, start_us, end_us, values, samples, checksum, _), moment in zip(found, moments):
            if moment is None or not (_is_microsecond(start_us) and _is_microsecond(end_us)):
                continue
            batch = Batch(device_id, second, int(start_us), int(end_us), values, samples, checksum)
            rank = rank_of(rowid)
            rows.append(Row(batch, moment, rank, rowid - first_rowid(rank)))
        return rows, count - len(rows)

    def _delete(
        self, cursor: apsw.Cursor, key: tuple[str, str, str], rowids: Sequence[int], *, are_all: bool
    ) -> None:
        before = self._file.db.total_changes()
        if are_all:
            cursor.execute(f"DELETE FROM ec_consumption WHERE {_SECOND}", key)  # noqa: S608
        else:
            cursor.executemany("DELETE FROM ec_consumption WHERE rowid = ?", [(rowid,) for rowid in rowids])
        if self._file.db.total_changes() - before != len(rowids):
            raise _ChangedError

    # --- space ----------------------------------------------------------------------------

    def stored_bytes(self) -> StoredBytes:
        """Bytes in use; free pages are not."""
        if not self._file.has_blocks:
            return StoredBytes(self._pragma("page_size") * self._pragma("page_count"), 0)
        blocks = int(the_value(self._file.db.execute("SELECT block_bytes FROM ec_block_total")))
        used = self._pragma("page_size") * (self._pragma("page_count") - self._pragma("freelist_count"))
        return StoredBytes(used - blocks, blocks)

    def return_space(self, *, is_over: bool) -> bool:
        """Return some free pages to the file system; True if there are more to return."""
        pages, free = self._pragma("page_count"), self._pragma("freelist_count")
        spare = free if is_over else free - max(pages // _KEPT_SHARE, _KEPT_PAGES)
        if spare <= 0:
            return False
        if self._pragma("auto_vacuum") == 0:
            if is_over and free > pages // _WORTH_A_REWRITE:
                self._file.db.execute("PRAGMA auto_vacuum = INCREMENTAL")
                self._file.db.execute("VACUUM")
            return False
        all_rows(self._file.db.execute(f"PRAGMA incremental_vacuum({min(spare, _PAGES_AT_ONCE)})"))
        return spare > _PAGES_AT_ONCE

    def _pragma(self, name: str) -> int:
        return int(the_row(self._file.db.execute(f"PRAGMA {name}"))[0])


def _moments(texts: Sequence[str]) -> list[int | None]:
    """Epoch microseconds of insert times; None for each that is not written as the server writes it."""
    found: list[int] = []
    prefix, second_us = "", 0
    for text in texts:
        try:
            if text[:20] != prefix:
                second_us = parse_iso(text) - int(text[20:26])
                prefix = text[:20]
            found.append(second_us + int(text[20:26]))
        except ValueError:
            found.append(0)
    return [
        moment if written == text else None for moment, written, text in zip(found, iso_texts(found), texts)
    ]


def _is_microsecond(text: object) -> bool:
    return isinstance(text, str) and len(text) == 6 and text.isascii() and text.isdigit()
