"""Packs the rows of a minute into blocks: writes them, reads them back, and only then deletes the rows.

Rules:

1. The order is: write the blocks, read them back, name this packing in the blocks' partition, and then, in
   one mutation, delete the rows and name the packing in their partition. If it is interrupted anywhere, rows
   and blocks hold the same data, and the next packing continues. Proof stays valid throughout
   (cassandra_minutes.py, rule 7).
2. A deletion in Cassandra hides everything with a lower write timestamp, including what arrives later. So
   before it reads the rows, a packing stores up to which timestamp it may delete (``packed_until``, with the
   rows), and then checks for leases: if somebody holds the minute, it is packed later. A writer does the
   opposite: it takes the lease first, then reads ``packed_until``, and writes only above it
   (cassandra_claims.py). So at least one of the two sees the other.
3. Rows of a second are deleted up to the highest write timestamp that was packed: a row that has arrived
   since is above it. If some rows of a second are not packed, each packed row is deleted by its key.
4. A row that a block could not reproduce byte for byte stays a row: rows that other programs wrote in
   another form, and damaged ones.
5. Versions and leases do not change. A minute is packed if its versions are those at which it was packed;
   any write changes them.
6. A deleted row that reappears, because a node was down for longer than ``gc_grace_seconds``, has the key and
   rank of a row in the block: it is the same row (cassandra_second.py, rule 1), and the next packing of its
   minute deletes it. So only other deletions depend on that time (docs/storage-cassandra.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from ec_server.packing.block import Row, pack
from ec_server.storage.cassandra_blocks import Blocks, NewBlock
from ec_server.storage.cassandra_claims import Claims
from ec_server.storage.cassandra_clock import Stamps
from ec_server.storage.cassandra_minutes import MinuteLines
from ec_server.storage.cassandra_record import Records
from ec_server.storage.cassandra_second import (
    Place,
    SecondRows,
    StoredBlock,
    is_newer,
    partition,
    place_of,
    stored_row,
)
from ec_server.storage.contract import Packed
from ec_server.storage.timeuuid import timeuuid
from utilities.cassandra_util import Database
from utilities.cassandra_values import Statement
from utilities.errors import RetryableStorageError
from utilities.model import StoredRow
from utilities.utc import MINUTE_S, ec_date, ec_time, is_ec_time, minute_text, parse_ec

_CELLS = ("ec_consumption_values", "values_count", "values_checksum", "insert_time", "rank")
_WRITTEN = ", ".join(f"WRITETIME({cell}) AS w{i}" for i, cell in enumerate(_CELLS))
_ROWS = (
    f"SELECT ec_time, start_us, end_us, {', '.join(_CELLS)}, {_WRITTEN} FROM ec_consumption"  # noqa: S608
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ? AND ec_time >= ? AND ec_time <= ?"
)
_PARTITION = "device_id = ? AND ec_date = ? AND ec_minute = ?"
_SET = "UPDATE ec_consumption USING TTL ? AND TIMESTAMP ? SET"
_ANNOUNCE = f"{_SET} packed_until = ? WHERE {_PARTITION}"
_END = f"{_SET} last_packing = ? WHERE {_PARTITION}"
_END_WITHOUT_PROOF = f"{_SET} last_packing = ?, digest_proof = null, state_proof = null WHERE {_PARTITION}"
_DELETE_SECOND = f"DELETE FROM ec_consumption USING TIMESTAMP ? WHERE {_PARTITION} AND ec_time = ?"  # noqa: S608
_DELETE_ROW = f"{_DELETE_SECOND} AND start_us = ? AND end_us = ?"


class _Gone(NamedTuple):
    """A row of ``ec_consumption`` that is also in a block."""

    written: int
    """Its write timestamp."""
    start_us: str
    end_us: str


@dataclass(frozen=True, slots=True)
class SecondPlan:
    """What to do with one second."""

    second: int
    block: bytes | None = None
    """The block to write; None if the existing blocks hold everything."""
    block_rows: int = 0
    block_samples: int = 0
    obsolete: tuple[str, ...] = ()
    """Ids of the blocks whose rows are all in the new one."""
    gone: Sequence[_Gone] = ()
    """The rows that are in blocks afterwards, to be deleted."""
    gone_samples: int = 0
    left: int = 0
    """Rows that cannot be packed."""

    @property
    def changes_anything(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.block or self.gone)

    @property
    def latest(self) -> int:
        """The highest write timestamp of the rows to delete."""
        return max((row.written for row in self.gone), default=0)


class Packing:
    """Packs minutes. The store calls it while it holds its lock."""

    def __init__(
        self,
        database: Database,
        blocks: Blocks,
        records: Records,
        claims: Claims,
        stamps: Stamps,
        ttl_s: Callable[[int], int],
    ) -> None:
        """``ttl_s`` gives the seconds that data of a moment's day is kept; 0 means forever."""
        self._db = database
        self._blocks = blocks
        self._records = records
        self._claims = claims
        self._stamps = stamps
        self._ttl_s = ttl_s

    def pack_minute(self, device_id: str, minute: int) -> Packed:
        """Pack a minute's rows, unless somebody may be writing to it."""
        key = (device_id, minute)
        self._claims.release([key])
        self._claims.look([key])  # makes every later stamp higher than what was read
        before = self._records.of_minute(device_id, minute)
        if not before.was_written or before.is_leased:
            return Packed()
        for _ in range(2):
            packing = self._stamps.next()
            self._announce(device_id, minute, packing)
            lines = self._with_proof(device_id, minute)
            if lines.is_leased or lines.fingerprint != before.fingerprint:
                return Packed()
            plans = list(self._plans(device_id, minute))
            latest = max((one.latest for one in plans), default=0)
            if latest <= packing:
                return self._apply(device_id, lines, plans, packing)
            self._stamps.saw(latest)  # a writer that died, whose clock was ahead, may have written rows
        return Packed()

    def _apply(self, device_id: str, lines: MinuteLines, plans: Sequence[SecondPlan], packing: int) -> Packed:
        to_do = [one for one in plans if one.changes_anything]
        if to_do:
            self._exchange(device_id, lines, to_do, packing)
        self._records.packed(device_id, lines)
        return Packed(
            sum(len(one.gone) for one in plans),
            sum(one.gone_samples for one in plans),
            sum(one.left for one in plans),
        )

    def _announce(self, device_id: str, minute: int, until: int) -> None:
        """Store up to which write timestamp rows may be deleted from now on (rule 2)."""
        values = (self._ttl_s(minute), until, until, *partition(device_id, minute))
        self._db.write([[Statement(_ANNOUNCE, values)]])

    def _with_proof(self, device_id: str, minute: int) -> MinuteLines:
        lines = self._records.of_minute(device_id, minute)
        return self._records.with_proof(device_id, {minute: lines})[minute]

    # --- what to do -----------------------------------------------------------------------

    def _plans(self, device_id: str, minute: int) -> Iterator[SecondPlan]:
        """Reads rows first, then blocks (cassandra_blocks.py, rule 2)."""
        with_rows = set()
        for second, rows in self._seconds_with_rows(device_id, minute):
            with_rows.add(second)
            yield self._plan(device_id, second, rows)
        for second in self._blocks.seconds_with_several(device_id, minute):
            if second not in with_rows:
                yield self._plan(device_id, second, ())

    def _plan(self, device_id: str, second: int, rows: Sequence[Any]) -> SecondPlan:
        (blocks,) = self._blocks.of_seconds([(device_id, second)])
        return plan_of_second(SecondRows(device_id, second, rows, blocks))

    def _seconds_with_rows(self, device_id: str, minute: int) -> Iterator[tuple[int, list[Any]]]:
        date, of_minute = ec_date(minute), partition(device_id, minute)
        found = self._db.read(_ROWS, *of_minute, ec_time(minute), ec_time(minute + MINUTE_S - 1))
        readable = (row for row in found if is_ec_time(row.ec_time))
        for text, rows in groupby(readable, key=lambda row: row.ec_time):
            yield parse_ec(date, text), list(rows)

    # --- doing it -------------------------------------------------------------------------

    def _exchange(
        self, device_id: str, lines: MinuteLines, plans: Sequence[SecondPlan], packing: int
    ) -> None:
        minute = lines.minute
        block_id = f"{packing:016d}-{self._claims.writer}"
        made = [
            NewBlock(one.second, block_id, one.block_rows, one.block_samples, one.block)
            for one in plans
            if one.block is not None
        ]
        self._blocks.write(device_id, made, packing)
        if not self._blocks.are_as_written(device_id, made):
            raise RetryableStorageError(
                f"blocks of {device_id}, {minute_text(minute)}, differ from what was written;"
                " their rows are kept and packed later"
            )
        self._blocks.complete(
            device_id, minute, packing, lines.last_packing if lines.has_its_blocks else None
        )
        self._db.write([list(self._deletions(device_id, lines, plans, packing))])
        obsolete = [(one.second, other) for one in plans for other in one.obsolete]
        self._blocks.remove(device_id, obsolete, self._stamps.next())

    def _deletions(
        self, device_id: str, lines: MinuteLines, plans: Sequence[SecondPlan], packing: int
    ) -> Iterator[Statement]:
        """Rule 3. If blocks had disappeared, this also removes the proof, which packing must not restore."""
        where = partition(device_id, lines.minute)
        for one in plans:
            of_second = (*where, ec_time(one.second))
            if one.gone and not one.left:
                yield Statement(_DELETE_SECOND, (one.latest, *of_second))
            else:
                for row in one.gone:
                    yield Statement(_DELETE_ROW, (row.written, *of_second, row.start_us, row.end_us))
        cql = _END if lines.has_its_blocks else _END_WITHOUT_PROOF
        yield Statement(cql, (self._ttl_s(lines.minute), packing, packing, *where))


def plan_of_second(second: SecondRows) -> SecondPlan:
    """How to pack a second; pure. Blocks that cannot be decoded are left alone."""
    readable = [one for one in second.blocks if one.block is not None]
    packed = SecondRows(second.device_id, second.second, (), readable).packed()
    rows = [(row, stored_row(second.device_id, second.second, row)) for row in second.loose]
    own = [
        (row, stored)
        for row, stored in rows
        if is_in_its_own_form(row, stored) and not _is_another(stored, packed)
    ]
    new = [stored for _, stored in own if is_newer(stored, packed)]
    if not new and len(readable) < 2:
        return SecondPlan(second.second, **_gone(own), left=len(rows) - len(own))
    merged = packed | {place_of(stored): stored for stored in new}
    data, unpackable = pack([Row(*stored) for stored in merged.values()])
    stay = {(row.batch.start_us, row.batch.end_us) for row in unpackable}
    if data is None:
        return SecondPlan(second.second, left=len(rows))
    gone = [(row, one) for row, one in own if place_of(one) not in stay or not is_newer(one, packed)]
    inside = [stored for place, stored in merged.items() if place not in stay]
    return SecondPlan(
        second.second,
        data,
        len(inside),
        sum(stored.batch.count for stored in inside),
        _obsolete(readable, packed, stay),
        **_gone(gone),
        left=len(rows) - len(gone),
    )


def _gone(rows: Sequence[tuple[Any, StoredRow]]) -> dict[str, Any]:
    return {
        "gone": [_Gone(row.w0, row.start_us, row.end_us) for row, _ in rows],
        "gone_samples": sum(stored.batch.count for _, stored in rows),
    }


def _is_another(row: StoredRow, packed: dict[Place, StoredRow]) -> bool:
    """Whether a packed row has the same key and rank but other samples: then this row cannot be packed."""
    other = packed.get(place_of(row))
    return other is not None and other.rank == row.rank and other.batch != row.batch


def _obsolete(
    readable: Sequence[StoredBlock], packed: dict[Place, StoredRow], stay: set[Place]
) -> tuple[str, ...]:
    """The blocks that the new one replaces: all, unless it lacks a row that was packed."""
    return () if stay & packed.keys() else tuple(one.block_id for one in readable)


def is_in_its_own_form(row: Any, stored: StoredRow) -> bool:
    """Whether this server wrote the row, in one write, so that a block can reproduce it."""
    return (
        (row.start_us, row.end_us) == (f"{stored.batch.start_us:06d}", f"{stored.batch.end_us:06d}")
        and row.ec_consumption_values == stored.batch.values
        and row.values_count is not None
        and row.insert_time == timeuuid(stored.inserted_us)
        and row.w0 is not None
        and row.w0 == row.w1 == row.w2 == row.w3
        and row.w4 in (row.w0, None)
    )
