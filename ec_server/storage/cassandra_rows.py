"""The rows of ``ec_consumption`` and ``ec_replaced``: how a batch becomes one, and how they are read.

A row's rank is also its write timestamp: written again it changes nothing, and the higher rank wins
over the lower, in whatever order they arrive. ``insert_time`` is what the clock said. Rows of version
1.0 have no rank; the moment of their insertion is theirs.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from ec_server.storage.contract import ReplacedRow
from ec_server.storage.merge import in_rank
from ec_server.storage.recent_rows import RowKey
from ec_server.storage.timeuuid import microseconds, timeuuid, timeuuid_bytes
from utilities.cassandra_batch import EncodedRows
from utilities.cassandra_util import Database, Statement
from utilities.checksum_util import join_rows, md5_hex
from utilities.model import Batch, StoredRow
from utilities.utc import DAY_S, MINUTE_S, ec_date, ec_time, minute_of, parse_ec

# An inserted row's values, each behind its length: what stands before its second's text, and after it.
_BEFORE = struct.Struct(">i6si6si")
_AFTER = struct.Struct(">iii32si16siqiqii")
_INSERTED_VALUES = 13
ROWS_A_PIECE = 300
"""Rows of one request at most."""
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
    for table in ("ec_consumption", "ec_replaced")
}
_PARTITIONS_AT_ONCE = 60
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
    """What becomes of one second's rows: applied as one, all or none."""

    rows: list[StoredRow]
    """To insert."""
    replaced: list[StoredRow]
    """To keep on record as replaced."""
    removed: list[StoredRow]
    """To delete, with timestamp ``removed_at``, below those of ``rows``."""
    reason: str
    removed_at: int = 0

    def put(self, row: StoredRow) -> None:
        """Insert this row, in place of one of its key."""
        self.rows[:] = [one for one in self.rows if one.batch.key != row.batch.key] + [row]


class Rows:
    """Reads rows and writes them."""

    def __init__(
        self, database: Database, ttl_s: Callable[[int], int], removed_until: Callable[[str, int], int]
    ) -> None:
        """``ttl_s`` gives the seconds that rows of a moment's day are kept; 0 for ever.

        ``removed_until`` gives the write timestamp up to which a device's day was removed; 0: it was not.
        """
        self._db = database
        self._ttl_s = ttl_s
        self._removed_until = removed_until

    def write(self, groups: Iterable[Sequence[StoredRow]]) -> None:
        """Store groups of rows, each of one device and minute, and each all or none."""
        self._db.write_rows(_INSERT, map(self._encoded, groups))

    def _encoded(self, group: Sequence[StoredRow]) -> EncodedRows:
        """Encoded here, where it is known what rows of one second have in common."""
        known, head, ttl_s, removed = -1, b"", 0, 0
        rows = []
        for batch, inserted_us, rank in group:
            if known != batch.second:
                known = batch.second
                head, ttl_s = _head(batch.device_id, known), self._ttl_s(known)
                removed = self._removed_until(batch.device_id, known)
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
                rank if rank > removed else removed + 1,
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
            yield Statement(_DELETE_ROW, (change.removed_at, *_key(row.batch)))
        for row in change.rows:
            removed = self._removed_until(row.batch.device_id, row.batch.second)
            timestamp = max(row.rank, removed + 1)
            yield Statement(_INSERT, (*_values(row), timestamp, self._ttl_s(row.batch.second)))

    def keep(self, kept: Iterable[ReplacedRow]) -> None:
        """Put on record what was replaced elsewhere."""
        self._db.write([self._kept(one)] for one in kept)

    def _kept(self, one: ReplacedRow) -> Statement:
        row, at_us = one.row, one.replaced_us
        values = (*_key(row.batch), row.rank, *_values(row)[6:10], timeuuid(at_us), one.reason)
        return Statement(_KEEP_REPLACED, (*values, at_us, self._ttl_s(row.batch.second)))

    def of_seconds(self, seconds: Sequence[tuple[str, int]]) -> dict[tuple[str, int], list[StoredRow]]:
        """The rows of several seconds of devices, read side by side."""
        found = self._db.read_each(_OF_SECOND, [_second(*one) for one in seconds])
        return {one: [_stored(*one, row) for row in rows] for one, rows in zip(seconds, found)}

    def checksums(self, seconds: Sequence[tuple[str, int]]) -> tuple[dict[RowKey, str], int]:
        """The checksum of each row's key in several seconds, and the highest rank among them."""
        known: dict[RowKey, str] = {}
        highest = 0
        found = self._db.read_each(_CHECKSUMS, [_second(*one) for one in seconds])
        for (device_id, second), rows in zip(seconds, found):
            for row in rows:
                known[device_id, second, _us(row.start_us), _us(row.end_us)] = row.values_checksum or ""
                highest = max(highest, _rank(row))
        return known, highest

    def replaced(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """The rows of seconds ``[start, stop)`` that others took the place of, oldest replacement first."""
        spans = [
            (*partition(device_id, minute), ec_time(max(start, minute)), ec_time(min(stop - 1, minute + 59)))
            for minute in self._present("ec_replaced", device_id, start, stop)
        ]
        found = [
            ReplacedRow(
                _stored(device_id, parse_ec(span[1], row.ec_time), row),
                microseconds(row.replaced_time),
                row.reason,
            )
            for span, rows in zip(spans, self._db.read_each(_REPLACED, spans))
            for row in rows
        ]
        return sorted(found, key=lambda one: one.replaced_us)

    def between(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """Rows of seconds ``[start, stop)``, ascending in the second, then in the rank."""
        for minute in self._present("ec_consumption", device_id, start, stop):
            first, last = max(start, minute), min(stop, minute + MINUTE_S) - 1
            for second, rows in self.seconds(device_id, first, last):
                yield from in_rank(_stored(device_id, second, row) for row in rows)

    def _present(self, table: str, device_id: str, start: int, stop: int) -> Iterable[int]:
        """The minutes of ``[start, stop)`` that may have rows in a table: hours are asked for at once."""
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

    def seconds(self, device_id: str, first: int, last: int) -> Iterator[tuple[int, list[Any]]]:
        """``(second, its rows in any order)``, non-empty seconds ``first`` to ``last`` of one minute."""
        date, minute_text = ec_date(first), ec_time(first)[:4]
        found = self._db.read(_ROWS, device_id, date, minute_text, ec_time(first), ec_time(last))
        for text, rows in groupby(found, key=lambda row: row.ec_time):
            yield parse_ec(date, text), list(rows)

    def counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, samples)`` of the non-empty minutes; the nodes count."""
        minutes = self._present("ec_consumption", device_id, start, stop)
        counted = self._db.read_each(_COUNT, [partition(device_id, minute) for minute in minutes])
        return [(m, row.rows, row.samples) for m, (row,) in zip(minutes, counted) if row.rows]

    def has_any(self, device_id: str, minute: int) -> bool:
        """Whether the minute has a row."""
        found = self._db.read(_ANY_ROW, *partition(device_id, minute))
        return any(row.ec_time is not None for row in found)  # static columns alone give a row of nulls

    def remove_day(self, device_id: str, day: int, ceiling: int) -> None:
        """Delete every row of a day of a device that was written before ``ceiling``."""
        for minute in range(day, day + DAY_S, MINUTE_S * _DELETED_AT_ONCE):
            minutes = range(minute, minute + MINUTE_S * _DELETED_AT_ONCE, MINUTE_S)
            self._db.write(
                [Statement(cql, (ceiling, *partition(device_id, one))) for cql in (_DELETE, _DELETE_REPLACED)]
                for one in minutes
            )


def partition(device_id: str, minute: int) -> tuple[str, str, str]:
    """The partition of a minute of a device."""
    return device_id, ec_date(minute), ec_time(minute)[:4]


def _head(device_id: str, second: int) -> bytes:
    """The number of an inserted row's values, and those that a second's rows have in common."""
    time_text = ec_time(second)
    parts = [part.encode("ascii") for part in (device_id, ec_date(second), time_text[:4], time_text)]
    lengths = [struct.pack(">i", len(part)) for part in parts]
    return struct.pack(">H", _INSERTED_VALUES) + b"".join(chain(*zip(lengths, parts, strict=True)))


def pieces(rows: Mapping[Any, Sequence[StoredRow]]) -> Iterator[Sequence[StoredRow]]:
    """The rows of each minute in pieces of a size that one mutation carries well."""
    for of_minute in rows.values():
        longest = max(len(row.batch.values) for row in of_minute)
        step = max(1, min(ROWS_A_PIECE, _CHARACTERS_A_PIECE // longest))
        for i in range(0, len(of_minute), step):
            yield of_minute[i : i + step]


def text_of(rows: Iterable[Any]) -> str:
    """One second's canonical text from its rows in any order."""
    ranked = sorted(rows, key=lambda row: (_rank(row), row.start_us, row.end_us))
    return join_rows((_us(row.start_us), _us(row.end_us), _text(row)) for row in ranked)


def is_whole(batch: Batch) -> bool:
    """Whether a row's text fits its checksum."""
    return md5_hex(batch.values) == batch.checksum


def damaged_in(rows: Iterable[Any]) -> list[Any]:
    """The rows whose text does not fit their checksum."""
    return [row for row in rows if md5_hex(_text(row)) != row.values_checksum]


def _text(row: Any) -> str:
    """A stored text as ASCII: another program may have changed it, or left it out."""
    text: str = row.ec_consumption_values or ""
    return text if text.isascii() else text.encode("ascii", "replace").decode("ascii")


def _us(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _rank(row: Any) -> int:
    if row.rank is not None:
        return int(row.rank)
    return microseconds(row.insert_time) if row.insert_time is not None else 0


def _key(batch: Batch) -> tuple[str, str, str, str, str, str]:
    of_minute = partition(batch.device_id, batch.second)
    return (*of_minute, ec_time(batch.second), f"{batch.start_us:06d}", f"{batch.end_us:06d}")


def _values(row: StoredRow) -> tuple[Any, ...]:
    """The values of an inserted row's columns."""
    b = row.batch
    return (*_key(b), b.values, b.count, b.checksum, timeuuid(row.inserted_us), row.rank)


def _second(device_id: str, second: int) -> tuple[str, ...]:
    return (*partition(device_id, second), ec_time(second), ec_time(second))


def _stored(device_id: str, second: int, row: Any) -> StoredRow:
    batch = Batch(
        device_id,
        second,
        _us(row.start_us),
        _us(row.end_us),
        _text(row),
        row.values_count or 0,
        row.values_checksum or "",
    )
    inserted_us = microseconds(row.insert_time) if row.insert_time is not None else 0
    return StoredRow(batch, inserted_us, _rank(row))
