"""``progress.db`` beside the day files: devices, minutes without rows, known days, damage; no proof.

Its methods raise apsw's errors; SqliteStore translates them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import apsw

from ec_server.storage import ranges
from ec_server.storage.ranges import Range
from ec_server.storage.sqlite_connection import all_rows, connect, the_value, transaction
from ec_server.storage.sqlite_lasting import LastingCommits
from utilities.utc import DAY_S

LAYOUT = 2
_SCHEMA = Path(__file__).with_name("schema") / "sqlite_progress.sql"
_FROM_LAYOUT_1 = (
    "ALTER TABLE device RENAME COLUMN verified_from TO covered_from",
    "ALTER TABLE device DROP COLUMN verified_through",
    "ALTER TABLE known_day ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
)
_EMPTY = "SELECT start, stop FROM empty_range WHERE device_id = ? ORDER BY start"

_ADD_REOPENED = "ALTER TABLE device ADD COLUMN reopened TEXT NOT NULL DEFAULT ''"

DeviceLine = tuple[str, int, int, int | None, list[Range]]
"""device_id, first_seen_us, last_seen_us, covered_from, reopened"""


class ProgressFile:
    """The open file ``progress.db``."""

    def __init__(self, path: Path, *, read_only: bool, synchronous: str) -> None:
        self.path = path
        self._db: apsw.Connection = connect(path, read_only=read_only, synchronous=synchronous)
        self._lasting = LastingCommits(self._db, synchronous)
        if not read_only:
            self._make_tables()
        self._layout = int(the_value(self._db.execute("PRAGMA user_version")))

    def _make_tables(self) -> None:
        with transaction(self._db) as cursor:
            version = the_value(cursor.execute("PRAGMA user_version"))
            if version == LAYOUT:
                if not self._has_reopened():  # created before this column existed
                    cursor.execute(_ADD_REOPENED)
                return
            for statement in (*_FROM_LAYOUT_1, _ADD_REOPENED) if version == 1 else ():
                cursor.execute(statement)
            cursor.execute(_SCHEMA.read_text("utf-8"))
            cursor.execute(f"PRAGMA user_version = {LAYOUT}")

    def _has_reopened(self) -> bool:
        found = self._db.execute("SELECT 1 FROM pragma_table_info('device') WHERE name = 'reopened'")
        return bool(the_value(found))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # --- devices --------------------------------------------------------------------------

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """Record when devices were seen, in epoch microseconds."""
        with transaction(self._db) as cursor:
            cursor.executemany(
                "INSERT INTO device (device_id, first_seen_us, last_seen_us) VALUES (?1, ?2, ?2)"
                " ON CONFLICT DO UPDATE SET last_seen_us = max(last_seen_us, excluded.last_seen_us)",
                list(seen.items()),
            )

    def devices(self, device_id: str | None = None) -> list[DeviceLine]:
        """Every device, or only the given one."""
        covered_from = "covered_from" if self._layout == LAYOUT else "verified_from"
        reopened = "reopened" if self._has_reopened() else "''"
        cursor = self._db.execute(
            f"SELECT device_id, first_seen_us, last_seen_us, {covered_from}, {reopened} FROM device"  # noqa: S608
            " WHERE ?1 IS NULL OR device_id = ?1 ORDER BY device_id",
            (device_id,),
        )
        lines = _lines(cursor, str, int, int, (int, NoneType), str)
        return [(*line, _ranges_of(reopened)) for *line, reopened in lines]

    def note_coverage(self, device_id: str, start: int) -> None:
        """Record the first minute of a device that rounds cover."""
        with transaction(self._db) as cursor:
            cursor.execute("UPDATE device SET covered_from = ? WHERE device_id = ?", (start, device_id))

    def note_reopened(self, device_id: str, reopened: Iterable[Range]) -> None:
        """Record which minutes the device is recording again; survives a power failure."""
        self._lasting.run(lambda: self._note_reopened(device_id, ranges.text_of(reopened)))

    def _note_reopened(self, device_id: str, text: str) -> None:
        self._lasting.must_last()
        with transaction(self._db) as cursor:
            cursor.execute("UPDATE device SET reopened = ? WHERE device_id = ?", (text, device_id))

    # --- minutes without rows -------------------------------------------------------------

    def empty_ranges(self, device_id: str) -> list[Range]:
        """Ranges of minutes that neither side has anything of."""
        return self._empty(self._db.cursor(), device_id)

    def empty_ranges_of_all(self) -> dict[str, list[Range]]:
        """``empty_ranges`` of every device that has any."""
        found: dict[str, list[Range]] = {}
        lines = _lines(self._db.execute("SELECT * FROM empty_range ORDER BY 1, 2"), str, int, int)
        for device_id, start, stop in lines:
            found.setdefault(device_id, []).append((start, stop))
        return found

    def change_empty(self, device_id: str, add: Iterable[int], take: Iterable[int]) -> None:
        """Add minutes to the empty ranges, and remove others."""
        added, taken = ranges.of_minutes(add), ranges.of_minutes(take)

        def after(before: list[Range]) -> list[Range]:
            return ranges.union(ranges.subtract(before, taken) + added)

        known = self.empty_ranges(device_id)
        if after(known) == known:
            return  # as mostly: no lock is taken
        with transaction(self._db) as cursor:
            self._put_empty(cursor, device_id, after(self._empty(cursor, device_id)))

    @staticmethod
    def _empty(cursor: apsw.Cursor, device_id: str) -> list[Range]:
        return [(start, stop) for start, stop in _lines(cursor.execute(_EMPTY, (device_id,)), int, int)]

    @staticmethod
    def _put_empty(cursor: apsw.Cursor, device_id: str, empty: Iterable[Range]) -> None:
        cursor.execute("DELETE FROM empty_range WHERE device_id = ?", (device_id,))
        cursor.executemany("INSERT INTO empty_range VALUES (?, ?, ?)", [(device_id, *r) for r in empty])

    # --- days -----------------------------------------------------------------------------

    def known_days(self) -> dict[int, int]:
        """Days that have had a file, with its latest known generation; negative if the file is gone."""
        if self._layout != LAYOUT:
            return {day: 0 for (day,) in self._db.execute("SELECT day FROM known_day")}
        return dict(_lines(self._db.execute("SELECT day, generation FROM known_day"), int, int))

    def known_generation(self, day: int) -> int:
        """The latest known generation of a day's file, gone or not; 0 if there was none."""
        if self._layout != LAYOUT:
            return 0
        found = self._db.execute("SELECT abs(generation) FROM known_day WHERE day = ?", (day,))
        return int(the_value(found) or 0)

    def know_day(self, day: int, generation: int) -> int:
        """Record that a day has a file of at least this generation; returns the latest known generation."""
        with transaction(self._db) as cursor:
            return int(
                the_value(
                    cursor.execute(
                        "INSERT INTO known_day VALUES (?, ?) ON CONFLICT DO UPDATE SET"
                        " generation = max(abs(generation), excluded.generation) RETURNING generation",
                        (day, generation),
                    )
                )
            )

    def day_is_gone(self, day: int) -> None:
        """Record that the day's file is missing: the generation of a new one must be higher."""
        with transaction(self._db) as cursor:
            cursor.execute("UPDATE known_day SET generation = -1 - abs(generation) WHERE day = ?", (day,))

    def day_went_back(self, day: int) -> None:
        """Discard the day's empty minutes, as its file is gone or has reverted to an older state."""
        with transaction(self._db) as cursor:
            statement = "SELECT device_id, start, stop FROM empty_range WHERE start < ? AND stop > ?"
            hit = {d for d, _, _ in _lines(cursor.execute(statement, (day + DAY_S, day)), str, int, int)}
            for device_id in hit:
                before = self._empty(cursor, device_id)
                self._put_empty(cursor, device_id, ranges.subtract(before, [(day, day + DAY_S)]))

    def forget_day(self, day: int) -> None:
        """Forget a day that retention has removed."""
        with transaction(self._db) as cursor:
            cursor.execute("DELETE FROM known_day WHERE day = ?", (day,))

    # --- damage ---------------------------------------------------------------------------

    def damage(self) -> list[tuple[str, str, int, str]]:
        """``(file, device, minute, detail)``; device "" and minute 0 for a whole file."""
        if self._layout != LAYOUT:
            return []
        found = self._db.execute("SELECT file, device_id, minute, detail FROM damage ORDER BY 1, 2, 3")
        return _lines(found, str, str, int, str)

    def damaged_files(self) -> list[tuple[str, int]]:
        """``(file, noticed_us)`` of whole files that are on record as damaged."""
        found = self._db.execute("SELECT file, noticed_us FROM damage WHERE device_id = ''")
        return _lines(found, str, int)

    def note_damage(self, file: str, device_id: str, minute: int, detail: str) -> None:
        """Record damage."""
        with transaction(self._db) as cursor:
            cursor.execute(
                "INSERT OR REPLACE INTO damage VALUES (?, ?, ?, ?, ?)",
                (file, device_id, minute, detail, time.time_ns() // 1000),
            )

    def clear_damage(self, file: str, device_id: str, minutes: Iterable[int]) -> None:
        """Remove the damage of these minutes from the record."""
        with transaction(self._db) as cursor:
            cursor.executemany(
                "DELETE FROM damage WHERE file = ? AND device_id = ? AND minute = ?",
                [(file, device_id, minute) for minute in minutes],
            )


def _lines(cursor: apsw.Cursor, *types: type | tuple[type, ...]) -> list[tuple[Any, ...]]:
    """The lines of a statement. apsw.CorruptError where a value has a type that this program never writes."""
    lines = all_rows(cursor)
    for line in lines:
        if not all(map(isinstance, line, types)):
            raise apsw.CorruptError(f"a line is not as this program wrote it: {line}")
    return lines


def _ranges_of(text: str) -> list[Range]:
    try:
        return ranges.of_text(text)
    except ValueError as error:
        raise apsw.CorruptError(f"the minutes that a device records again are unreadable: {error}") from error
