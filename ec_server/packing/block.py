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
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
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
from utilities.model import Batch, StoredRow


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
_MD5_BYTES, _CHECKSUM_BYTES = 16, 32
_PARTS = 8
_EMPTY_MD5 = hashlib.md5(usedforsecurity=False)
"""Copied, as that takes a third of the time of making one."""
_batch_of: Callable[[tuple[object, ...]], Batch] = partial(tuple.__new__, Batch)
_stored_of: Callable[[tuple[object, ...]], StoredRow] = partial(tuple.__new__, StoredRow)
"""From their fields, in a third of the time of a call by name."""


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
        """The rows as they were packed, in order of rank, then of their key."""
        _, _, order = self._spans()
        return [Row(*stored, tie) for stored, tie in zip(self.stored(), self.ties[order].tolist())]

    def stored(self) -> list[StoredRow]:
        """The rows as they were stored, in order of rank, then of their key."""
        first, last, order = self._spans()
        text, view = self.text.decode("ascii"), memoryview(self.text)
        begins, ends = self.places[first].tolist(), (self.places[last] - 1).tolist()
        batches = map(
            _batch_of,
            zip(
                repeat(self.device_id),
                repeat(self.second),
                self.us[first].tolist(),
                self.us[last - 1].tolist(),
                [text[begin:end] for begin, end in zip(begins, ends)],
                (last - first).tolist(),
                [_md5_of(view[begin:end]).hexdigest() for begin, end in zip(begins, ends)],
            ),
        )
        moments = (self.inserted_us[order].tolist(), self.ranks[order].tolist())
        return list(map(_stored_of, zip(batches, *moments)))

    def _spans(self) -> tuple[Numbers, Numbers, Numbers | slice]:
        """Each row's first sample, the one after its last, and its place in the block, in order of rank."""
        last = np.cumsum(self.counts)
        first = last - self.counts
        if (self.ranks[1:] > self.ranks[:-1]).all():
            return first, last, slice(None)
        order = np.lexsort((self.ties, self.us[last - 1], self.us[first], self.ranks))
        return first[order], last[order], order

    def second_text(self) -> str:
        """The second's canonical text, ascending in the microsecond, the highest rank winning."""
        if (self.us[1:] > self.us[:-1]).all():
            return self.text.decode("ascii")
        rows = self.stored()
        return join_rows((row.batch.start_us, row.batch.end_us, row.batch.values) for row in rows)


class Columns(NamedTuple):
    """Rows of one second of one device, in columns: an entry for each row, in the block's order."""

    device_id: str
    second: int
    text: bytes
    """Canonical text of all rows, joined by ``;``."""
    checksums: bytes
    """What each row states as the MD5 of its text, 32 hexadecimal digits each."""
    lengths: Numbers
    """Bytes of each row's text."""
    starts_us: Numbers
    ends_us: Numbers
    counts: Numbers
    inserted_us: Numbers
    ranks: Numbers
    ties: Numbers


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
    block = _pack_all(rows)
    if block is not None:
        return Packed(block, [])
    alone = [_pack_all([row]) is not None for row in rows]
    good = [row for row, can_be in zip(rows, alone) if can_be]
    left = [row for row, can_be in zip(rows, alone) if not can_be]
    return Packed(_pack_all(good) if good else None, left)


def pack_columns(rows: Columns) -> bytes | None:
    """The same of rows in columns: a block of all of them; None where some row is not as it should be."""
    samples = scan(rows.text)
    if samples is None or not _are_sound(rows, samples):
        return None
    parts = [
        rows.device_id.encode("ascii"),
        _HEADER.pack(rows.second, len(rows.counts), len(samples.us)),
        int_column.encode(rows.counts),
        int_column.encode(rows.inserted_us),
        int_column.encode(rows.ranks - rows.inserted_us),
        int_column.encode(rows.ties),
        clock.encode(samples.us),
    ]
    for values in value_column.candidates(rows.text, samples):
        body = bytes([_VERSION]) + join_parts([*parts, values])
        if _gives_back(body, rows):
            return body + hashlib.md5(body, usedforsecurity=False).digest()
    return None


def unpack(data: bytes) -> Block:
    """A block's content. Raises BlockError where it is damaged or of an unknown version."""
    body = data[:-_MD5_BYTES]
    if hashlib.md5(body, usedforsecurity=False).digest() != data[-_MD5_BYTES:]:
        raise BlockError(f"a block of {len(data)} bytes does not fit its checksum: it is damaged")
    if body[0] != _VERSION:
        raise BlockError(f"a block is of version {body[0]}; this program knows version {_VERSION}")
    return _decoded(body)


def _decoded(body: bytes) -> Block:
    """A block without its checksum. Raises BlockError where it is no such."""
    try:
        return _decode(body)
    except (ValueError, IndexError, OverflowError, struct.error, zstandard.ZstdError) as error:
        raise BlockError(f"a block of {len(body)} bytes cannot be decoded: {error}") from error


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


def _by_start(row: Row) -> tuple[int, int, int]:
    return row.batch.start_us, row.rank, row.tie


def _pack_all(rows: Sequence[Row]) -> bytes | None:
    """A block of all the rows; None where some row is not as it should be."""
    starts = [row.batch.start_us for row in rows]
    ordered = rows if all(map(lt, starts, starts[1:])) else sorted(rows, key=_by_start)
    batches = [row.batch for row in ordered]
    try:
        text = ";".join([batch.values for batch in batches]).encode("ascii")
        checksums = "".join([batch.checksum for batch in batches]).encode("ascii")
    except UnicodeEncodeError:
        return None
    if any(len(batch.checksum) != _CHECKSUM_BYTES for batch in batches):
        return None
    numbers = (
        [len(batch.values) for batch in batches],
        [batch.start_us for batch in batches],
        [batch.end_us for batch in batches],
        [batch.count for batch in batches],
        [row.inserted_us for row in ordered],
        [row.rank for row in ordered],
        [row.tie for row in ordered],
    )
    columns = [np.array(column, np.int64) for column in numbers]
    return pack_columns(Columns(*batches[0][:2], text, checksums, *columns))


def _are_sound(rows: Columns, samples: Samples) -> bool:
    """Whether what a block does not store can be computed from what it does."""
    last = np.cumsum(rows.counts)
    if (rows.counts < 1).any() or int(last[-1]) != len(samples.us):
        return False
    first = last - rows.counts
    rises = samples.us[1:] > samples.us[:-1]
    rises[first[1:] - 1] = True
    text_ends = np.cumsum(rows.lengths + 1) - 1
    return bool(
        rises.all()
        and (samples.us[first] == rows.starts_us).all()
        and (samples.us[last - 1] == rows.ends_us).all()
        and (samples.ends[last - 1] == text_ends).all()
        and _checksums(rows.text, text_ends - rows.lengths, text_ends) == rows.checksums
    )


def _md5_of(text: memoryview) -> hashlib._Hash:
    digest = _EMPTY_MD5.copy()
    digest.update(text)
    return digest


def _checksums(text: bytes, begins: Numbers, ends: Numbers) -> bytes:
    """The MD5 of each row's text, in hexadecimal digits."""
    view, found = memoryview(text), []
    for begin, end in zip(begins.tolist(), ends.tolist()):
        found.append(_md5_of(view[begin:end]).digest())
    return b"".join(found).hex().encode("ascii")


def _gives_back(body: bytes, rows: Columns) -> bool:
    """Whether a block, decoded, is these rows."""
    try:
        block = _decoded(body)
    except BlockError:
        return False
    found = (block.counts, block.inserted_us, block.ranks, block.ties)
    return (
        (block.device_id, block.second) == (rows.device_id, rows.second)
        and block.text == rows.text
        and all(
            np.array_equal(one, other)
            for one, other in zip(found, (rows.counts, rows.inserted_us, rows.ranks, rows.ties))
        )
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
