"""A local queue on disk for batches that the database does not accept at the moment.

Rules:

1. When ``append`` returns, the group is on disk: a SQLite file per worker, WAL with synchronous FULL, which
   survives the death of the process and a power failure. It stays until ``remove``; nothing else deletes
   anything.
2. Groups leave in the order in which they came, several at once if they are small, each with its first
   insert time and ranks. Written with these, a group that was stored already changes nothing, and one that
   has waited for hours does not win over a repair made meanwhile. A group is removed only after its commit:
   if the process dies in between, a write is repeated, but no batch is lost or duplicated.
3. The spool's size is limited. A group that would exceed it is refused with RetryableStorageError: its
   writer keeps it and waits, which slows the senders down.
4. A row that the database itself refuses is moved to a separate table, with the reason. It is counted, kept
   for inspection, and does not block the rows after it.
5. The outcome of the groups that left last is stored as they leave, so that the figures stay right if the
   process dies before the account is updated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from ec_server.account.figures import REJECTED
from ec_server.storage.sqlite_connection import all_rows, connect, the_row, the_value, transaction, translated
from utilities.errors import RetryableStorageError
from utilities.model import Batch, RejectReason, StoredRow
from utilities.utc import day_of, iso

_LAYOUT = """
CREATE TABLE IF NOT EXISTS spooled (
    position    INTEGER PRIMARY KEY AUTOINCREMENT,
    inserted_us INTEGER NOT NULL,
    count       INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    batches     TEXT NOT NULL,
    first_rank  INTEGER
);
CREATE TABLE IF NOT EXISTS set_aside (
    device_id TEXT NOT NULL,
    ec_second INTEGER NOT NULL,
    start_us  INTEGER NOT NULL,
    end_us    INTEGER NOT NULL,
    batch     TEXT NOT NULL,
    inserted_us INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    time      TEXT NOT NULL,
    PRIMARY KEY (device_id, ec_second, start_us, end_us)
);
CREATE TABLE IF NOT EXISTS last_drained (
    position       INTEGER NOT NULL,
    stored         INTEGER NOT NULL,
    duplicate      INTEGER NOT NULL,
    set_aside      INTEGER NOT NULL,
    samples_stored INTEGER NOT NULL
);
"""
_ROW_OVERHEAD_BYTES = 64

SPOOL_FOLDER = "spool"
"""Folder under ``storage.path`` that holds ``<worker>.sqlite``."""


@dataclass(frozen=True, slots=True)
class SpooledRows:
    """The rows of one group or of several successive ones."""

    token: int
    """For ``remove``: the position of the last group."""
    rows: tuple[StoredRow, ...]
    """With their first insert time, in the order of arrival."""


@dataclass(frozen=True, slots=True)
class Drained:
    """The outcome of groups that left the spool together, in numbers of batches."""

    stored: int
    duplicate: int
    set_aside: int
    samples_stored: int

    def figures(self) -> dict[str, int]:
        """The corresponding step of the account."""
        return {
            "spooled": -(self.stored + self.duplicate + self.set_aside),
            "stored": self.stored,
            "duplicate": self.duplicate,
            "samples_stored": self.samples_stored,
            REJECTED[RejectReason.UNSTORABLE]: self.set_aside,
        }


class Spool:
    """The spool of one worker; used by one process, and one thread at a time."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Open or create the file at ``path``; groups of an earlier run are still in it.

        Raises RetryableStorageError or PermanentStorageError if the file cannot be used.
        """
        self._path = path
        self.limit_bytes = limit_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        with translated("opening the spool", path):
            self._db = connect(path, read_only=False, synchronous="full")
            self._db.execute(_LAYOUT)
            if "first_rank" not in [row[1] for row in self._db.execute("PRAGMA table_info(spooled)")]:
                self._db.execute("ALTER TABLE spooled ADD COLUMN first_rank INTEGER")
            count, size, next_rank = the_row(
                self._db.execute(
                    "SELECT coalesce(sum(count), 0), coalesce(sum(size), 0),"
                    " coalesce(max(coalesce(first_rank, inserted_us) + count), 0) FROM spooled"
                )
            )
            self._count, self._bytes, self._next_rank = int(count), int(size), int(next_rank)
            self._aside = int(the_value(self._db.execute("SELECT count(*) FROM set_aside")))

    def __len__(self) -> int:
        """Number of waiting batches."""
        return self._count

    @property
    def bytes(self) -> int:
        """Size of the waiting batches; the file may be larger until it is empty."""
        return self._bytes

    @property
    def set_aside_count(self) -> int:
        """Number of batches that were set aside and are still kept."""
        return self._aside

    @property
    def last_drained(self) -> tuple[int, Drained] | None:
        """The token of the last group that left, and its outcome; None if it is not known."""
        with translated("reading the spool", self._path):
            found = self._db.execute("SELECT * FROM last_drained").fetchone()
        return (found[0], Drained(*found[1:])) if found else None

    def append(self, batches: Sequence[Batch], inserted_us: int) -> None:
        """Store a group of batches of one UTC day; it is on disk when this returns.

        Raises RetryableStorageError if the spool or the disk is full: the group is not stored.
        """
        if not batches:
            return
        text = _encode(batches)
        first_rank = max(inserted_us, self._next_rank)  # ascending even if the clock is set back
        size = len(text) + _ROW_OVERHEAD_BYTES
        if self._bytes + size > self.limit_bytes:
            raise RetryableStorageError(
                f"the spool {self._path} is full: {self._bytes >> 20} of {self.limit_bytes >> 20} MB wait for"
                " the database; bring it back, or raise storage.spool_mb"
            )
        with translated("writing the spool", self._path), transaction(self._db) as cursor:
            cursor.execute(
                "INSERT INTO spooled (inserted_us, count, size, batches, first_rank) VALUES (?, ?, ?, ?, ?)",
                (inserted_us, len(batches), size, text, first_rank),
            )
        self._next_rank = first_rank + len(batches)
        self._count += len(batches)
        self._bytes += size

    def peek(self, most_rows: int = 1) -> SpooledRows | None:
        """The oldest group, or None; it stays in the spool.

        With it the groups that follow, up to ``most_rows`` rows in all, as far as they are of its UTC day and
        of rows that it does not have yet: they can be stored by one call.
        """
        token, rows, known = 0, list[StoredRow](), set[tuple[str, int, int, int]]()
        with translated("reading the spool", self._path), closing(self._db.cursor()) as cursor:
            for position, inserted_us, count, text, first_rank in cursor.execute(
                "SELECT position, inserted_us, count, batches, coalesce(first_rank, inserted_us) FROM spooled"
                " ORDER BY position"
            ):
                if rows and len(rows) + count > most_rows:
                    break
                batches = _decode(text)
                keys = {batch.key for batch in batches}
                is_other_day = bool(rows) and day_of(batches[0].second) != day_of(rows[0].batch.second)
                if is_other_day or not known.isdisjoint(keys):
                    break
                known |= keys
                ranks = range(first_rank, first_rank + len(batches))
                rows += [StoredRow(batch, inserted_us, rank) for batch, rank in zip(batches, ranks)]
                token = position
        return SpooledRows(token, tuple(rows)) if rows else None

    def remove(
        self, token: int, drained: Drained, poison: Sequence[StoredRow] = (), reason: str = ""
    ) -> None:
        """Remove what ``peek`` returned, all of it committed but for ``poison``, which is set aside.

        KeyError if it was removed already.
        """
        now = iso(time.time_ns() // 1000)
        with translated("writing the spool", self._path), transaction(self._db) as cursor:
            count, size = self._take(cursor, token)
            cursor.execute("DELETE FROM last_drained")
            outcome = (drained.stored, drained.duplicate, drained.set_aside, drained.samples_stored)
            cursor.execute("INSERT INTO last_drained VALUES (?, ?, ?, ?, ?)", (token, *outcome))
            cursor.executemany(
                "INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*row.batch.key, _encode([row.batch]), row.inserted_us, reason, now) for row in poison],
            )
        self._after_removal(count, size)

    def close(self) -> None:
        """Close the file; waiting groups stay in it."""
        self._db.close()

    def _take(self, cursor: apsw.Cursor, token: int) -> tuple[int, int]:
        statement = "DELETE FROM spooled WHERE position <= ? RETURNING count, size"
        found = all_rows(cursor.execute(statement, (token,)))
        if not found:
            raise KeyError(token)
        return sum(count for count, _ in found), sum(size for _, size in found)

    def _after_removal(self, count: int, size: int) -> None:
        self._count -= count
        self._bytes -= size
        with translated("reading the spool", self._path):
            self._aside = int(the_value(self._db.execute("SELECT count(*) FROM set_aside")))
            if not self._count:  # return the space, which is cheap while the spool is empty
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _encode(batches: Sequence[Batch]) -> str:
    return json.dumps(
        [(b.device_id, b.second, b.start_us, b.end_us, b.values, b.count, b.checksum) for b in batches],
        separators=(",", ":"),
    )


def _decode(text: str) -> tuple[Batch, ...]:
    return tuple(Batch(*fields) for fields in json.loads(text))


def drained_unnoticed(known_position: int, last: tuple[int, Drained] | None) -> dict[str, int]:
    """The step that is missing in an account that knows groups up to ``known_position``; {} if none is."""
    if last is None or last[0] == known_position:
        return {}
    position, drained = last
    return {**drained.figures(), "spool_position": position - known_position}
