"""The SQLite file beside the day files: devices, how far each is proven, minutes without rows.

Its calls raise apsw's errors; SqliteStore translates them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import apsw

from ec_server.storage import ranges
from ec_server.storage.sqlite_connection import all_rows, connect, transaction

_SCHEMA = Path(__file__).with_name("schema") / "sqlite_progress.sql"
_EMPTY = "SELECT start, stop FROM empty_range WHERE device_id = ? ORDER BY start"

DeviceLine = tuple[str, int, int, int | None, int | None]
"""device_id, first_seen_us, last_seen_us, verified_from, verified_through"""


class ProgressFile:
    """The open file ``progress.db``."""

    def __init__(self, path: Path, *, read_only: bool, synchronous: str) -> None:
        self.path = path
        self._db: apsw.Connection = connect(path, read_only=read_only, synchronous=synchronous)
        if not read_only:
            with transaction(self._db) as cursor:
                if cursor.execute("PRAGMA user_version").get == 0:
                    cursor.execute(_SCHEMA.read_text("utf-8"))
                    cursor.execute("PRAGMA user_version = 1")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """First and last moment a device was seen, epoch microseconds."""
        with transaction(self._db) as cursor:
            cursor.executemany(
                "INSERT INTO device (device_id, first_seen_us, last_seen_us) VALUES (?1, ?2, ?2)"
                " ON CONFLICT DO UPDATE SET last_seen_us = max(last_seen_us, excluded.last_seen_us)",
                list(seen.items()),
            )

    def devices(self, device_id: str | None = None) -> list[DeviceLine]:
        """Every device, or the one."""
        cursor = self._db.execute(
            "SELECT device_id, first_seen_us, last_seen_us, verified_from, verified_through FROM device"
            " WHERE ?1 IS NULL OR device_id = ?1 ORDER BY device_id",
            (device_id,),
        )
        return all_rows(cursor)

    def set_verified(self, device_id: str, start: int, through: int) -> None:
        """Every minute of the range is proven or unconfirmable."""
        with transaction(self._db) as cursor:
            cursor.execute(
                "UPDATE device SET verified_from = ?, verified_through = ? WHERE device_id = ?",
                (start, through, device_id),
            )

    def empty_ranges(self, device_id: str) -> list[tuple[int, int]]:
        """Ranges of minutes that neither side has anything of."""
        return all_rows(self._db.execute(_EMPTY, (device_id,)))

    def change_empty(self, device_id: str, add: Sequence[int], take: Sequence[int]) -> None:
        """Add minutes to the empty ranges, and take others out."""
        with transaction(self._db) as cursor:
            before: list[ranges.Range] = all_rows(cursor.execute(_EMPTY, (device_id,)))
            after = ranges.union(ranges.subtract(before, ranges.of_minutes(take)) + ranges.of_minutes(add))
            if after != before:
                cursor.execute("DELETE FROM empty_range WHERE device_id = ?", (device_id,))
                cursor.executemany(
                    "INSERT INTO empty_range VALUES (?, ?, ?)", [(device_id, *r) for r in after]
                )

    def known_days(self) -> set[int]:
        """Days that have had a file."""
        return {day for (day,) in self._db.execute("SELECT day FROM known_day")}

    def know_days(self, days: Iterable[int]) -> None:
        """Put on record that these days have a file."""
        with transaction(self._db) as cursor:
            cursor.executemany("INSERT OR IGNORE INTO known_day VALUES (?)", [(d,) for d in days])

    def forget_days(self, days: Iterable[int], *, lost: bool) -> None:
        """The files are gone: by retention, or ``lost``, and then what they proved is proven no more."""
        with transaction(self._db) as cursor:
            for day in sorted(days, reverse=True):
                cursor.execute("DELETE FROM known_day WHERE day = ?", (day,))
                if lost:
                    cursor.execute(
                        "UPDATE device SET verified_through = max(verified_from, ?1)"
                        " WHERE verified_through > ?1",
                        (day,),
                    )
