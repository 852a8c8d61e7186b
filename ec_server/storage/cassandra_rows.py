"""The rows of ``ec_consumption``: how a batch becomes one, and how a minute's partition is read.

A row's timestamp is the moment of its insertion: written again it changes nothing, and what is later
wins over what is earlier, in whatever order they arrive. ``insert_time`` says the same moment.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from ec_server.storage.timeuuid import microseconds, timeuuid_bytes
from utilities.cassandra_batch import EncodedRows
from utilities.cassandra_util import Database, Statement
from utilities.checksum_util import join_rows
from utilities.model import Batch
from utilities.utc import DAY_S, MINUTE_S, ec_date, ec_time, minute_of, parse_ec

Inserted = tuple[Batch, int]
"""A batch and the moment of its insertion in epoch microseconds."""

# An inserted row's values, each behind its length: what stands before its second's text, and after it.
_BEFORE = struct.Struct(">i6si6si")
_AFTER = struct.Struct(">iii32si16siqii")
_INSERTED_VALUES = 12
ROWS_A_PIECE = 300
"""Rows of one request at most."""
_CHARACTERS_A_PIECE = 256 * 1024

_INSERT = (
    "INSERT INTO ec_consumption (device_id, ec_date, ec_minute, ec_time, start_us, end_us,"
    " ec_consumption_values, values_count, values_checksum, insert_time)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_ROWS = (
    "SELECT ec_time, start_us, end_us, ec_consumption_values, values_count, values_checksum, insert_time"
    " FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
    " AND ec_time >= ? AND ec_time <= ?"
)
_COUNT = (
    "SELECT count(*) AS rows, sum(values_count) AS samples FROM ec_consumption"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)
_ANY_ROW = "SELECT ec_time FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute = ? LIMIT 1"
_DELETE = "DELETE FROM ec_consumption WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"


class Rows:
    """Reads rows and writes them."""

    def __init__(self, database: Database, ttl_s: Callable[[int], int]) -> None:
        """``ttl_s`` gives the seconds that rows of a moment's day are kept; 0 for ever."""
        self._db = database
        self._ttl_s = ttl_s

    def write(self, groups: Iterable[Sequence[Inserted]]) -> None:
        """Store groups of rows, each of one device and minute, and each all or none."""
        self._db.write_rows(_INSERT, map(self._encoded, groups))

    def _encoded(self, group: Sequence[Inserted]) -> EncodedRows:
        """Encoded here, where it is known what rows of one second have in common."""
        known, head, ttl_s = -1, b"", 0
        rows = []
        for batch, at_us in group:
            if known != batch.second:
                known = batch.second
                head, ttl_s = _head(batch.device_id, known), self._ttl_s(known)
            text = batch.values.encode("ascii")
            last = text.rfind(b";") + 1
            before = _BEFORE.pack(6, text[:6], 6, text[last : last + 6], len(text))
            after = _AFTER.pack(
                4,
                batch.count,
                32,
                batch.checksum.encode("ascii"),
                16,
                timeuuid_bytes(at_us),
                8,
                at_us,
                4,
                ttl_s,
            )
            rows.append(b"".join((head, before, text, after)))
        device_id, minute = group[0][0].device_id, minute_of(group[0][0].second)
        return EncodedRows(tuple(part.encode("ascii") for part in partition(device_id, minute)), rows)

    def between(self, device_id: str, start: int, stop: int) -> Iterator[Inserted]:
        """Rows of seconds ``[start, stop)``, ascending; within a second oldest insertion first."""
        for minute in range(minute_of(start), stop, MINUTE_S):
            first, last = max(start, minute), min(stop, minute + MINUTE_S) - 1
            for second, rows in self.seconds(device_id, first, last):
                found = [(microseconds(row.insert_time), row) for row in rows]
                for at_us, row in sorted(found, key=lambda pair: pair[0]):
                    yield _batch(device_id, second, row), at_us

    def seconds(self, device_id: str, first: int, last: int) -> Iterator[tuple[int, list[Any]]]:
        """``(second, its rows in any order)``, non-empty seconds ``first`` to ``last`` of one minute."""
        date, minute_text = ec_date(first), ec_time(first)[:4]
        found = self._db.read(_ROWS, device_id, date, minute_text, ec_time(first), ec_time(last))
        for text, rows in groupby(found, key=lambda row: row.ec_time):
            yield parse_ec(date, text), list(rows)

    def counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, samples)`` of the non-empty minutes; the nodes count."""
        minutes = range(minute_of(start), stop, MINUTE_S)
        counted = self._db.read_each(_COUNT, [partition(device_id, minute) for minute in minutes])
        return [(m, row.rows, row.samples) for m, (row,) in zip(minutes, counted) if row.rows]

    def has_any(self, device_id: str, minute: int) -> bool:
        """Whether the minute has a row."""
        return bool(list(self._db.read(_ANY_ROW, *partition(device_id, minute))))

    def remove_day(self, device_id: str, day: int) -> None:
        """Delete every row of a day of a device."""
        minutes = range(day, day + DAY_S, MINUTE_S)
        self._db.write([Statement(_DELETE, partition(device_id, minute))] for minute in minutes)


def partition(device_id: str, minute: int) -> tuple[str, str, str]:
    """The partition of a minute of a device."""
    return device_id, ec_date(minute), ec_time(minute)[:4]


def _head(device_id: str, second: int) -> bytes:
    """The number of an inserted row's values, and those that a second's rows have in common."""
    time_text = ec_time(second)
    parts = [part.encode("ascii") for part in (device_id, ec_date(second), time_text[:4], time_text)]
    lengths = [struct.pack(">i", len(part)) for part in parts]
    return struct.pack(">H", _INSERTED_VALUES) + b"".join(chain(*zip(lengths, parts, strict=True)))


def pieces(rows: Mapping[Any, Sequence[Inserted]]) -> Iterator[Sequence[Inserted]]:
    """The rows of each minute in pieces of a size that one mutation carries well."""
    for of_minute in rows.values():
        longest = max(len(batch.values) for batch, _ in of_minute)
        step = max(1, min(ROWS_A_PIECE, _CHARACTERS_A_PIECE // longest))
        for i in range(0, len(of_minute), step):
            yield of_minute[i : i + step]


def text_of(rows: Iterable[Any]) -> str:
    """One second's canonical text from its rows in any order."""
    ranked = sorted(rows, key=lambda row: row.insert_time.time)
    return join_rows((int(row.start_us), int(row.end_us), row.ec_consumption_values) for row in ranked)


def _batch(device_id: str, second: int, row: Any) -> Batch:
    return Batch(
        device_id,
        second,
        int(row.start_us),
        int(row.end_us),
        row.ec_consumption_values,
        row.values_count,
        row.values_checksum,
    )
