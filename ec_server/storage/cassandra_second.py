"""Combines what is stored of one second, rows from the driver and decoded blocks; pure.

Rules:

1. A row may be in ``ec_consumption``, in a block, or in both, and a second may have several blocks, as no
   transaction spans the two tables. Rows of the same key are the same row: the one of the highest rank
   counts, and of equal ranks the packed one. So copies that are left over or reappear change nothing.
2. A block that cannot be decoded is treated as absent, and reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ec_server.packing.block import Block
from ec_server.storage.merge import in_rank
from ec_server.storage.timeuuid import microseconds
from utilities.checksum_util import join_rows, md5_hex
from utilities.model import Batch, StoredRow
from utilities.utc import ec_date, ec_time

Place = tuple[int, int]
"""``(start_us, end_us)``: a row's key within its second."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """One row of ``ec_block``."""

    block_id: str
    block: Block | None
    """None if it cannot be decoded."""
    damage: str = ""
    """Why it cannot be decoded."""


@dataclass(frozen=True, slots=True)
class SecondRows:
    """One second of one device."""

    device_id: str
    second: int
    loose: Sequence[Any] = ()
    """Rows of ``ec_consumption``, in any order."""
    blocks: Sequence[StoredBlock] = ()

    def text(self) -> str:
        """The second's canonical text."""
        if not self.blocks:
            return text_of(self.loose)
        if not self.loose and len(self.blocks) == 1:
            block = self.blocks[0].block
            return block.second_text() if block is not None else ""
        rows = self.stored()
        return join_rows((row.batch.start_us, row.batch.end_us, row.batch.values) for row in rows)

    def stored(self) -> list[StoredRow]:
        """The rows, lowest rank first."""
        loose = [stored_row(self.device_id, self.second, row) for row in self.loose]
        packed = self.packed()
        if not packed:
            return in_rank(loose)
        newer = [row for row in loose if is_newer(row, packed)]
        replaced = {place_of(row) for row in newer}
        return in_rank([*newer, *(row for place, row in packed.items() if place not in replaced)])

    def packed(self) -> dict[Place, StoredRow]:
        """The rows that are in blocks."""
        found: dict[Place, StoredRow] = {}
        for one in self.blocks:
            for row in one.block.stored() if one.block is not None else ():
                if is_newer(row, found):
                    found[place_of(row)] = row
        return found

    def damage(self) -> tuple[str, str] | None:
        """``(table, what is damaged in it)``; None if nothing is."""
        moment = f"{ec_date(self.second)} {ec_time(self.second)}"
        for row in self.loose:
            if md5_hex(text_in(row)) != row.values_checksum:
                return (
                    "ec_consumption",
                    f"the row of {moment} at {row.start_us} us does not match its checksum",
                )
        for one in self.blocks:
            if one.block is None:
                return "ec_block", f"the packed second {moment} cannot be read: {one.damage}"
        return None

    def damaged_blocks(self) -> list[str]:
        """The ids of blocks that cannot be decoded."""
        return [one.block_id for one in self.blocks if one.block is None]


def partition(device_id: str, second: int) -> tuple[str, str, str]:
    """The partition key of a second's minute, in each table that holds rows."""
    return device_id, ec_date(second), ec_time(second)[:4]


def place_of(row: StoredRow) -> Place:
    """A row's key within its second."""
    return row.batch.start_us, row.batch.end_us


def is_newer(row: StoredRow, others: dict[Place, StoredRow]) -> bool:
    """Whether the others have no row of its key, or one of a lower rank."""
    other = others.get(place_of(row))
    return other is None or other.rank < row.rank


def text_of(rows: Iterable[Any]) -> str:
    """One second's canonical text from its rows in any order."""
    ranked = sorted(rows, key=lambda row: (rank_in(row), row.start_us, row.end_us))
    return join_rows((us_in(row.start_us), us_in(row.end_us), text_in(row)) for row in ranked)


def is_whole(batch: Batch) -> bool:
    """Whether a row's text matches its checksum."""
    return md5_hex(batch.values) == batch.checksum


def text_in(row: Any) -> str:
    """A stored text as ASCII, even if another program has changed it or left it out."""
    text: str = row.ec_consumption_values or ""
    return text if text.isascii() else text.encode("ascii", "replace").decode("ascii")


def us_in(text: str) -> int:
    """A stored microsecond; 0 if another program wrote anything else."""
    return int(text) if text.isdecimal() else 0


def rank_in(row: Any) -> int:
    """A stored row's rank. Rows of version 1.0 have none; their insert time is used."""
    if row.rank is not None:
        return int(row.rank)
    return microseconds(row.insert_time) if row.insert_time is not None else 0


def stored_row(device_id: str, second: int, row: Any) -> StoredRow:
    """A row of ``ec_consumption`` or ``ec_replaced`` as a StoredRow."""
    batch = Batch(
        device_id,
        second,
        us_in(row.start_us),
        us_in(row.end_us),
        text_in(row),
        row.values_count or 0,
        row.values_checksum or "",
    )
    inserted_us = microseconds(row.insert_time) if row.insert_time is not None else 0
    return StoredRow(batch, inserted_us, rank_in(row))
