"""One second of one device as a block: rows in, bytes out, and back to the last byte; pure.

A block is::

    version   u8, 1
    parts     each u32 length and bytes; see packing/parts.py
        device    ASCII
        header    second (i64, epoch), rows (u32), samples (u32)
        counts    samples of each row, a column of whole numbers
        inserted  each row's moment of insertion
        ranks     each row's rank less its moment of insertion
        ties      what tells apart rows of equal rank where the engine does, else 0
        clock     each sample's microsecond; see packing/clock.py
        values    each sample's value; see packing/value_column.py
    md5       16 bytes: the MD5 of everything before

Rows stand in order of start_us, those of one start_us in order of rank and tie. What can be computed is not
stored: start_us and end_us are a row's first and last microsecond, values_count its samples, values_checksum
the MD5 of its text. A row of which this is not true, because another program wrote or damaged it, cannot be
packed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from operator import lt
from typing import NamedTuple

import numpy as np
import zstandard

from ec_server.packing import clock, int_column, value_column
from ec_server.packing.exceptions import Values
from ec_server.packing.number_scan import Samples, scan
from ec_server.packing.number_text import Numbers, Words, join_samples
from ec_server.packing.parts import join_parts, split_parts
from utilities.checksum_util import join_rows
from utilities.errors import BlockError
from utilities.model import Batch


class Row(NamedTuple):
    """A stored row as a block keeps it; ``Row(*stored)`` of a StoredRow."""

    batch: Batch
    inserted_us: int
    """Moment of insertion, epoch microseconds."""
    rank: int
    tie: int = 0
    """Tells apart rows of equal rank, where the engine does; among themselves they rank by their key."""


_VERSION = 1
_HEADER = struct.Struct("<qII")
_MD5_BYTES = 16
_PARTS = 8


class Block(NamedTuple):
    """A decoded block."""

    device_id: str
    second: int
    text: bytes
    """Canonical text of all rows, in the block's order, joined by ``;``."""
    counts: Numbers
    """Samples of each row."""
    inserted_us: Numbers
    ranks: Numbers
    ties: Numbers
    us: Numbers
    """Microsecond of each sample."""
    places: Numbers
    """Where each sample begins in the text; the last one is the text's end plus 1."""

    def rows(self) -> list[Row]:
        """The rows as they were stored, in order of rank, then of their key."""
        md5, text = hashlib.md5, self.text
        last = np.cumsum(self.counts)
        first = last - self.counts
        columns = (
            self.places[first],
            self.places[last] - 1,
            self.us[first],
            self.us[last - 1],
            self.counts,
            self.inserted_us,
            self.ranks,
            self.ties,
        )
        rows: list[Row] = []
        for begin, end, start_us, end_us, count, *order in zip(*(c.tolist() for c in columns)):
            values = text[begin:end]
            checksum = md5(values, usedforsecurity=False).hexdigest()
            batch = Batch(
                self.device_id, self.second, start_us, end_us, values.decode("ascii"), count, checksum
            )
            rows.append(Row(batch, *order))
        if not (self.ranks[1:] > self.ranks[:-1]).all():
            rows.sort(key=_by_rank)
        return rows

    def second_text(self) -> str:
        """The second's canonical text, ascending in the microsecond, the highest rank winning."""
        if (self.us[1:] > self.us[:-1]).all():
            return self.text.decode("ascii")
        rows = self.rows()
        return join_rows((row.batch.start_us, row.batch.end_us, row.batch.values) for row in rows)


class Packed(NamedTuple):
    """What became of some rows."""

    block: bytes | None
    """None where no row can be packed."""
    left: list[Row]
    """Rows that cannot be packed."""


def pack(rows: Sequence[Row]) -> Packed:
    """Rows of one device's second as a block that was decoded again and compared.

    Raises ValueError where they are not of one second of one device.
    """
    if not rows:
        return Packed(None, [])
    if len({row.batch[:2] for row in rows}) > 1:
        raise ValueError("a block holds rows of one second of one device")
    block = _encode(rows)
    if block is not None:
        return Packed(block, [])
    alone = [_encode([row]) is not None for row in rows]
    good = [row for row, can_be in zip(rows, alone) if can_be]
    left = [row for row, can_be in zip(rows, alone) if not can_be]
    return Packed(_encode(good) if good else None, left)


def unpack(data: bytes) -> Block:
    """A block's content. Raises BlockError where it is damaged or of an unknown version."""
    body = data[:-_MD5_BYTES]
    if hashlib.md5(body, usedforsecurity=False).digest() != data[-_MD5_BYTES:]:
        raise BlockError(f"a block of {len(data)} bytes does not fit its checksum: it is damaged")
    if body[0] != _VERSION:
        raise BlockError(f"a block is of version {body[0]}; this program knows version {_VERSION}")
    try:
        return _decode(body)
    except (ValueError, IndexError, OverflowError, struct.error, zstandard.ZstdError) as error:
        raise BlockError(f"a block of {len(data)} bytes cannot be decoded: {error}") from error


def _decode(body: bytes) -> Block:
    device, header, counts, inserted, ranks, ties, times, values = split_parts(body[1:], _PARTS)
    second, row_count, count = _HEADER.unpack(header)
    moments = int_column.decode(inserted, row_count)
    us, heads = clock.decode(times, count)
    text, places = _joined(heads, value_column.decode(values, count))
    return Block(
        device.decode("ascii"),
        second,
        text,
        int_column.decode(counts, row_count),
        moments,
        moments + int_column.decode(ranks, row_count),
        int_column.decode(ties, row_count),
        us,
        places,
    )


def _by_rank(row: Row) -> tuple[int, int, int, int]:
    return row.rank, row.batch.start_us, row.batch.end_us, row.tie


def _by_start(row: Row) -> tuple[int, int, int]:
    return row.batch.start_us, row.rank, row.tie


def _encode(rows: Sequence[Row]) -> bytes | None:
    """A block of the rows that decodes to the same; None where some row is not as it should be."""
    starts = [row.batch.start_us for row in rows]
    ordered = rows if all(map(lt, starts, starts[1:])) else sorted(rows, key=_by_start)
    try:
        text = ";".join([row.batch.values for row in ordered]).encode("ascii")
    except UnicodeEncodeError:
        return None
    samples = scan(text)
    counts = np.array([row.batch.count for row in ordered])
    if samples is None or not _are_sound(ordered, counts, samples, text):
        return None
    batch = ordered[0].batch
    inserted = np.array([row.inserted_us for row in ordered])
    ranks = np.array([row.rank for row in ordered])
    ties = np.array([row.tie for row in ordered])
    parts = [
        batch.device_id.encode("ascii"),
        _HEADER.pack(batch.second, len(ordered), len(samples.us)),
        int_column.encode(counts),
        int_column.encode(inserted),
        int_column.encode(ranks - inserted),
        int_column.encode(ties),
        clock.encode(samples.us),
    ]
    for values in _each_way(text, samples):
        body = bytes([_VERSION]) + join_parts([*parts, values])
        data = body + hashlib.md5(body, usedforsecurity=False).digest()
        if _is_the_same(unpack(data), batch, text, (counts, inserted, ranks, ties)):
            return data
    return None


def _each_way(text: bytes, samples: Samples) -> Iterable[bytes]:
    """The values by each codec that suits them, smallest first, and in the end as text."""
    yield from value_column.candidates(text, samples)
    yield value_column.as_text(text, samples)


def _are_sound(rows: Sequence[Row], counts: Numbers, samples: Samples, text: bytes) -> bool:
    """Whether what a block does not store can be computed from what it does."""
    last = np.cumsum(counts)
    if (counts < 1).any() or int(last[-1]) != len(samples.us):
        return False
    first = last - counts
    rises = samples.us[1:] > samples.us[:-1]
    rises[first[1:] - 1] = True
    batches = [row.batch for row in rows]
    return bool(
        rises.all()
        and (samples.us[first] == [batch.start_us for batch in batches]).all()
        and (samples.us[last - 1] == [batch.end_us for batch in batches]).all()
        and _fit_checksums(batches, samples.ends[last - 1].tolist(), text)
    )


def _fit_checksums(batches: Sequence[Batch], ends: Sequence[int], text: bytes) -> bool:
    """Whether each row's text ends where its samples do, and has the MD5 that the row states."""
    md5, begin = hashlib.md5, 0
    for batch, end in zip(batches, ends):
        values = text[begin:end]
        if (
            len(values) != len(batch.values)
            or batch.checksum != md5(values, usedforsecurity=False).hexdigest()
        ):
            return False
        begin = end + 1
    return True


def _is_the_same(block: Block, batch: Batch, text: bytes, columns: tuple[Numbers, ...]) -> bool:
    found = (block.counts, block.inserted_us, block.ranks, block.ties)
    return (
        (block.device_id, block.second) == batch[:2]
        and block.text == text
        and all(np.array_equal(one, other) for one, other in zip(found, columns))
    )


def _joined(heads: Words, values: Values) -> tuple[bytes, Numbers]:
    """All samples' text, and where each begins in it; the last place is the text's end plus 1."""
    text, places = join_samples(heads, values.words)
    if not values.exceptions:
        return bytes(memoryview(text)[1 : int(places[-1])]), places
    pieces: list[bytes | bytearray] = []
    at = 1
    further = np.zeros_like(places)
    for place, value in values.exceptions:
        cut = int(places[place]) + 8
        pieces += [text[at:cut], value]
        at = cut
        further[place + 1] = len(value)
    pieces.append(text[at : int(places[-1])])
    return b"".join(pieces), places + np.cumsum(further)
