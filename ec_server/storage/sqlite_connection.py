"""How this server opens SQLite: pragmas, transactions, and driver errors as the tree's.

Rules:

1. The library comes from ``apsw``, never from the interpreter: SQLite before 3.51.3 can lose
   committed writes when two connections checkpoint one WAL at once, and several processes do here.
2. Own connections run with triggers off; what the triggers do for other programs' changes, own
   code does group by group. A connection from outside runs them (see schema/sqlite_day.sql).
3. The WAL of a file outlives its connections, empty (``_keep_log``).
4. Every transaction that writes begins IMMEDIATE: it waits for its turn at the beginning, so that it
   cannot fail half-way for want of the lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from utilities.errors import DamagedFileError, PermanentStorageError, RetryableStorageError

BUSY_TIMEOUT_MS = 4_000
_WAL_PAGES = 4000  # checkpoint after 16 MB rather than 4: fewer fsyncs, same safety
_WAL_KEEP_BYTES = 64 * 1024 * 1024

# What can go away by itself or by the operator's hand without the file being harmed.
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
# What is not as this program left it: its statements fit its tables, and hold their constraints.
_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.ConstraintError, UnicodeDecodeError)
_OTHER_TABLES = ("no such column", "no such table", "has no column named")


@contextmanager
def translated(doing: str, path: Path) -> Iterator[None]:
    """Turn apsw's and the system's errors into StorageError, with what was being done and to which file."""
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
    """A connection to ``path``; apsw's own errors (use within ``translated``)."""
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(str(path), flags=flags | apsw.SQLITE_OPEN_NOMUTEX)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    if not read_only:
        if not the_value(connection.execute("PRAGMA page_count")):  # in an existing file it would only write
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that its space can be returned
        connection.execute("PRAGMA journal_mode = WAL")
        _keep_log(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEEP_BYTES}")
    return connection


def _keep_log(connection: apsw.Connection) -> None:
    """Truncate the WAL at the end instead of deleting it.

    SQLite deletes it by name, which by then may be the WAL of another file that took the first one's
    place: a restored one, or one made anew.
    """
    on = ctypes.c_int(1)
    connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(on))


def all_rows(cursor: apsw.Cursor) -> list[tuple[Any, ...]]:
    """All rows of a statement; their types are those of the columns asked for."""
    return cursor.fetchall()


def the_row(cursor: apsw.Cursor) -> tuple[Any, ...]:
    """The row of a statement that has exactly one."""
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None
    return row


def the_value(cursor: apsw.Cursor) -> Any:
    """The first column of a statement's first row; None if there is none."""
    row = cursor.fetchone()
    return row[0] if row else None


@contextmanager
def transaction(connection: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[apsw.Cursor]:
    """BEGIN, and COMMIT at the end, or ROLLBACK where anything was raised, COMMIT included."""
    cursor = connection.cursor()
    cursor.execute(f"BEGIN {kind}")
    try:
        yield cursor
        cursor.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
