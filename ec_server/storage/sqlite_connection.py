"""How this server opens SQLite: pragmas, transactions, and the translation of driver errors.

Rules:

1. SQLite comes from ``apsw``, never from the Python interpreter: versions before 3.51.3 can lose
   committed writes if two connections checkpoint one WAL at the same time, as several processes do here.
2. The server's own connections run with triggers off; its code does for each group of rows what the
   triggers do for changes by other programs (see schema/sqlite_day.sql).
3. The WAL file stays, empty, when its last connection closes (``_keep_log``).
4. Every transaction that writes begins with BEGIN IMMEDIATE: it waits for the lock at the beginning, so
   that it cannot fail half-way because another connection holds it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from utilities.errors import DamagedFileError, PermanentStorageError, RetryableStorageError

_LONGEST_LOCK_WAIT_S, _LOCK_LOOK_S = 4.0, 0.002
_WAL_PAGES = 4000  # checkpoint after 16 MB rather than 4: fewer fsyncs, same safety
_WAL_KEEP_BYTES = 64 * 1024 * 1024

# Errors that may go away, or that the operator can fix, without any harm to the file.
_RETRYABLE = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.InterruptError,
    apsw.ProtocolError,
    apsw.NoMemError,
)
# Errors that mean a damaged file: this program's statements match its own tables and constraints.
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.ConstraintError, UnicodeDecodeError)
_OTHER_TABLES = ("no such column", "no such table", "has no column named")


@contextmanager
def translated(doing: str, path: Path) -> Iterator[None]:
    """Turn errors of apsw and of the system into StorageError that says what was being done to which file."""
    try:
        yield
    except _RETRYABLE as error:
        raise RetryableStorageError(f"{doing} {path}: {error}; it will be tried again") from error
    except (apsw.Error, UnicodeDecodeError) as error:
        if isinstance(error, _DAMAGED) or any(text in str(error) for text in _OTHER_TABLES):
            raise DamagedFileError(
                f"{doing} {path}: {error}; the server sets it aside while it runs, and the synchronization "
                "fetches what is missing"
            ) from error
        raise PermanentStorageError(
            f"{doing} {path}: {error}; check the file with `PRAGMA integrity_check`"
        ) from error
    except OSError as error:  # such as a file that another process has just set aside
        raise RetryableStorageError(
            f"{doing} {path}: {error.strerror or error}; it will be tried again"
        ) from error


def connect(path: Path, *, read_only: bool, synchronous: str = "normal") -> apsw.Connection:
    """A connection to ``path``. Raises apsw's own errors: use it within ``translated``."""
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags | apsw.SQLITE_OPEN_NOMUTEX)
    wait_for_locks(connection)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    if not read_only:
        if not the_value(connection.execute("PRAGMA page_count")):  # has no effect on an existing file
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that free space can be returned
        connection.execute("PRAGMA journal_mode = WAL")
        _keep_log(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEEP_BYTES}")
    return connection


def wait_for_locks(connection: apsw.Connection) -> None:
    """Wait up to 4 s for a lock of another connection, and look for it often.

    SQLite's own wait looks less and less often, at last every 100 ms. If writers take a lock hundreds of
    times per second, it is free only for moments, and a connection that has waited long rarely sees one.
    """
    until_s = 0.0

    def wait(calls_before: int) -> bool:
        nonlocal until_s
        now_s = time.monotonic()
        if calls_before == 0:
            until_s = now_s + _LONGEST_LOCK_WAIT_S
        if now_s >= until_s:
            return False
        time.sleep(_LOCK_LOOK_S)
        return True

    connection.set_busy_handler(wait)


def _keep_log(connection: apsw.Connection) -> None:
    """Make SQLite truncate the WAL on close instead of deleting it.

    SQLite deletes it by name. By then that name may belong to the WAL of another file that has replaced the
    first one: a restored or a new file.
    """
    on = ctypes.c_int(1)
    connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(on))


def all_rows(cursor: apsw.Cursor) -> list[tuple[Any, ...]]:
    """All rows of a statement."""
    return cursor.fetchall()


def the_row(cursor: apsw.Cursor) -> tuple[Any, ...]:
    """The only row of a statement."""
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None
    return row


def the_value(cursor: apsw.Cursor) -> Any:
    """The first column of a statement's first row; None if there is none."""
    row = cursor.fetchone()
    return row[0] if row else None


@contextmanager
def transaction(connection: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[apsw.Cursor]:
    """BEGIN, then COMMIT; ROLLBACK if anything raises, including COMMIT."""
    cursor = connection.cursor()
    cursor.execute(f"BEGIN {kind}")
    try:
        yield cursor
        cursor.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
