"""The rows of an open day file, from both of its tables, as rows and as canonical text.

Rules:

1. The rowid determines a row's rank (sqlite_rank.py); the clock does not.
2. A row is in ``ec_consumption`` or, packed, in ``ec_block`` (sqlite_day_blocks.py); a second may have rows
   in both. Only the ``sqlite_day`` modules know which.
3. Damaged content of a row never raises an error: whatever is readable is used, the digest reveals the
   rest, and ``on_damage`` is called if the row does not match its own checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import apsw

from ec_server.packing.block import Block
from ec_server.storage.contract import ReplacedRow
from ec_server.storage.sqlite_connection import all_rows
from ec_server.storage.sqlite_day import DayFile, snapshot
from ec_server.storage.sqlite_day_blocks import READABLE_TIME, rows_of
from ec_server.storage.sqlite_rank import is_shared, rank_of
from utilities.checksum_util import join_rows, md5_hex
from utilities.model import Batch, StoredRow
from utilities.utc import MINUTE_S, ec_time, moment_us, parse_ec, parse_iso

_VALUES = (
    "CAST(ec_time AS BLOB), CAST(start_us AS BLOB), CAST(end_us AS BLOB),"
    " CAST(ec_consumption_values AS BLOB), CAST(values_count AS INTEGER),"
    " CAST(values_checksum AS BLOB), CAST(insert_time AS BLOB)"
)
SPAN = "device_id = ? AND ec_date = ? AND ec_time BETWEEN ? AND ?"


class DayRows:
    """Rows and texts of one open day file; raises apsw's errors."""

    def __init__(self, file: DayFile) -> None:
        self._file = file

    def all(self, device_id: str, start: int, stop: int) -> list[StoredRow]:
        """The rows of seconds ``[start, stop)`` of this day, by second, then by rank, ascending."""
        first, last = self._file.span(start, stop)
        rows: list[StoredRow] = []
        with snapshot(self._file.db):
            if not self._file.blocks.exist(device_id, first, last):
                for _, second in groupby(self._loose_rows(device_id, first, last), key=_second):
                    rows += map(_row, _in_order(second))
                return rows
            for time_text, has_loose, has_block in self._seconds(device_id, first, last):
                block = self._file.blocks.of_second(device_id, time_text) if has_block else None
                if block is not None and not has_loose:
                    rows += block.stored()
                else:
                    rows += map(_row, _together(block, self._loose_rows(device_id, time_text, time_text)))
        return rows

    def of_second(self, device_id: str, second: int) -> list[tuple[int, StoredRow]]:
        """Rowid and row of each row of one second, by rank, ascending."""
        time_text = ec_time(second)
        with snapshot(self._file.db):
            block = self._file.blocks.of_second(device_id, time_text)
            return _together(block, self._loose_rows(device_id, time_text, time_text))

    def _seconds(self, device_id: str, first: str, last: str) -> Iterator[tuple[str, bool, bool]]:
        """``ec_time`` of each second that is stored, ascending; whether it has rows, and whether a block."""
        loose = {time_text for (time_text,) in all_rows(self._times(device_id, first, last))}
        packed = set(self._file.blocks.times(device_id, first, last))
        for time_text in sorted(loose | packed):
            yield time_text, time_text in loose, time_text in packed

    def _loose_rows(self, device_id: str, first: str, last: str) -> Iterator[tuple[int, StoredRow]]:
        found = self._file.db.execute(
            f"SELECT {_VALUES}, rowid FROM ec_consumption WHERE {SPAN} ORDER BY ec_time, rowid",  # noqa: S608
            (device_id, self._file.date, first, last),
        )
        for row in found:
            if (stored := self._stored(device_id, row, row[7])) is not None:
                yield row[7], stored

    def _stored(self, device_id: str, row: Sequence[Any], rowid: int) -> StoredRow | None:
        """The row from columns _VALUES, damaged ones as far as they are readable; None if its key is not."""
        time_text, start_us, end_us, values, count, checksum, inserted = row[:7]
        try:
            batch = Batch(
                device_id,
                parse_ec(self._file.date, _readable(time_text)),
                int(start_us),
                int(end_us),
                _readable(values),
                count,
                _readable(checksum),
            )
        except (ValueError, TypeError):
            return None
        try:
            inserted_us = parse_iso(_readable(inserted))
        except ValueError:
            inserted_us = rank_of(rowid)
        return StoredRow(batch, inserted_us, rank_of(rowid) or inserted_us)

    def replaced(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """The replaced rows of seconds ``[start, stop)`` of this day."""
        if self._file.layout == 1:
            return []
        found = self._file.db.execute(
            f"SELECT {_VALUES}, replaced_time, reason FROM ec_replaced WHERE {SPAN} ORDER BY rowid",  # noqa: S608
            (device_id, self._file.date, *self._file.span(start, stop)),
        )
        kept = [(self._stored(device_id, row, 0), row[7], row[8]) for row in found]
        return [ReplacedRow(row, moment_us(moment) or 0, reason) for row, moment, reason in kept if row]

    def texts(
        self, device_id: str, start: int, stop: int, *, trusted: bool = True
    ) -> Iterator[tuple[int, str]]:
        """``(second, canonical text)`` of the non-empty seconds of ``[start, stop)``, ascending.

        Unless ``trusted``, each row is compared with its own checksum.
        """
        first, last = self._file.span(start, stop)
        with snapshot(self._file.db):
            if not self._file.blocks.exist(device_id, first, last):
                yield from self._loose_texts(device_id, first, last, trusted=trusted)
                return
            for time_text, has_loose, has_block in self._seconds(device_id, first, last):
                if not has_block:
                    yield from self._loose_texts(device_id, time_text, time_text, trusted=trusted)
                elif text := self._text_with_block(device_id, time_text, has_loose, trusted=trusted):
                    yield parse_ec(self._file.date, time_text), text

    def _times(self, device_id: str, first: str, last: str) -> apsw.Cursor:
        return self._file.db.execute(
            f"SELECT DISTINCT ec_time FROM ec_consumption WHERE {SPAN} AND {READABLE_TIME}",  # noqa: S608
            (device_id, self._file.date, first, last),
        )

    def _text_with_block(self, device_id: str, time_text: str, has_loose: bool, *, trusted: bool) -> str:
        """The text of a second that has a block, and rows beside it where ``has_loose``."""
        block = self._file.blocks.of_second(device_id, time_text)
        if not has_loose:
            return block.second_text() if block is not None else ""
        loose = list(self._loose_rows(device_id, time_text, time_text))
        if not trusted:
            self._hold_against_checksums(
                device_id,
                parse_ec(self._file.date, time_text),
                [(b.start_us, b.end_us, b.values, b.checksum.encode()) for _, (b, _, _) in loose],
            )
        batches = [row.batch for _, row in _together(block, loose)]
        return join_rows(((b.start_us, b.end_us, b.values) for b in batches), trusted=trusted)

    def _loose_texts(
        self, device_id: str, first: str, last: str, *, trusted: bool
    ) -> Iterator[tuple[int, str]]:
        found = self._file.db.execute(
            "SELECT CAST(ec_time AS BLOB), CAST(start_us AS INTEGER), CAST(end_us AS INTEGER),"  # noqa: S608
            " CAST(ec_consumption_values AS BLOB), CAST(values_checksum AS BLOB), rowid"
            f" FROM ec_consumption WHERE {SPAN} ORDER BY ec_time, rowid",
            (device_id, self._file.date, first, last),
        )
        for time_text, group in groupby(found, key=lambda row: row[0]):
            try:
                second = parse_ec(self._file.date, _readable(time_text))
            except ValueError:
                continue
            stored = list(group)
            if any(is_shared(row[5]) for row in stored):
                stored.sort(key=lambda row: (rank_of(row[5]), row[1], row[2]))
            rows = [(a, b, _readable(text), md5) for _, a, b, text, md5, _ in stored]
            if not trusted:
                self._hold_against_checksums(device_id, second, rows)
            text = join_rows((row[:3] for row in rows), trusted=trusted)
            if text:
                yield second, text

    def _hold_against_checksums(
        self, device_id: str, second: int, rows: Iterable[tuple[int, int, str, bytes]]
    ) -> None:
        for start_us, _, values, checksum in rows:
            if not is_whole(values, _readable(checksum)):
                self._file.on_damage(
                    device_id,
                    second - second % MINUTE_S,
                    f"the row of second {ec_time(second)} at {start_us:06d} us does not match its checksum",
                )


def _together(block: Block | None, loose: Iterable[tuple[int, StoredRow]]) -> list[tuple[int, StoredRow]]:
    """The rows of one second, of its block and beside it, in order."""
    packed = rows_of(block) if block is not None else []
    return _in_order(sorted([*packed, *loose], key=_rowid))


def _in_order(second: Iterable[tuple[int, StoredRow]]) -> list[tuple[int, StoredRow]]:
    """The rows of one second by rowid, ascending; those of the same rank by their key."""
    rows = list(second)
    if any(map(is_shared, map(_rowid, rows))):
        rows.sort(key=lambda row: (rank_of(row[0]), row[1].batch.start_us, row[1].batch.end_us))
    return rows


def _rowid(row: tuple[int, StoredRow]) -> int:
    return row[0]


def _row(row: tuple[int, StoredRow]) -> StoredRow:
    return row[1]


def _second(row: tuple[int, StoredRow]) -> int:
    return row[1].batch.second


def is_whole(values: str, checksum: str) -> bool:
    """Whether a row's text matches its checksum."""
    return md5_hex(values) == checksum


def _readable(stored: bytes | None) -> str:
    """A stored text as ASCII, with ``?`` for each byte that is not ASCII because of damage."""
    if stored is None:
        return ""
    try:
        return stored.decode("ascii")
    except UnicodeDecodeError:
        return stored.decode("ascii", "replace").replace("\ufffd", "?")
