"""One UTC day's SQLite file: its layout, its rows, and the digests that are cached of them.

What is written to it is sqlite_day_writes.py's, what is proven of it sqlite_day_proof.py's. Rules:

1. ``ec_checksum`` holds only what is true of the rows. A digest enters it in a transaction that
   finds the minute's ``version`` unchanged since the rows were read (``cache``), or the minute's
   ``writer`` still the one process that wrote all of it (``publish``).
2. While ``ec_minute.writer`` is set, nothing of that minute is cached; so the minute's own writer,
   and it alone, may add rows without looking for digests to remove.
3. Rows rank by their rowid (sqlite_rank.py), whatever the clock does.
4. A file that retention has removed says so in ``user_version``, set in the last transaction it
   saw. Whoever still has it open must not write to it: it opens the path anew.
5. Rows stand in ``ec_consumption`` or, packed, in ``ec_block`` (sqlite_day_blocks.py); a second may have
   both. Nothing outside the day's own modules knows which.
6. A row whose content was damaged never raises: what can be read of it counts, the digest shows the
   rest, and ``on_damage`` is told where the row does not fit its own checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any

import apsw

from ec_server.storage.contract import FinishedMinute, ReplacedRow
from ec_server.storage.ranges import of_minutes
from ec_server.storage.sqlite_connection import all_rows, connect, the_row, the_value, transaction
from ec_server.storage.sqlite_day_blocks import DayBlocks, OnDamage, rows_of
from ec_server.storage.sqlite_rank import is_shared, rank_of
from utilities.checksum_util import join_rows, md5_hex, minute_digest, second_digest
from utilities.errors import PermanentStorageError
from utilities.model import SETTLED, Batch, Digest, StoredRow
from utilities.utc import MINUTE_S, ec_date, ec_time, parse_ec, parse_iso

LAYOUT = 2
REMOVED = -1
_SCHEMA = Path(__file__).with_name("schema")

_VALUES = (
    "ec_time, start_us, end_us, CAST(ec_consumption_values AS BLOB), values_count,"
    " CAST(values_checksum AS BLOB), CAST(insert_time AS BLOB)"
)
_SPAN = "device_id = ? AND ec_date = ? AND ec_time BETWEEN ? AND ?"
_CACHE = (
    "INSERT INTO ec_checksum VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " values_count = excluded.values_count, values_checksum = excluded.values_checksum"
)


class DayFile:
    """An open day. Its calls raise apsw's errors; SqliteStore translates them."""

    def __init__(
        self,
        path: Path,
        day: int,
        *,
        read_only: bool,
        synchronous: str,
        writer: str,
        on_damage: OnDamage = lambda *_: None,
    ) -> None:
        self.path = path
        self.day = day
        self.date = ec_date(day)
        self.writer = writer
        self.read_only = read_only
        self._on_damage = on_damage
        self.db = connect(path, read_only=read_only, synchronous=synchronous)
        if not read_only:
            self._make_tables()
        self.layout = self.version(self.db.cursor())
        self.blocks = DayBlocks(self.db, self.date, on_damage, present=self.has_blocks)
        self.inode = path.stat().st_ino

    def close(self) -> None:
        """Let go of the file, with all that is committed in the file itself rather than beside it.

        SQLite does that only for the last connection, and not if that one is read-only.
        """
        if not self.read_only:
            self.db.set_busy_timeout(0)
            with suppress(apsw.Error):  # others are at work in it: theirs to do, then
                self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.db.close()

    # --- layout ---------------------------------------------------------------------------

    def _make_tables(self) -> None:
        with transaction(self.db) as cursor:
            version = self.version(cursor)
            if version in (LAYOUT, REMOVED):
                return
            if version not in (0, 1):
                raise PermanentStorageError(
                    f"{self.path} has layout {version}, this program knows 1 to {LAYOUT}: "
                    "run the program that wrote it, or move the file away"
                )
            if version == 0:
                cursor.execute((_SCHEMA / "sqlite_day.sql").read_text("utf-8"))
            else:
                cursor.execute("DROP INDEX ec_minute_unsealed")
                cursor.execute("ALTER TABLE ec_minute RENAME COLUMN sealed TO digest_cached")
                cursor.execute("ALTER TABLE ec_minute ADD COLUMN packed INTEGER NOT NULL DEFAULT 0")
            cursor.execute((_SCHEMA / "sqlite_day_own.sql").read_text("utf-8"))
            self._settle_layout_1(cursor)
            cursor.execute(f"PRAGMA user_version = {LAYOUT}")

    def _settle_layout_1(self, cursor: apsw.Cursor) -> None:
        states = ", ".join(f"'{state.value}'" for state in SETTLED)
        lines = all_rows(
            cursor.execute(
                f"SELECT device_id, ec_time FROM ec_minute WHERE state IN ({states}) ORDER BY 1, 2"  # noqa: S608
            )
        )
        for device_id, group in groupby(lines, key=lambda line: line[0]):
            found = of_minutes(parse_ec(self.date, time_text) for _, time_text in group)
            cursor.executemany("INSERT INTO ec_settled VALUES (?, ?, ?)", [(device_id, *r) for r in found])

    @staticmethod
    def version(cursor: apsw.Cursor) -> int:
        """The file's layout, or REMOVED."""
        return int(the_value(cursor.execute("PRAGMA user_version")))

    @property
    def has_blocks(self) -> bool:
        """Whether the layout has packed seconds."""
        return self.layout > 1

    def generation(self) -> int:
        """See ``ec_file`` in schema/sqlite_day_own.sql; 0 for a file of layout 1."""
        if self.layout == 1:
            return 0
        return int(the_value(self.db.execute("SELECT generation FROM ec_file")) or 0)

    @staticmethod
    def next_generation(cursor: apsw.Cursor, at_least: int = 0) -> int:
        """Raise the generation, within a transaction; the new one."""
        return int(
            the_value(
                cursor.execute(
                    "UPDATE ec_file SET generation = max(generation + 1, ?) RETURNING generation", (at_least,)
                )
            )
        )

    def mark_removed(self) -> None:
        """Tell every process that has the file open that it must not be written to any more."""
        with transaction(self.db, "EXCLUSIVE") as cursor:
            cursor.execute(f"PRAGMA user_version = {REMOVED}")

    # --- rows -----------------------------------------------------------------------------

    def span(self, start: int, stop: int) -> tuple[str, str]:
        """First and last ``ec_time`` of what of ``[start, stop)`` is this day's."""
        return ec_time(max(start, self.day)), ec_time(min(stop, self.day + 86_400) - 1)

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """Rows of seconds ``[start, stop)`` of this day, ascending in the second, then in the rank."""
        yield from (row for _, row in self.rows_with_rowid(device_id, start, stop))

    def rows_with_rowid(self, device_id: str, start: int, stop: int) -> Iterator[tuple[int, StoredRow]]:
        """``rows``, each with its rowid."""
        first, last = self.span(start, stop)
        with snapshot(self.db):
            loose = self._loose_rows(device_id, first, last)
            if self.blocks.exist(device_id, first, last):
                loose = merge(loose, self.blocks.rows(device_id, first, last), key=_second_and_rowid)
            for _, second in groupby(loose, key=lambda row: row[1].batch.second):
                yield from _in_order(second)

    def _loose_rows(self, device_id: str, first: str, last: str) -> Iterator[tuple[int, StoredRow]]:
        found = self.db.execute(
            f"SELECT {_VALUES}, rowid FROM ec_consumption WHERE {_SPAN} ORDER BY ec_time, rowid",  # noqa: S608
            (device_id, self.date, first, last),
        )
        for row in found:
            if (stored := self._stored(device_id, row, row[7])) is not None:
                yield row[7], stored

    def _stored(self, device_id: str, row: Sequence[Any], rowid: int) -> StoredRow | None:
        """A row of _VALUES; what was damaged in it reads as it can, None where its key cannot be read."""
        time_text, start_us, end_us, values, count, checksum, inserted = row[:7]
        try:
            batch = Batch(
                device_id,
                parse_ec(self.date, time_text),
                int(start_us),
                int(end_us),
                _readable(values),
                int(count),
                _readable(checksum),
            )
        except ValueError:
            return None
        try:
            inserted_us = parse_iso(_readable(inserted))
        except ValueError:
            inserted_us = rank_of(rowid)
        return StoredRow(batch, inserted_us, rank_of(rowid) or inserted_us)

    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """Rows of seconds ``[start, stop)`` of this day that others took the place of."""
        if self.layout == 1:
            return []
        found = self.db.execute(
            f"SELECT {_VALUES}, replaced_time, reason FROM ec_replaced WHERE {_SPAN} ORDER BY rowid",  # noqa: S608
            (device_id, self.date, *self.span(start, stop)),
        )
        kept = [(self._stored(device_id, row, 0), row[7], row[8]) for row in found]
        return [ReplacedRow(row, parse_iso(moment), reason) for row, moment, reason in kept if row]

    def texts(
        self, device_id: str, start: int, stop: int, *, trusted: bool = True
    ) -> Iterator[tuple[int, str]]:
        """``(second, canonical text)`` of the non-empty seconds of ``[start, stop)``, ascending.

        Where they are not ``trusted``, rows are held against their own checksums.
        """
        first, last = self.span(start, stop)
        with snapshot(self.db):
            if not self.blocks.exist(device_id, first, last):
                yield from self._loose_texts(device_id, first, last, trusted=trusted)
                return
            loose = {time_text for (time_text,) in all_rows(self._times(device_id, first, last))}
            packed = set(self.blocks.times(device_id, first, last))
            for time_text in sorted(loose | packed):
                if time_text not in packed:
                    yield from self._loose_texts(device_id, time_text, time_text, trusted=trusted)
                elif text := self._text_with_block(device_id, time_text, time_text in loose, trusted=trusted):
                    yield parse_ec(self.date, time_text), text

    def _times(self, device_id: str, first: str, last: str) -> apsw.Cursor:
        return self.db.execute(
            f"SELECT DISTINCT ec_time FROM ec_consumption WHERE {_SPAN}",  # noqa: S608
            (device_id, self.date, first, last),
        )

    def _text_with_block(self, device_id: str, time_text: str, has_loose: bool, *, trusted: bool) -> str:
        """The text of a second that has a block, and rows beside it where ``has_loose``."""
        block = self.blocks.of_second(device_id, time_text)
        if not has_loose:
            return block.second_text() if block is not None else ""
        loose = list(self._loose_rows(device_id, time_text, time_text))
        if not trusted:
            self._hold_against_checksums(
                device_id,
                parse_ec(self.date, time_text),
                [(b.start_us, b.end_us, b.values, b.checksum.encode()) for _, (b, _, _) in loose],
            )
        packed = list(rows_of(block)) if block is not None else []
        batches = [row.batch for _, row in _in_order(sorted([*packed, *loose], key=_rowid))]
        return join_rows(((b.start_us, b.end_us, b.values) for b in batches), trusted=trusted)

    def _loose_texts(
        self, device_id: str, first: str, last: str, *, trusted: bool
    ) -> Iterator[tuple[int, str]]:
        found = self.db.execute(
            "SELECT ec_time, CAST(start_us AS INTEGER), CAST(end_us AS INTEGER),"  # noqa: S608
            " CAST(ec_consumption_values AS BLOB), CAST(values_checksum AS BLOB), rowid"
            f" FROM ec_consumption WHERE {_SPAN} ORDER BY ec_time, rowid",
            (device_id, self.date, first, last),
        )
        for time_text, group in groupby(found, key=lambda row: row[0]):
            second = parse_ec(self.date, time_text)
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
                self._on_damage(
                    device_id,
                    second - second % MINUTE_S,
                    f"the row of second {ec_time(second)} at {start_us:06d} us does not fit its checksum",
                )

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, samples as the rows count them)``."""
        found = self.db.execute(
            "SELECT ec_time, row_count, row_samples FROM ec_minute WHERE device_id = ?"
            " AND ec_time BETWEEN ? AND ? AND row_count > 0 ORDER BY ec_time",
            (device_id, *self.span(start, stop)),
        )
        return [(parse_ec(self.date, t), rows, samples) for t, rows, samples in found]

    def devices(self) -> list[str]:
        """The devices that have rows on the day."""
        found = all_rows(self.db.execute("SELECT DISTINCT device_id FROM ec_minute WHERE row_count > 0"))
        return [device_id for (device_id,) in found]

    def first_minute(self, device_id: str) -> int | None:
        """The earliest minute of the day that has rows of the device."""
        statement = "SELECT min(ec_time) FROM ec_minute WHERE device_id = ? AND row_count > 0"
        time_text = the_value(self.db.execute(statement, (device_id,)))
        return parse_ec(self.date, time_text) if time_text is not None else None

    def last_minute(self) -> int | None:
        """The latest minute of the day that has rows of any device."""
        time_text = the_value(self.db.execute("SELECT max(ec_time) FROM ec_minute WHERE row_count > 0"))
        return parse_ec(self.date, time_text) if time_text is not None else None

    # --- digests --------------------------------------------------------------------------

    def second_digests(self, device_id: str, minute: int, *, from_rows: bool) -> list[tuple[int, Digest]]:
        """Digests of the minute's non-empty seconds: the cached ones, and the others from the rows."""
        with transaction(self.db, "DEFERRED") as cursor:
            version, is_cached = self._version_of(cursor, device_id, minute)
            cached = {} if from_rows else self._cached_seconds(cursor, device_id, minute)
            computed: dict[int, Digest] = {}
            seconds = set(self._seconds_with_rows(cursor, device_id, minute))
            for second in seconds:
                if second not in cached:
                    for _, text in self.texts(device_id, second, second + 1, trusted=not from_rows):
                        computed[second] = _second_digest(text)
        digests = sorted({s: d for s, d in (cached | computed).items() if s in seconds}.items())
        if not self.read_only and version is not None and (from_rows or computed or not is_cached):
            self._cache(device_id, minute, version, digests, computed)
        return digests

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool
    ) -> list[tuple[int, Digest]]:
        """Digests of the non-empty minutes of ``[start, stop)`` of this day, ascending."""
        first, last = self.span(start, stop)
        cached = dict(
            self.db.execute(
                "SELECT ec_time, values_count || ' ' || values_checksum FROM ec_checksum"  # noqa: S608
                f" WHERE {_SPAN} AND ec_type = 'P'",
                (device_id, self.date, first, last),
            )
        )
        found = []
        for minute, _, _ in self.row_counts(device_id, start, stop):
            known = cached.get(ec_time(minute))
            if known is not None and not from_rows:
                count, md5 = known.split()
                found.append((minute, Digest(int(count), md5)))
            elif whole := digest_of_minute(self.second_digests(device_id, minute, from_rows=from_rows)):
                found.append((minute, whole))
        return found

    def _seconds_with_rows(self, cursor: apsw.Cursor, device_id: str, minute: int) -> list[int]:
        """One index seek for each second, so that finding them reads no row."""
        at, last = ec_time(minute), ec_time(minute + 59)
        seconds = []
        statement = (
            "SELECT min(ec_time) FROM ec_consumption WHERE device_id = ? AND ec_date = ?"
            " AND ec_time >= ? AND ec_time <= ?"
        )
        while time_text := the_value(cursor.execute(statement, (device_id, self.date, at, last))):
            seconds.append(parse_ec(self.date, time_text))
            at = f"{time_text}~"  # ranks after every row of that second
        packed = self.blocks.times(device_id, ec_time(minute), last)
        return seconds + [parse_ec(self.date, time_text) for time_text in packed]

    def _cached_seconds(self, cursor: apsw.Cursor, device_id: str, minute: int) -> dict[int, Digest]:
        found = cursor.execute(
            f"SELECT ec_time, values_count, values_checksum FROM ec_checksum WHERE {_SPAN}"  # noqa: S608
            " AND ec_type = 'S'",
            (device_id, self.date, ec_time(minute), ec_time(minute + 59)),
        )
        return {parse_ec(self.date, t): Digest(count, md5) for t, count, md5 in found}

    def _version_of(self, cursor: apsw.Cursor, device_id: str, minute: int) -> tuple[int | None, bool]:
        found = cursor.execute(
            f"SELECT version, {self._digest_cached} FROM ec_minute"  # noqa: S608
            " WHERE device_id = ? AND ec_time = ?",
            (device_id, ec_time(minute)),
        ).fetchone()
        return (found[0], bool(found[1])) if found else (None, False)

    @property
    def _digest_cached(self) -> str:
        return "sealed" if self.layout == 1 else "digest_cached"

    def _cache(
        self,
        device_id: str,
        minute: int,
        version: int,
        digests: Sequence[tuple[int, Digest]],
        computed: dict[int, Digest],
    ) -> None:
        """Keep what was computed, unless the minute's rows have changed since they were read."""
        with transaction(self.db) as cursor:
            cursor.execute(
                "UPDATE ec_minute SET writer = NULL, digest_cached = ? WHERE device_id = ? AND ec_time = ?"
                " AND version = ?",
                (int(bool(digests)), device_id, ec_time(minute), version),
            )
            if self.db.changes() == 1:
                gone = self._cached_seconds(cursor, device_id, minute).keys() - dict(digests).keys()
                self.forget_digests(cursor, device_id, minute, gone)
                self._put_digests(cursor, device_id, minute, computed.items(), digest_of_minute(digests))

    def forget_digests(
        self, cursor: apsw.Cursor, device_id: str, minute: int, seconds: Iterable[int]
    ) -> None:
        """Take away the cached digests of a minute and of some of its seconds, within a transaction."""
        statement = (
            "DELETE FROM ec_checksum WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND ec_type = ?"
        )
        cursor.execute(statement, (device_id, self.date, ec_time(minute), "P"))
        cursor.executemany(statement, [(device_id, self.date, ec_time(s), "S") for s in seconds])

    def publish(self, finished: Iterable[FinishedMinute]) -> int:
        """Cache digests of minutes that this connection's writer wrote alone; how many it was."""
        taken = 0
        with transaction(self.db) as cursor:
            for one in finished:
                cursor.execute(
                    "UPDATE ec_minute SET writer = NULL, digest_cached = ? WHERE device_id = ?"
                    " AND ec_time = ? AND writer = ?",
                    (int(one.complete), one.device_id, ec_time(one.minute), self.writer),
                )
                if self.db.changes() == 1:
                    whole = digest_of_minute(one.seconds) if one.complete else None
                    self._put_digests(cursor, one.device_id, one.minute, one.seconds, whole)
                    taken += 1
        return taken

    def _put_digests(
        self,
        cursor: apsw.Cursor,
        device_id: str,
        minute: int,
        seconds: Iterable[tuple[int, Digest]],
        whole: Digest | None,
    ) -> None:
        rows: list[tuple[Any, ...]] = [
            (device_id, self.date, ec_time(s), "S", d.count, d.md5, None, 0) for s, d in seconds
        ]
        if whole is not None:
            check = the_row(
                cursor.execute(
                    "SELECT check_time, check_times FROM ec_minute WHERE device_id = ? AND ec_time = ?",
                    (device_id, ec_time(minute)),
                )
            )
            rows.append((device_id, self.date, ec_time(minute), "P", whole.count, whole.md5, *check))
        cursor.executemany(_CACHE, rows)

    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """``(device, minute)`` with rows, ended before ``before``, without a cached minute digest."""
        found = self.db.execute(
            f"SELECT device_id, ec_time FROM ec_minute WHERE {self._digest_cached} = 0"  # noqa: S608
            " AND ec_time < ? AND row_count > 0 ORDER BY ec_time",
            (ec_time(before - MINUTE_S + 1) if before - MINUTE_S + 1 < self.day + 86_400 else "~",),
        )
        return [(d, parse_ec(self.date, t)) for d, t in found]


@contextmanager
def snapshot(db: apsw.Connection) -> Iterator[None]:
    """Several reads that see the same state of the file, within a transaction where there is one."""
    if db.in_transaction:
        yield
    else:
        with transaction(db, "DEFERRED"):
            yield


def _in_order(second: Iterable[tuple[int, StoredRow]]) -> list[tuple[int, StoredRow]]:
    """The rows of one second, ascending in the rowid; those of the same rank by their key."""
    rows = list(second)
    if any(is_shared(rowid) for rowid, _ in rows):
        rows.sort(key=lambda row: (rank_of(row[0]), row[1].batch.start_us, row[1].batch.end_us))
    return rows


def _rowid(row: tuple[int, StoredRow]) -> int:
    return row[0]


def _second_and_rowid(row: tuple[int, StoredRow]) -> tuple[int, int]:
    return row[1].batch.second, row[0]


def is_whole(values: str, checksum: str) -> bool:
    """Whether a row's text fits its checksum."""
    return md5_hex(values) == checksum


def _readable(stored: bytes) -> str:
    """A stored text as ASCII, with ``?`` for each byte that damage has made something else."""
    try:
        return stored.decode("ascii")
    except UnicodeDecodeError:
        return stored.decode("ascii", "replace").replace("\ufffd", "?")


def _second_digest(text: str) -> Digest:
    digest = second_digest(text)
    assert digest is not None, "a second with rows has samples"
    return Digest(*digest)


def digest_of_minute(seconds: Iterable[tuple[int, Digest]]) -> Digest | None:
    """The minute digest of its non-empty seconds; None for none."""
    digest = minute_digest((ec_time(s), d.count, d.md5) for s, d in seconds)
    return Digest(*digest) if digest else None
