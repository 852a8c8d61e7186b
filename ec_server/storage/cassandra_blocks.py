"""The table ``ec_block``: packed seconds, in the format of docs/block-format.md.

Rules:

1. A block is never overwritten: each has an id of its own, and a second may have several blocks. A block is
   deleted only after another one that holds all its rows was read back (cassandra_packing.py). So nothing is
   lost if servers pack the same minute at the same time.
2. A reader reads the rows of ``ec_consumption`` first, then the blocks: a row is deleted from that table
   only after its block is stored.
3. ``last_packing`` is stored once per partition, here and in ``ec_consumption``: it says up to which packing
   the blocks are complete. If the rows' partition names a packing that the blocks do not know, blocks have
   disappeared or reverted to an older state, and the minute's proof is void (cassandra_minutes.py, rule 7).
4. A block that cannot be decoded is set aside when its second is repaired: it is kept, and ignored.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ec_server.packing.block import unpack
from ec_server.storage.cassandra_second import StoredBlock, partition
from ec_server.storage.timeuuid import timeuuid
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.errors import BlockError
from utilities.utc import ec_date, ec_time, is_ec_time, parse_ec

_PARTITION = "device_id = ? AND ec_date = ? AND ec_minute = ?"
_BLOCKS = (
    "SELECT ec_time, block_id, block, replaced_time FROM ec_block"  # noqa: S608
    f" WHERE {_PARTITION} AND ec_time >= ? AND ec_time <= ?"
)
_BLOCK = f"SELECT block FROM ec_block WHERE {_PARTITION} AND ec_time = ? AND block_id = ?"  # noqa: S608
_COUNTS = f"SELECT ec_time, row_count, values_count, replaced_time FROM ec_block WHERE {_PARTITION}"  # noqa: S608
_WRITE = (
    "INSERT INTO ec_block (device_id, ec_date, ec_minute, ec_time, block_id, row_count, values_count, block)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?"
)
_COMPLETE = (
    "UPDATE ec_block USING TTL ? AND TIMESTAMP ? SET last_packing = ?, earlier_packing = ?"  # noqa: S608
    f" WHERE {_PARTITION}"
)
_DELETE = f"DELETE FROM ec_block USING TIMESTAMP ? WHERE {_PARTITION} AND ec_time = ? AND block_id = ?"  # noqa: S608
_DELETE_ALL = f"DELETE FROM ec_block USING TIMESTAMP ? WHERE {_PARTITION}"  # noqa: S608
_SET_ASIDE = (
    "UPDATE ec_block USING TTL ? AND TIMESTAMP ? SET replaced_time = ?"  # noqa: S608
    f" WHERE {_PARTITION} AND ec_time = ? AND block_id = ?"
)
_SECONDS_AT_ONCE = 15
"""Blocks per request: the largest seconds of a whole minute would be 40 MB."""


class NewBlock(NamedTuple):
    """A block to write."""

    second: int
    block_id: str
    rows: int
    samples: int
    data: bytes


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """The counts stored with a minute's blocks; a row may be counted in several blocks."""

    seconds: int = 0
    blocks: int = 0
    rows: int = 0
    samples: int = 0


class Blocks:
    """Reads and writes blocks."""

    def __init__(self, database: Database, ttl_s: Callable[[int], int]) -> None:
        """``ttl_s`` gives the seconds that data of a moment's day is kept; 0 means forever."""
        self._db = database
        self._ttl_s = ttl_s

    # --- reading --------------------------------------------------------------------------

    def of_span(self, device_id: str, first: int, last: int) -> dict[int, list[StoredBlock]]:
        """The blocks of seconds ``first`` to ``last`` of one minute, by their second."""
        found: dict[int, list[StoredBlock]] = {}
        for start in range(first, last + 1, _SECONDS_AT_ONCE):
            stop = min(last, start + _SECONDS_AT_ONCE - 1)
            for row in self._db.read(_BLOCKS, *partition(device_id, start), ec_time(start), ec_time(stop)):
                if row.replaced_time is None and is_ec_time(row.ec_time):
                    second = parse_ec(ec_date(start), row.ec_time)
                    found.setdefault(second, []).append(_stored(device_id, second, row))
        return found

    def of_seconds(self, seconds: Sequence[tuple[str, int]]) -> list[list[StoredBlock]]:
        """The blocks of several ``(device, second)``, read concurrently."""
        wanted = [(*partition(*one), ec_time(one[1]), ec_time(one[1])) for one in seconds]
        return [
            [_stored(*one, row) for row in rows if row.replaced_time is None]
            for one, rows in zip(seconds, self._db.read_each(_BLOCKS, wanted))
        ]

    def counts(self, device_id: str, minutes: Sequence[int]) -> list[BlockCounts]:
        """The counts of the blocks of each minute."""
        wanted = [partition(device_id, minute) for minute in minutes]
        return [_counted(rows) for rows in self._db.read_each(_COUNTS, wanted)]

    def has_any(self, device_id: str, minute: int) -> bool:
        """Whether the minute has a block."""
        return self.counts(device_id, [minute])[0].blocks > 0

    def seconds_with_several(self, device_id: str, minute: int) -> list[int]:
        """The seconds of a minute that have more than one block, ascending."""
        rows = self._db.read(_COUNTS, *partition(device_id, minute))
        times = Counter(row.ec_time for row in rows if _is_valid(row) and is_ec_time(row.ec_time))
        return sorted(parse_ec(ec_date(minute), text) for text, count in times.items() if count > 1)

    # --- writing --------------------------------------------------------------------------

    def write(self, device_id: str, made: Sequence[NewBlock], stamp: int) -> None:
        """Store new blocks of one device with the write timestamp ``stamp``."""
        self._db.write(
            [Statement(_WRITE, (*_key(device_id, one), one.rows, one.samples, one.data, stamp, ttl_s))]
            for one in made
            for ttl_s in [self._ttl_s(one.second)]
        )

    def are_as_written(self, device_id: str, made: Sequence[NewBlock]) -> bool:
        """Read new blocks back and compare."""
        found = self._db.read_each(_BLOCK, [_key(device_id, one) for one in made])
        return all([row.block for row in rows] == [one.data] for one, rows in zip(made, found))

    def complete(self, device_id: str, minute: int, packing: int, before: int | None) -> None:
        """Record that the blocks are complete up to ``packing``; ``before`` is the one the rows name now."""
        values = (self._ttl_s(minute), packing, packing, before, *partition(device_id, minute))
        self._db.write([[Statement(_COMPLETE, values)]])

    def remove(self, device_id: str, obsolete: Sequence[tuple[int, str]], stamp: int) -> None:
        """Delete blocks of one minute, ``(second, block_id)``, whose rows are all in other blocks."""
        self._db.write(
            [[Statement(_DELETE, (stamp, *partition(device_id, s), ec_time(s), one)) for s, one in obsolete]]
            if obsolete
            else []
        )

    def set_aside(self, device_id: str, second: int, block_ids: Iterable[str], stamp: int) -> list[Statement]:
        """Statements that make damaged blocks be ignored; part of the mutation that repairs the second."""
        moment, ttl_s = timeuuid(time.time_ns() // 1000), self._ttl_s(second)
        where = (*partition(device_id, second), ec_time(second))
        return [Statement(_SET_ASIDE, (ttl_s, stamp, moment, *where, one)) for one in block_ids]

    def remove_minute(self, device_id: str, minute: int, ceiling: int) -> Statement:
        """A statement that deletes every block of a minute with a write timestamp below ``ceiling``."""
        return Statement(_DELETE_ALL, (ceiling, *partition(device_id, minute)))


def _counted(rows: Sequence[Any]) -> BlockCounts:
    valid = [row for row in rows if _is_valid(row)]
    return BlockCounts(
        len({row.ec_time for row in valid}),
        len(valid),
        sum(row.row_count for row in valid),
        sum(row.values_count or 0 for row in valid),
    )


def _is_valid(row: Any) -> bool:
    """Whether the row is a block: a partition with only static columns gives a row of nulls."""
    return row.row_count is not None and row.replaced_time is None


def _key(device_id: str, one: NewBlock) -> tuple[str, str, str, str, str]:
    return (*partition(device_id, one.second), ec_time(one.second), one.block_id)


def _stored(device_id: str, second: int, row: Any) -> StoredBlock:
    try:
        block = unpack(row.block or b"")
        if (block.device_id, block.second) != (device_id, second):
            return StoredBlock(row.block_id, None, f"it is the block of {block.device_id}, {block.second}")
    except BlockError as error:
        return StoredBlock(row.block_id, None, str(error))
    return StoredBlock(row.block_id, block)
