"""Packs the rows of a day's file into blocks, and gives the space back.

Rules:

1. Rows are read and packed outside any transaction that writes, so that ingest waits for the exchange alone:
   the block goes in and its rows go out in one transaction, which finds the minute's ``version`` unchanged
   since the rows were read. Otherwise nothing happens, and the minute is packed another time.
2. Packing changes nothing that anybody sees: neither ``version``, nor proof, nor digests, nor counts.
3. What a block would not give back byte for byte stays a row: rows of other programs in another form, and
   damaged ones.
4. ``ec_minute.packed`` says that there is nothing left to pack; any write to the minute takes it back.
5. Rows come and go in the free space of today's file. Of a day that is over all of it is returned.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from ec_server.packing.block import Row, pack
from ec_server.storage.contract import Packed, StoredBytes
from ec_server.storage.sqlite_connection import all_rows, the_row, the_value, transaction
from ec_server.storage.sqlite_day import REMOVED, DayFile, snapshot
from ec_server.storage.sqlite_rank import first_rowid, rank_of
from utilities.model import Batch
from utilities.utc import MINUTE_S, ec_time, iso_texts, parse_ec, parse_iso

_SECOND = "device_id = ? AND ec_date = ? AND ec_time = ?"
_MINUTE = "device_id = ? AND ec_time = ?"
_IN_ITS_OWN_FORM = (
    "typeof(ec_consumption_values) = 'text' AND typeof(values_checksum) = 'text'"
    " AND typeof(insert_time) = 'text' AND typeof(values_count) = 'integer'"
)
_PAGES_AT_ONCE = 1000
_KEPT_SHARE, _KEPT_PAGES = 4, 16_384
"""Of today's file, a quarter may be free, or 64 MB."""
_WORTH_A_REWRITE = 8
"""A file that cannot shrink in steps is rewritten where more than one page in so many is free."""


class _ChangedError(Exception):
    """The minute was written to since its rows were read."""


class DayPacking:
    """Packing of one open day file; apsw's errors."""

    def __init__(self, file: DayFile) -> None:
        self._file = file

    def unpacked(self, before: int, most: int) -> list[tuple[str, int]]:
        """``(device, minute)`` with something to pack that ended before ``before``, oldest first."""
        found = self._file.db.execute(
            "SELECT device_id, ec_time FROM ec_minute WHERE packed = 0 AND row_count > 0 AND ec_time < ?"
            " ORDER BY ec_time LIMIT ?",
            (self._first_too_new(before), most),
        )
        return [(device_id, parse_ec(self._file.date, at)) for device_id, at in all_rows(found)]

    def count_unpacked(self, before: int) -> int:
        """How many minutes ``unpacked`` would give without a limit."""
        statement = "SELECT count(*) FROM ec_minute WHERE packed = 0 AND row_count > 0 AND ec_time < ?"
        return int(the_value(self._file.db.execute(statement, (self._first_too_new(before),))))

    def _first_too_new(self, before: int) -> str:
        """``ec_time`` of the first minute of the day that has not ended before ``before``."""
        minute = before - MINUTE_S + 1
        return ec_time(max(minute, self._file.day)) if minute < self._file.day + 86_400 else "~"

    def pack_minute(self, device_id: str, minute: int) -> Packed:
        """Pack what there is to pack of a minute; nothing more once somebody else writes to it."""
        at = (device_id, ec_time(minute))
        version = the_value(self._file.db.execute(f"SELECT version FROM ec_minute WHERE {_MINUTE}", at))  # noqa: S608
        packed = Packed()
        try:
            for time_text in self._times_with_rows(*at):
                packed += self._pack_second(device_id, time_text, version)
            with transaction(self._file.db) as cursor:
                self._expect(cursor, at, version)
                cursor.execute(f"UPDATE ec_minute SET packed = 1 WHERE {_MINUTE}", at)  # noqa: S608
        except _ChangedError:
            return packed
        return packed

    def _times_with_rows(self, device_id: str, minute_text: str) -> list[str]:
        found = self._file.db.execute(
            "SELECT DISTINCT ec_time FROM ec_consumption WHERE device_id = ? AND ec_date = ?"
            " AND ec_time BETWEEN ? AND ? ORDER BY ec_time",
            (device_id, self._file.date, minute_text, minute_text[:4] + "59"),
        )
        return [time_text for (time_text,) in all_rows(found)]

    def _expect(self, cursor: apsw.Cursor, at: tuple[str, str], version: int | None) -> None:
        found = the_value(cursor.execute(f"SELECT version FROM ec_minute WHERE {_MINUTE}", at))  # noqa: S608
        if found is None or found != version or self._file.version(cursor) == REMOVED:
            raise _ChangedError

    # --- one second -----------------------------------------------------------------------

    def _pack_second(self, device_id: str, time_text: str, version: int | None) -> Packed:
        key = (device_id, self._file.date, time_text)
        at = (device_id, time_text[:4] + "00")
        with snapshot(self._file.db):
            self._expect(self._file.db.cursor(), at, version)
            loose, others = self._loose_rows(device_id, time_text)
            block = self._file.blocks.of_second(device_id, time_text)
            is_packed = self._file.blocks.exist(device_id, time_text, time_text)
        if not loose or (is_packed and block is None):  # a damaged block is a repair's business
            return Packed(left=len(loose) + others)
        before = block.rows() if block is not None else []
        data, left = pack([*before, *loose])
        stay = {row[1:] for row in left}
        gone = [row for row in loose if row[1:] not in stay]
        if data is None or not gone:
            return Packed(left=len(left) + others)
        rows, samples = len(before) + len(gone), sum(row.batch.count for row in [*before, *gone])
        with transaction(self._file.db) as cursor:
            self._expect(cursor, at, version)
            self._file.blocks.remove(cursor, device_id, time_text)
            cursor.execute("INSERT INTO ec_block VALUES (?, ?, ?, ?, ?, ?)", (*key, rows, samples, data))
            rowids = [first_rowid(row.rank) + row.tie for row in gone]
            self._delete(cursor, key, rowids, are_all=not left and not others)
            cursor.execute(
                "UPDATE ec_block_total SET block_bytes = block_bytes + ?, last_rowid = max(last_rowid, ?)",
                (len(data), max(rowids)),
            )
        return Packed(len(gone), sum(row.batch.count for row in gone), len(left) + others)

    def _loose_rows(self, device_id: str, time_text: str) -> tuple[list[Row], int]:
        """The second's rows in their own form, and how many there are in another."""
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
        self, cursor: apsw.Cursor, key: tuple[str, str, str], rowids: list[int], *, are_all: bool
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
        """Return some free pages to the file system; whether there are more to return."""
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
    """Epoch microseconds of insert times; None for each that does not read as the server writes it."""
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
