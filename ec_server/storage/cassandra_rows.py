"""Reads and writes the rows of ``ec_consumption`` and ``ec_replaced``.

A row's rank is also its write timestamp: writing it again changes nothing, and the higher rank wins in
whatever order rows arrive. There is one exception: if rows up to some timestamp were deleted, because their
day was removed or their minute was packed, a row of a lower rank is written just above that timestamp, as
Cassandra would hide anything older. ``insert_time`` is the wall clock.

Reading includes the rows in blocks (cassandra_second.py), which are read after the rows of the table.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

from ec_server.storage.cassandra_blocks import Blocks
from ec_server.storage.cassandra_second import SecondRows, partition, rank_in, stored_row, us_in
from ec_server.storage.contract import ReplacedRow
from ec_server.storage.recent_rows import RowKey
from ec_server.storage.timeuuid import microseconds, timeuuid, timeuuid_bytes
from utilities.cassandra_batch import EncodedRows
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.model import Batch, StoredRow
from utilities.utc import DAY_S, MINUTE_S, ec_date, ec_time, is_ec_time, minute_of, parse_ec

# The values of an inserted row, each preceded by its length: those before the second's text, and after it.
_BEFORE = struct.Struct(">i6si6si")
_AFTER = struct.Struct(">iii32si16siqiqii")
_INSERTED_VALUES = 13
ROWS_A_PIECE = 300
"""The most rows per request."""
_CHARACTERS_A_PIECE = 256 * 1024

_INSERT = (
    "INSERT INTO ec_consumption (device_id, ec_date, ec_minute, ec_time, start_us, end_us,"
    " ec_consumption_values, values_count, values_checksum, insert_time, rank)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_SPAN = "WHERE device_id = ? AND ec_date = ? AND ec_minute = ? AND ec_time >= ? AND ec_time <= ?"
_VALUES = "ec_consumption_values, values_count, values_checksum, insert_time, rank"
_ROWS = f"SELECT ec_time, start_us, end_us, {_VALUES} FROM ec_consumption {_SPAN}"  # noqa: S608
_OF_SECOND = f"SELECT start_us, end_us, {_VALUES} FROM ec_consumption {_SPAN}"  # noqa: S608
_CHECKSUMS = f"SELECT start_us, end_us, values_checksum, insert_time, rank FROM ec_consumption {_SPAN}"  # noqa: S608
_REPLACED = f"SELECT ec_time, start_us, end_us, {_VALUES}, replaced_time, reason FROM ec_replaced {_SPAN}"  # noqa: S608
_KEEP_REPLACED = (
    "INSERT INTO ec_replaced (device_id, ec_date, ec_minute, ec_time, start_us, end_us, rank,"
    " ec_consumption_values, values_count, values_checksum, insert_time, replaced_time, reason)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_PARTITIONS = {
    table: f"SELECT DISTINCT device_id, ec_date, ec_minute FROM {table}"  # noqa: S608
    " WHERE device_id = ? AND ec_date = ? AND ec_minute IN ?"
    for table in ("ec_consumption", "ec_block", "ec_replaced")
}
_PARTITIONS_AT_ONCE = 60
_ROWS_BETWEEN_BLOCKS = 4000
"""Read about this many rows, of whole seconds, before the blocks of these seconds."""
_COUNT = (
    "SELECT count(ec_time) AS rows, sum(values_count) AS samples FROM ec_consumption"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)
_ANY_ROW = "SELECT ec_time FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute = ? LIMIT 1"
_DELETE_ROW = (
    "DELETE FROM ec_consumption USING TIMESTAMP ? WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
    " AND ec_time = ? AND start_us = ? AND end_us = ?"
)
_PARTITION = "USING TIMESTAMP ? WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
_DELETE = f"DELETE FROM ec_consumption {_PARTITION}"  # noqa: S608
_DELETE_REPLACED = f"DELETE FROM ec_replaced {_PARTITION}"  # noqa: S608
_DELETED_AT_ONCE = 60


@dataclass(frozen=True, slots=True)
class Change:
    """Changes to one second's rows, applied as one mutation: all or none."""

    at: tuple[str, int]
    """Device and second."""
    reason: str
    stamp: int = 0
    """The write timestamp for deletions and blocks set aside, below those of ``rows``."""
    rows: list[StoredRow] = field(default_factory=list)
    """Rows to insert."""
    replaced: list[StoredRow] = field(default_factory=list)
    """Rows to keep as replaced."""
    removed: list[StoredRow] = field(default_factory=list)
    """Rows to delete."""
    damaged_blocks: list[str] = field(default_factory=list)
    """Ids of blocks to set aside."""

    @property
    def changes_anything(self) -> bool:
        """Whether there is anything to apply."""
        return bool(self.rows or self.removed or self.damaged_blocks)

    def put(self, row: StoredRow) -> None:
        """Insert this row, replacing one of its key."""
        self.rows[:] = [one for one in self.rows if one.batch.key != row.batch.key] + [row]


class Rows:
    """Reads and writes rows."""

    def __init__(
        self,
        database: Database,
        blocks: Blocks,
        ttl_s: Callable[[int], int],
        deleted_until: Callable[[str, int], int],
    ) -> None:
        """``ttl_s`` gives the seconds that rows of a moment's day are kept; 0 means forever.

        ``deleted_until`` returns the write timestamp up to which rows of a device's second may have been
        deleted; 0 if none were.
        """
        self._db = database
        self._blocks = blocks
        self._ttl_s = ttl_s
        self._deleted_until = deleted_until

    def write(self, groups: Iterable[Sequence[StoredRow]]) -> None:
        """Store groups of rows, each of one device and minute; each group is all or none."""
        self._db.write_rows(_INSERT, map(self._encoded, groups))

    def _encoded(self, group: Sequence[StoredRow]) -> EncodedRows:
        """Encode rows here rather than in the driver, as rows of one second have many values in common."""
        known, head, ttl_s, deleted = -1, b"", 0, 0
        rows = []
        for batch, inserted_us, rank in group:
            if known != batch.second:
                known = batch.second
                head, ttl_s = _head(batch.device_id, known), self._ttl_s(known)
                deleted = self._deleted_until(batch.device_id, known)
            text = batch.values.encode("ascii")
            last = text.rfind(b";") + 1
            before = _BEFORE.pack(6, text[:6], 6, text[last : last + 6], len(text))
            after = _AFTER.pack(
                4,
                batch.count,
                32,
                batch.checksum.encode("ascii"),
                16,
                timeuuid_bytes(inserted_us),
                8,
                rank,
                8,
                rank if rank > deleted else deleted + 1,
                4,
                ttl_s,
            )
            rows.append(b"".join((head, before, text, after)))
        device_id, minute = group[0].batch.device_id, minute_of(group[0].batch.second)
        return EncodedRows(tuple(part.encode("ascii") for part in partition(device_id, minute)), rows)

    def change(self, changes: Iterable[Change]) -> None:
        """Change seconds, each in one mutation."""
        now_us = time.time_ns() // 1000
        self._db.write(list(self._statements(change, now_us)) for change in changes)

    def _statements(self, change: Change, now_us: int) -> Iterator[Statement]:
        for row in change.replaced:
            yield self._kept(ReplacedRow(row, now_us, change.reason))
        for row in change.removed:
            yield Statement(_DELETE_ROW, (change.stamp, *_key(row.batch)))
        yield from self._blocks.set_aside(*change.at, change.damaged_blocks, change.stamp)
        for row in change.rows:
            timestamp = max(row.rank, self._deleted_until(*change.at) + 1)
            yield Statement(_INSERT, (*_values(row), timestamp, self._ttl_s(row.batch.second)))

    def keep(self, kept: Iterable[ReplacedRow]) -> None:
        """Record rows that were replaced elsewhere."""
        self._db.write([self._kept(one)] for one in kept)

    def _kept(self, one: ReplacedRow) -> Statement:
        row, at_us = one.row, one.replaced_us
        values = (*_key(row.batch), row.rank, *_values(row)[6:10], timeuuid(at_us), one.reason)
        return Statement(_KEEP_REPLACED, (*values, at_us, self._ttl_s(row.batch.second)))

    def of_seconds(self, seconds: Sequence[tuple[str, int]]) -> dict[tuple[str, int], SecondRows]:
        """What is stored of several ``(device, second)``, read concurrently."""
        found = self._db.read_each(_OF_SECOND, [_second(*one) for one in seconds])
        blocks = self._blocks.of_seconds(seconds)
        return {one: SecondRows(*one, rows, packed) for one, rows, packed in zip(seconds, found, blocks)}

    def checksums(self, seconds: Sequence[tuple[str, int]]) -> tuple[dict[RowKey, str], int]:
        """The checksum of each row's key in several seconds, and the highest rank among them."""
        known: dict[RowKey, str] = {}
        highest = 0
        found = self._db.read_each(_CHECKSUMS, [_second(*one) for one in seconds])
        for (device_id, second), rows, blocks in zip(seconds, found, self._blocks.of_seconds(seconds)):
            ranks: dict[RowKey, int] = {}
            for row in rows:
                key = (device_id, second, us_in(row.start_us), us_in(row.end_us))
                known[key], ranks[key] = row.values_checksum or "", rank_in(row)
            for packed in SecondRows(device_id, second, (), blocks).packed().values():
                key = packed.batch.key
                if packed.rank >= ranks.get(key, packed.rank):
                    known[key], ranks[key] = packed.batch.checksum, packed.rank
            highest = max(highest, *ranks.values()) if ranks else highest
        return known, highest

    def replaced(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """The replaced rows of seconds ``[start, stop)``, in the order of their replacement."""
        spans = [
            (*partition(device_id, minute), ec_time(max(start, minute)), ec_time(min(stop - 1, minute + 59)))
            for minute in self._present("ec_replaced", device_id, start, stop)
        ]
        found = [
            ReplacedRow(
                stored_row(device_id, parse_ec(span[1], row.ec_time), row),
                microseconds(row.replaced_time),
                row.reason,
            )
            for span, rows in zip(spans, self._db.read_each(_REPLACED, spans))
            for row in rows
            if is_ec_time(row.ec_time)
        ]
        return sorted(found, key=lambda one: one.replaced_us)

    def between(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """The rows of seconds ``[start, stop)``, by second, then by rank, ascending."""
        for minute in self._minutes_with_rows(device_id, start, stop):
            first, last = max(start, minute), min(stop, minute + MINUTE_S) - 1
            for second in self.seconds(device_id, first, last):
                yield from second.stored()

    def _minutes_with_rows(self, device_id: str, start: int, stop: int) -> list[int]:
        """The minutes of ``[start, stop)`` that may have rows, packed or not."""
        tables = ("ec_consumption", "ec_block")
        return sorted({minute for table in tables for minute in self._present(table, device_id, start, stop)})

    def _present(self, table: str, device_id: str, start: int, stop: int) -> Iterable[int]:
        """The minutes of ``[start, stop)`` that may have rows in a table, one query per hour."""
        minutes = range(minute_of(start), stop, MINUTE_S)
        if len(minutes) <= 1:
            return minutes
        pieces: list[tuple[str, str, list[str]]] = []
        for date, of_day in groupby(minutes, key=ec_date):
            texts = [ec_time(minute)[:4] for minute in of_day]
            steps = range(0, len(texts), _PARTITIONS_AT_ONCE)
            pieces += [(device_id, date, texts[i : i + _PARTITIONS_AT_ONCE]) for i in steps]
        found = self._db.read_each(_PARTITIONS[table], pieces)
        return sorted(parse_ec(row.ec_date, row.ec_minute + "00") for rows in found for row in rows)

    def seconds(self, device_id: str, first: int, last: int) -> Iterator[SecondRows]:
        """The non-empty seconds ``first`` to ``last`` of one minute, ascending."""
        date, minute_text = ec_date(first), ec_time(first)[:4]
        found = self._db.read(_ROWS, device_id, date, minute_text, ec_time(first), ec_time(last))
        seconds: dict[int, list[Any]] = {}
        count = 0
        readable = (row for row in found if is_ec_time(row.ec_time))
        for text, rows in groupby(readable, key=lambda row: row.ec_time):
            second = parse_ec(date, text)
            seconds[second] = list(rows)
            count += len(seconds[second])
            if count >= _ROWS_BETWEEN_BLOCKS:
                yield from self._with_blocks(device_id, first, second, seconds)
                seconds, count, first = {}, 0, second + 1
        if first <= last:
            yield from self._with_blocks(device_id, first, last, seconds)

    def _with_blocks(
        self, device_id: str, first: int, last: int, rows: Mapping[int, list[Any]]
    ) -> Iterator[SecondRows]:
        blocks = self._blocks.of_span(device_id, first, last)
        for second in sorted(rows.keys() | blocks.keys()):
            yield SecondRows(device_id, second, rows.get(second, ()), blocks.get(second, ()))

    def counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, samples)`` of the non-empty minutes; counted by the nodes if possible."""
        minutes = self._minutes_with_rows(device_id, start, stop)
        counted = self._db.read_each(_COUNT, [partition(device_id, minute) for minute in minutes])
        found = []
        for minute, (loose,), packed in zip(minutes, counted, self._blocks.counts(device_id, minutes)):
            if packed.blocks > packed.seconds or (packed.blocks and loose.rows):
                found.append((minute, *self._count(device_id, minute)))
            else:
                found.append((minute, loose.rows + packed.rows, (loose.samples or 0) + packed.samples))
        return [one for one in found if one[1]]

    def _count(self, device_id: str, minute: int) -> tuple[int, int]:
        """Rows and samples of a minute, read because rows of one key may be stored in several places."""
        seconds = self.seconds(device_id, minute, minute + MINUTE_S - 1)
        samples = [row.batch.count for second in seconds for row in second.stored()]
        return len(samples), sum(samples)

    def has_any(self, device_id: str, minute: int) -> bool:
        """Whether the minute has a row, packed or not."""
        found = self._db.read(_ANY_ROW, *partition(device_id, minute))
        # a partition with only static columns gives a row of nulls
        return any(row.ec_time is not None for row in found) or self._blocks.has_any(device_id, minute)

    def remove_day(self, device_id: str, day: int, ceiling: int) -> None:
        """Delete every row of a day of a device with a write timestamp below ``ceiling``."""
        for minute in range(day, day + DAY_S, MINUTE_S * _DELETED_AT_ONCE):
            minutes = range(minute, minute + MINUTE_S * _DELETED_AT_ONCE, MINUTE_S)
            self._db.write(
                [
                    *(
                        Statement(cql, (ceiling, *partition(device_id, m)))
                        for cql in (_DELETE, _DELETE_REPLACED)
                    ),
                    self._blocks.remove_minute(device_id, m, ceiling),
                ]
                for m in minutes
            )


def _head(device_id: str, second: int) -> bytes:
    """The number of values of an inserted row, and the values that all rows of the second share."""
    time_text = ec_time(second)
    parts = [part.encode("ascii") for part in (device_id, ec_date(second), time_text[:4], time_text)]
    lengths = [struct.pack(">i", len(part)) for part in parts]
    return struct.pack(">H", _INSERTED_VALUES) + b"".join(chain(*zip(lengths, parts, strict=True)))


def pieces(rows: Mapping[Any, Sequence[StoredRow]]) -> Iterator[Sequence[StoredRow]]:
    """The rows of each minute in pieces of a suitable size for one mutation."""
    for of_minute in rows.values():
        longest = max(len(row.batch.values) for row in of_minute)
        step = max(1, min(ROWS_A_PIECE, _CHARACTERS_A_PIECE // longest))
        for i in range(0, len(of_minute), step):
            yield of_minute[i : i + step]


def _key(batch: Batch) -> tuple[str, str, str, str, str, str]:
    of_minute = partition(batch.device_id, batch.second)
    return (*of_minute, ec_time(batch.second), f"{batch.start_us:06d}", f"{batch.end_us:06d}")


def _values(row: StoredRow) -> tuple[Any, ...]:
    """The values of an inserted row's columns."""
    b = row.batch
    return (*_key(b), b.values, b.count, b.checksum, timeuuid(row.inserted_us), row.rank)


def _second(device_id: str, second: int) -> tuple[str, ...]:
    return (*partition(device_id, second), ec_time(second), ec_time(second))
