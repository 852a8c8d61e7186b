"""Packs the rows of a day file into blocks, and returns the freed space.

Rules:

1. Rows are read and packed outside any write transaction, so that ingest waits only for the exchange: one
   transaction inserts blocks and deletes their rows, if the minute's ``version`` has not changed since the
   rows were read. Otherwise nothing happens to that minute, and it is packed another time. A transaction
   exchanges a bounded number of rows, in the order in which they were stored: the same seconds of several
   devices lie on the same pages, which otherwise would be written again for each device.
2. Packing changes nothing that others can see: neither ``version``, nor proof, digests or counts.
3. A row that a block could not reproduce byte for byte stays a row: rows that other programs wrote in
   another form, and damaged ones.
4. ``ec_minute.packed`` says that nothing is left to pack; any write to the minute resets it.
5. Today's file keeps free space for new rows. Once a day is over, all its free space is returned.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
_ROWS_AT_ONCE, _SECONDS_AT_ONCE = 10_000, 60
"""Rows exchanged in one transaction, which blocks ingest for about 50 ms; and seconds of sparse devices."""
_CACHE_KB = 16_384
_PAGES_AT_ONCE = 1000
_KEPT_SHARE, _KEPT_PAGES = 4, 16_384
"""A quarter of today's file may be free, or 64 MB."""
_WORTH_A_REWRITE = 8
"""A file that cannot shrink in steps is rewritten if more than one page in this many is free."""


_Minute = tuple[str, str]
"""Device, and ``ec_time`` of the minute."""


class _ChangedError(Exception):
    """The minute was written to since its rows were read."""

    def __init__(self, minute: _Minute) -> None:
        super().__init__(minute)
        self.minute = minute


class PackingPlan:
    """What is still to be packed of some minutes of one open file."""

    def __init__(self, file: DayFile, minutes: dict[_Minute, int | None], seconds: Iterable[_Minute]) -> None:
        """``minutes`` with their versions; ``seconds``: device and ``ec_time`` of each."""
        self.file = file
        self.minutes = minutes
        self._waiting = deque(sorted(seconds, key=lambda one: (one[1], one[0])))
        self._left = Counter(_minute_of(*one) for one in self._waiting)

    def seconds(self) -> Iterator[_Minute]:
        """Take the seconds of these minutes, oldest first, and those of one time together."""
        while self._waiting:
            second = self._waiting.popleft()
            minute = _minute_of(*second)
            self._left[minute] -= 1
            if minute in self.minutes:
                yield second

    def without_more(self) -> list[_Minute]:
        """The minutes of which all seconds were taken."""
        return [minute for minute in self.minutes if not self._left[minute]]

    def leave_out(self, minutes: Iterable[_Minute]) -> None:
        """Do no more about these minutes."""
        for minute in minutes:
            self.minutes.pop(minute, None)


class _Exchange(NamedTuple):
    """A second's rows and the block that replaces them; None if there is none."""

    device_id: str
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

    @property
    def minute(self) -> _Minute:
        """The second's minute."""
        return _minute_of(self.device_id, self.time_text)


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

    def plan(self, minutes: Sequence[tuple[str, int]]) -> PackingPlan:
        """What is to be packed of ``(device, minute)`` of this day."""
        with snapshot(self._file.db):
            found = [(device_id, ec_time(minute)) for device_id, minute in minutes]
            versions = {minute: self._version(self._file.db.cursor(), minute) for minute in found}
            times = {minute: self._times_with_rows(*minute) for minute in found}
        seconds = [(device_id, time) for (device_id, _), of_minute in times.items() for time in of_minute]
        return PackingPlan(self._file, versions, seconds)

    def pack_some(self, plan: PackingPlan) -> Packed:
        """Pack the next seconds of a plan; leaves out minutes to which somebody else writes."""
        if plan.file is not self._file:
            plan.minutes.clear()
            return Packed()
        try:
            with self._room_for_pages():
                return self._take_step(plan)
        except BaseException:  # it may have taken seconds that it did not pack
            plan.minutes.clear()
            raise

    def _take_step(self, plan: PackingPlan) -> Packed:
        ready = self._prepare_some(plan)
        while True:
            try:
                return self._exchange(plan, [one for one in ready if one.minute in plan.minutes])
            except _ChangedError as changed:
                plan.leave_out([changed.minute])

    @contextmanager
    def _room_for_pages(self) -> Iterator[None]:
        """Keep all pages of an exchange in memory: those of several devices are needed for each of them."""
        before = self._pragma("cache_size")
        self._file.db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        try:
            yield
        finally:
            self._file.db.execute(f"PRAGMA cache_size = {before}")

    def _prepare_some(self, plan: PackingPlan) -> list[_Exchange]:
        ready: list[_Exchange] = []
        rows = 0
        for device_id, time_text in plan.seconds():
            try:
                ready.append(self._prepare(device_id, time_text, plan))
            except _ChangedError as changed:
                plan.leave_out([changed.minute])
                continue
            rows += len(ready[-1].gone)
            if rows >= _ROWS_AT_ONCE or len(ready) >= _SECONDS_AT_ONCE:
                break
        return ready

    def _times_with_rows(self, device_id: str, minute_text: str) -> list[str]:
        found = self._file.db.execute(
            "SELECT DISTINCT ec_time FROM ec_consumption WHERE device_id = ? AND ec_date = ?"  # noqa: S608
            f" AND ec_time BETWEEN ? AND ? AND {READABLE_TIME} ORDER BY ec_time",
            (device_id, self._file.date, minute_text, minute_text[:4] + "59"),
        )
        return [time_text for (time_text,) in all_rows(found)]

    def _version(self, cursor: apsw.Cursor, minute: _Minute) -> int | None:
        found: int | None = the_value(
            cursor.execute(f"SELECT version FROM ec_minute WHERE {_MINUTE}", minute)  # noqa: S608
        )
        return found

    def _expect(self, cursor: apsw.Cursor, minute: _Minute, plan: PackingPlan) -> None:
        found = self._version(cursor, minute)
        if found is None or found != plan.minutes[minute] or self._file.version(cursor) == REMOVED:
            raise _ChangedError(minute)

    def _exchange(self, plan: PackingPlan, ready: Sequence[_Exchange]) -> Packed:
        """Replace rows by blocks, and mark the minutes that are packed by that."""
        packed = Packed()
        complete = plan.without_more()
        with transaction(self._file.db) as cursor:
            for minute in {*complete, *(one.minute for one in ready)}:
                self._expect(cursor, minute, plan)
            for one in ready:
                if one.block is not None:
                    self._put(cursor, one, one.block)
                packed += Packed(len(one.gone), one.gone_samples, one.left)
            cursor.executemany(f"UPDATE ec_minute SET packed = 1 WHERE {_MINUTE}", complete)  # noqa: S608
        plan.leave_out(complete)
        return packed

    def _put(self, cursor: apsw.Cursor, one: _Exchange, block: bytes) -> None:
        key = (one.device_id, self._file.date, one.time_text)
        self._file.blocks.remove(cursor, one.device_id, one.time_text)
        cursor.execute("INSERT INTO ec_block VALUES (?, ?, ?, ?, ?, ?)", (*key, one.rows, one.samples, block))
        self._delete(cursor, key, one)
        cursor.execute(
            "UPDATE ec_block_total SET block_bytes = block_bytes + ?, last_rowid = max(last_rowid, ?)",
            (len(block), max(one.gone)),
        )

    # --- one second -----------------------------------------------------------------------

    def _prepare(self, device_id: str, time_text: str, plan: PackingPlan) -> _Exchange:
        """The second's block, and which rows it replaces."""
        with snapshot(self._file.db):
            self._expect(self._file.db.cursor(), _minute_of(device_id, time_text), plan)
            if not self._file.blocks.exist(device_id, time_text, time_text):
                found = columns_of(self._file, device_id, time_text)
                if found is not None and (data := pack_columns(found.columns)) is not None:
                    counts = found.columns.counts
                    samples = int(counts.sum())
                    gone = found.rowids.tolist()
                    return _Exchange(device_id, time_text, data, len(counts), samples, gone, samples)
            return self._prepare_row_by_row(device_id, time_text)

    def _prepare_row_by_row(self, device_id: str, time_text: str) -> _Exchange:
        """The same if there is a block already, or a row that a block cannot hold."""
        loose, others = self._loose_rows(device_id, time_text)
        block = self._file.blocks.of_second(device_id, time_text)
        is_packed = self._file.blocks.exist(device_id, time_text, time_text)
        if not loose or (is_packed and block is None):  # a damaged block is left to a repair
            return _Exchange(device_id, time_text, left=len(loose) + others)
        before = block.rows() if block is not None else []
        data, left = pack([*before, *loose])
        stay = {row[1:] for row in left}
        gone = [row for row in loose if row[1:] not in stay]
        if data is None or not gone:
            return _Exchange(device_id, time_text, left=len(left) + others)
        return _Exchange(
            device_id,
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

    def _delete(self, cursor: apsw.Cursor, key: tuple[str, str, str], one: _Exchange) -> None:
        before = self._file.db.total_changes()
        if one.left:
            cursor.executemany("DELETE FROM ec_consumption WHERE rowid = ?", [(rowid,) for rowid in one.gone])
        else:
            cursor.execute(f"DELETE FROM ec_consumption WHERE {_SECOND}", key)  # noqa: S608
        if self._file.db.total_changes() - before != len(one.gone):
            raise _ChangedError(one.minute)

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


def _minute_of(device_id: str, time_text: str) -> _Minute:
    return device_id, time_text[:4] + "00"


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
