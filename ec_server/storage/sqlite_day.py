"""An open SQLite file of one UTC day: its layout, its generation, and how many rows each minute has.

sqlite_day_rows.py reads its rows, sqlite_day_writes.py writes them, sqlite_day_digests.py caches their
digests, sqlite_day_proof.py records what is proven, sqlite_day_packing.py packs them into blocks. Rules:

1. A file of an older layout is converted when it is opened for writing (sqlite_day_layout.py).
2. Before retention deletes a file, its last transaction sets ``user_version`` to REMOVED. A process that
   still has the file open must not write to it, but open the path again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from ec_server.storage.sqlite_connection import all_rows, connect, the_value, transaction, wait_for_locks
from ec_server.storage.sqlite_day_blocks import DayBlocks, OnDamage
from ec_server.storage.sqlite_day_layout import (
    REMOVED,
    adopt,
    bring_to_layout,
    make_views,
    refuse_unfinished,
    version_of,
)
from ec_server.storage.sqlite_lasting import LastingCommits
from ec_server.storage.sqlite_written import OwnMinutes
from utilities.utc import MINUTE_S, ec_date, ec_time, parse_ec

_HAS_LINE = "SELECT 1 FROM minute_line WHERE device_id = ? AND ec_time = ?"
_OF_SPAN = "WHERE device_id = ? AND ec_date = ? AND ec_time BETWEEN ? AND ?"
_RESTORE_LINE = (
    "INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)"  # noqa: S608
    " SELECT ?, ?, sum(rows), sum(samples) FROM ("
    f"SELECT count(*) AS rows, sum(values_count) AS samples FROM ec_consumption {_OF_SPAN} UNION ALL"
    f" SELECT sum(row_count), sum(values_count) FROM ec_block {_OF_SPAN})"
    " HAVING sum(rows) > 0 ON CONFLICT DO NOTHING"
)


class RevertedError(Exception):
    """The file has reverted to an older state since its generation was recorded."""


class DayFile:
    """An open day file. Its methods raise apsw's errors; SqliteStore translates them."""

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
        self.own = OwnMinutes()
        self.recorded_generation = 0
        """The latest one in progress.db before the current transaction; see sqlite_trust.py."""
        self.read_only = read_only
        self.on_damage = on_damage
        self.db = connect(path, read_only=read_only, synchronous=synchronous)
        self.lasting = LastingCommits(self.db, synchronous)
        try:
            if read_only:
                refuse_unfinished(self.db, path)
            else:
                bring_to_layout(self.db, path, self.date)
        except BaseException:
            self.db.close()
            raise
        self.layout = self.version(self.db.cursor())
        make_views(self.db, self.layout)
        self.blocks = DayBlocks(self.db, self.date, on_damage, present=self.has_blocks)
        self.inode = path.stat().st_ino

    def close(self) -> None:
        """Close the file, after moving everything committed from the WAL into it.

        SQLite does that only when the last connection closes, and not if that one is read-only.
        """
        if not self.read_only:
            self.empty_log()
        self.db.close()

    def empty_log(self) -> bool:
        """Move what is committed from the WAL into the file; False if other connections are using it."""
        self.db.set_busy_timeout(0)
        try:
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.Error:
            return False
        finally:
            wait_for_locks(self.db)
        return True

    # --- layout ---------------------------------------------------------------------------

    @staticmethod
    def version(cursor: apsw.Cursor) -> int:
        """The number of the file's layout, or REMOVED."""
        return version_of(cursor)

    def remake(self) -> None:
        """Compute from the rows again what is kept of them; nothing is proven afterwards."""
        with transaction(self.db) as cursor:
            adopt(cursor, self.date)

    @property
    def has_blocks(self) -> bool:
        """Whether the layout has a table of packed seconds."""
        return self.layout > 1

    def generation(self) -> int:
        """See ``ec_file`` in schema/sqlite_day_own.sql; 0 for a file of layout 1."""
        if self.layout == 1:
            return 0
        return int(the_value(self.db.execute("SELECT generation FROM ec_file")) or 0)

    def next_generation(self, cursor: apsw.Cursor, at_least: int = 0) -> int:
        """Raise the generation, within a transaction; returns the new one.

        Raises RevertedError if the file's generation is lower than the recorded one: raised, it would look
        like that.
        """
        statement = "UPDATE ec_file SET generation = max(generation + 1, ?) RETURNING generation"
        [(raised,)] = all_rows(cursor.execute(statement, (at_least,)))  # no statement may be left unfinished
        if raised <= self.recorded_generation:
            raise RevertedError
        return int(raised)

    def mark_removed(self) -> None:
        """Tell every process that has the file open not to write to it any more."""
        with transaction(self.db, "EXCLUSIVE") as cursor:
            cursor.execute(f"PRAGMA user_version = {REMOVED}")

    # --- minutes --------------------------------------------------------------------------

    def span(self, start: int, stop: int) -> tuple[str, str]:
        """First and last ``ec_time`` of the part of ``[start, stop)`` that lies in this day."""
        return ec_time(max(start, self.day)), ec_time(min(stop, self.day + 86_400) - 1)

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """``(minute, rows, sum of the rows' sample counts)``."""
        found = self.db.execute(
            "SELECT ec_time, row_count, row_samples FROM minute_line WHERE device_id = ?"
            " AND ec_time BETWEEN ? AND ? AND row_count > 0 ORDER BY ec_time",
            (device_id, *self.span(start, stop)),
        )
        return [(parse_ec(self.date, t), rows, samples) for t, rows, samples in found]

    def restore_lines(self, cursor: apsw.Cursor, minutes: Iterable[tuple[str, int]]) -> None:
        """Create the lines of these ``(device, minute)`` again if they were lost, by counting their rows."""
        for device_id, minute in minutes:
            at = (device_id, ec_time(minute))
            span = (device_id, self.date, *self.span(minute, minute + MINUTE_S))
            if not the_value(cursor.execute(_HAS_LINE, at)):
                cursor.execute(_RESTORE_LINE, (*at, *span, *span))

    def devices(self) -> list[str]:
        """The devices that have rows on the day."""
        found = all_rows(self.db.execute("SELECT DISTINCT device_id FROM minute_line WHERE row_count > 0"))
        return [device_id for (device_id,) in found]

    def first_minute(self, device_id: str) -> int | None:
        """The earliest minute of the day that has rows of the device."""
        statement = "SELECT min(ec_time) FROM minute_line WHERE device_id = ? AND row_count > 0"
        time_text = the_value(self.db.execute(statement, (device_id,)))
        return parse_ec(self.date, time_text) if time_text is not None else None

    def last_minute(self) -> int | None:
        """The latest minute of the day that has rows of any device."""
        time_text = the_value(self.db.execute("SELECT max(ec_time) FROM minute_line WHERE row_count > 0"))
        return parse_ec(self.date, time_text) if time_text is not None else None


@contextmanager
def snapshot(db: apsw.Connection) -> Iterator[None]:
    """Several reads that see the same state of the file; uses the open transaction if there is one."""
    if db.in_transaction:
        yield
    else:
        with transaction(db, "DEFERRED"):
            yield
