"""Brings a day's SQLite file to this program's layout when it is opened for writing; its rows stay.

Rules:

1. A new file gets all tables, one of an older layout what it lacks.
2. A file that has the rows' table, but not all of the server's own ones (made by unpack, dumped and read in
   again, altered by hand), is adopted: its rows count, and nothing that is said of them does.
3. A file in which that cannot be done is none of a day's: DamagedFileError, so that it is set aside.
4. One of a later layout is left alone.
"""

from __future__ import annotations

import time
from itertools import groupby
from pathlib import Path

import apsw

from ec_server.storage.ranges import of_minutes
from ec_server.storage.sqlite_connection import all_rows, the_value, transaction
from ec_server.storage.sqlite_day_blocks import READABLE_TIME
from ec_server.storage.sqlite_rank import first_rowid
from utilities.errors import DamagedFileError, PermanentStorageError
from utilities.model import SETTLED
from utilities.utc import parse_ec

LAYOUT = 2
REMOVED = -1
_SCHEMA = Path(__file__).with_name("schema")
_OWN_TABLES = (
    "ec_minute", "ec_block", "ec_block_replaced", "ec_block_total", "ec_replaced", "ec_settled", "ec_file",
    "ec_writer",
)  # fmt: skip
_TABLES = ("ec_consumption", "ec_checksum", *_OWN_TABLES)
_READABLE = (
    f"ec_date = ?1 AND {READABLE_TIME}"
    " AND typeof(values_count) = 'integer' AND values_count BETWEEN 0 AND 1000000000"
)
_COUNTED = (
    "INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)"  # noqa: S608
    " SELECT device_id, substr(ec_time, 1, 4) || '00', sum(of_rows), sum(of_samples) FROM ("
    "SELECT device_id, ec_time, 1 AS of_rows, values_count AS of_samples FROM ec_consumption"
    f" WHERE {_READABLE}"
    f" UNION ALL SELECT device_id, ec_time, row_count, values_count FROM ec_block WHERE {_READABLE}"
    ") GROUP BY 1, 2"
)


def version_of(cursor: apsw.Cursor) -> int:
    """The file's layout, or REMOVED."""
    return int(the_value(cursor.execute("PRAGMA user_version")))


def bring_to_layout(db: apsw.Connection, path: Path, date: str) -> None:
    """See the module's rules; apsw's errors where the disk or the file fails."""
    try:
        with transaction(db) as cursor:
            _bring(db, cursor, path, date)
    except apsw.SQLError as error:
        raise DamagedFileError(f"{path} is not the file of a day: {error}; it is set aside") from error


def make_views(db: apsw.Connection, layout: int) -> None:
    """The views through which the server reads its own lines, in this connection alone."""
    views = (_SCHEMA / "sqlite_day_views.sql").read_text("utf-8")
    if layout == 1:
        views = views.replace("digest_cached, packed", "sealed AS digest_cached, 0 AS packed")
    db.execute(views)


def refuse_unfinished(db: apsw.Connection, path: Path) -> None:
    """For who only reads: DamagedFileError where tables are missing, until a writer has opened the file."""
    cursor = db.cursor()
    if version_of(cursor) in (0, LAYOUT) and not _is_complete(cursor):
        raise DamagedFileError(f"{path} has not all tables of a day yet; the server adds them while it runs")


def _bring(db: apsw.Connection, cursor: apsw.Cursor, path: Path, date: str) -> None:
    version = version_of(cursor)
    if version == REMOVED or (version == LAYOUT and _is_complete(cursor)):
        return
    if version not in (0, 1, LAYOUT):
        raise PermanentStorageError(
            f"{path} has layout {version}, this program knows 1 to {LAYOUT}: "
            "run the program that wrote it, or move the file away"
        )
    has_rows = _tables(cursor, ("ec_consumption",)) > 0
    if version == 1:
        cursor.execute("DROP INDEX ec_minute_unsealed")
        cursor.execute("ALTER TABLE ec_minute RENAME COLUMN sealed TO digest_cached")
        cursor.execute("ALTER TABLE ec_minute ADD COLUMN packed INTEGER NOT NULL DEFAULT 0")
    else:
        cursor.execute((_SCHEMA / "sqlite_day.sql").read_text("utf-8"))
    cursor.execute((_SCHEMA / "sqlite_day_own.sql").read_text("utf-8"))
    if version == 1:
        make_views(db, LAYOUT)
        _settle_layout_1(cursor, date)
    elif has_rows:
        adopt(cursor, date)
    cursor.execute(f"PRAGMA user_version = {LAYOUT}")


def _is_complete(cursor: apsw.Cursor) -> bool:
    return _tables(cursor, _TABLES) == len(_TABLES)


def _tables(cursor: apsw.Cursor, names: tuple[str, ...]) -> int:
    """How many of the tables there are."""
    wanted = ", ".join("?" * len(names))
    statement = f"SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ({wanted})"  # noqa: S608
    return int(the_value(cursor.execute(statement, names)))


def _settle_layout_1(cursor: apsw.Cursor, date: str) -> None:
    states = ", ".join(f"'{state.value}'" for state in SETTLED)
    lines = all_rows(
        cursor.execute(
            f"SELECT device_id, ec_time FROM minute_line WHERE state IN ({states}) ORDER BY 1, 2"  # noqa: S608
        )
    )
    for device_id, group in groupby(lines, key=lambda line: line[0]):
        found = of_minutes(parse_ec(date, time_text) for _, time_text in group)
        cursor.executemany("INSERT INTO ec_settled VALUES (?, ?, ?)", [(device_id, *r) for r in found])


def adopt(cursor: apsw.Cursor, date: str) -> None:
    """Count the rows, and forget what is said of them. New rows rank above all that may be packed."""
    for table in ("ec_checksum", "ec_minute", "ec_settled", "ec_block_total", "ec_file"):
        cursor.execute(f"DELETE FROM {table}")  # noqa: S608
    cursor.execute(_COUNTED, (date,))
    cursor.execute("INSERT INTO ec_file VALUES (0)")  # behind what is known of it: nothing proves anything
    cursor.execute(
        "INSERT INTO ec_block_total"
        " SELECT iif(count(*), ?, 0), coalesce(sum(length(block)), 0) FROM ec_block",
        (first_rowid(time.time_ns() // 1000),),
    )
