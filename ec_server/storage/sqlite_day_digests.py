"""The digests of an open day file: cached ones, and those computed from the rows.

Rules:

1. ``ec_checksum`` holds only digests that match the rows. A digest is inserted in a transaction that
   finds the minute's ``version`` unchanged since the rows were read (``_cache``), or finds that the minute's
   ``writer`` is still the only process that wrote to it, and its ``version`` that of this one's last write
   (``publish``; sqlite_written.py).
2. While ``ec_minute.writer`` is set, no digest of that minute is cached. So that writer, and no other, may
   add rows without looking for digests to remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from ec_server.storage.contract import FinishedMinute
from ec_server.storage.digests import digest_of_minute, digest_of_second
from ec_server.storage.sqlite_connection import the_row, the_value, transaction
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_day_blocks import READABLE_TIME
from ec_server.storage.sqlite_day_rows import SPAN, DayRows
from utilities.model import Digest
from utilities.utc import MINUTE_S, ec_time, parse_ec

_CACHE = (
    "INSERT INTO ec_checksum VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " values_count = excluded.values_count, values_checksum = excluded.values_checksum"
)


class DayDigests:
    """The digests of one open day file; raises apsw's errors."""

    def __init__(self, file: DayFile, rows: DayRows) -> None:
        self._file = file
        self._rows = rows

    def of_seconds(self, device_id: str, minute: int, *, from_rows: bool) -> list[tuple[int, Digest]]:
        """Digests of the minute's non-empty seconds, from the cache or else from the rows."""
        with transaction(self._file.db, "DEFERRED") as cursor:
            version, is_cached = self._version_of(cursor, device_id, minute)
            cached = {} if from_rows else self._cached_seconds(cursor, device_id, minute)
            if cached:
                seconds = set(self._seconds_with_rows(cursor, device_id, minute))
                missing = [(second, second + 1) for second in seconds.difference(cached)]
                cached = {second: cached[second] for second in seconds.intersection(cached)}
            else:  # all at once, as each reading costs more than a short second's rows
                missing = [(minute, minute + MINUTE_S)]
            computed: dict[int, Digest] = {}
            for span in missing:
                for second, text in self._rows.texts(device_id, *span, trusted=not from_rows):
                    if digest := digest_of_second(text):
                        computed[second] = digest
        digests = sorted((cached | computed).items())
        if not self._file.read_only and version is not None and (from_rows or computed or not is_cached):
            self._cache(device_id, minute, version, digests, computed)
        return digests

    def of_minutes(
        self, device_id: str, start: int, stop: int, *, from_rows: bool
    ) -> list[tuple[int, Digest]]:
        """Digests of this day's non-empty minutes in ``[start, stop)``, ascending."""
        first, last = self._file.span(start, stop)
        cached = dict(
            self._file.db.execute(
                "SELECT ec_time, values_count || ' ' || values_checksum FROM digest_line"  # noqa: S608
                f" WHERE {SPAN} AND ec_type = 'P'",
                (device_id, self._file.date, first, last),
            )
        )
        found = []
        for minute, _, _ in self._file.row_counts(device_id, start, stop):
            known = cached.get(ec_time(minute))
            if known is not None and not from_rows:
                count, md5 = known.split()
                found.append((minute, Digest(int(count), md5)))
            elif whole := digest_of_minute(self.of_seconds(device_id, minute, from_rows=from_rows)):
                found.append((minute, whole))
        return found

    def _seconds_with_rows(self, cursor: apsw.Cursor, device_id: str, minute: int) -> list[int]:
        """The minute's seconds that have rows: one index seek for each, without reading rows."""
        at, last = ec_time(minute), ec_time(minute + 59)
        seconds = []
        statement = (
            "SELECT min(ec_time) FROM ec_consumption WHERE device_id = ? AND ec_date = ?"  # noqa: S608
            f" AND ec_time >= ? AND ec_time <= ? AND {READABLE_TIME}"
        )
        while time_text := the_value(cursor.execute(statement, (device_id, self._file.date, at, last))):
            seconds.append(parse_ec(self._file.date, time_text))
            at = f"{time_text}~"  # sorts after every row of that second
        packed = self._file.blocks.times(device_id, ec_time(minute), last)
        return seconds + [parse_ec(self._file.date, time_text) for time_text in packed]

    def _cached_seconds(self, cursor: apsw.Cursor, device_id: str, minute: int) -> dict[int, Digest]:
        found = cursor.execute(
            f"SELECT ec_time, values_count, values_checksum FROM digest_line WHERE {SPAN}"  # noqa: S608
            " AND ec_type = 'S'",
            (device_id, self._file.date, ec_time(minute), ec_time(minute + 59)),
        )
        return {parse_ec(self._file.date, t): Digest(count, md5) for t, count, md5 in found}

    def _version_of(self, cursor: apsw.Cursor, device_id: str, minute: int) -> tuple[int | None, bool]:
        found = cursor.execute(
            "SELECT version, digest_cached FROM minute_line WHERE device_id = ? AND ec_time = ?",
            (device_id, ec_time(minute)),
        ).fetchone()
        return (found[0], bool(found[1])) if found else (None, False)

    def _cache(
        self,
        device_id: str,
        minute: int,
        version: int,
        digests: Sequence[tuple[int, Digest]],
        computed: dict[int, Digest],
    ) -> None:
        """Cache what was computed, unless the minute's rows have changed since they were read."""
        with transaction(self._file.db) as cursor:
            cursor.execute(
                "UPDATE ec_minute SET writer = NULL, digest_cached = ? WHERE device_id = ? AND ec_time = ?"
                " AND version = ?",
                (int(bool(digests)), device_id, ec_time(minute), version),
            )
            if self._file.db.changes() == 1:
                gone = self._cached_seconds(cursor, device_id, minute).keys() - dict(digests).keys()
                self.forget(cursor, device_id, minute, gone)
                self._put_digests(cursor, device_id, minute, computed.items(), digest_of_minute(digests))

    def forget(self, cursor: apsw.Cursor, device_id: str, minute: int, seconds: Iterable[int]) -> None:
        """Remove the cached digests of a minute and of some of its seconds, within a transaction.

        From now on they are computed from the rows.
        """
        cursor.execute(
            "UPDATE ec_minute SET writer = NULL WHERE device_id = ? AND ec_time = ? AND writer IS NOT NULL",
            (device_id, ec_time(minute)),
        )
        statement = (
            "DELETE FROM ec_checksum WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND ec_type = ?"
        )
        cursor.execute(statement, (device_id, self._file.date, ec_time(minute), "P"))
        cursor.executemany(statement, [(device_id, self._file.date, ec_time(s), "S") for s in seconds])

    def publish(self, finished: Iterable[FinishedMinute]) -> int:
        """Cache digests of minutes that only this connection's writer wrote; returns how many."""
        taken = 0
        with transaction(self._file.db) as cursor:
            for one in finished:
                cursor.execute(
                    "UPDATE ec_minute SET writer = NULL, digest_cached = ? WHERE device_id = ?"
                    " AND ec_time = ? AND writer = ? AND version = ?",
                    (
                        int(one.complete),
                        one.device_id,
                        ec_time(one.minute),
                        self._file.writer,
                        self._file.own.version((one.device_id, one.minute)),
                    ),
                )
                if self._file.db.changes() == 1:
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
        """Comparisons so far are those of the minute: a digest that a write took away was compared, too."""
        check = the_row(
            cursor.execute(
                "SELECT check_time, check_times FROM minute_line WHERE device_id = ? AND ec_time = ?",
                (device_id, ec_time(minute)),
            )
        )
        of_day = (device_id, self._file.date)
        rows: list[tuple[Any, ...]] = [(*of_day, ec_time(s), "S", d.count, d.md5, *check) for s, d in seconds]
        if whole is not None:
            rows.append((*of_day, ec_time(minute), "P", whole.count, whole.md5, *check))
        cursor.executemany(_CACHE, rows)

    def absent(self, before: int) -> list[tuple[str, int]]:
        """``(device, minute)`` that ended before ``before`` and has rows but no cached minute digest."""
        found = self._file.db.execute(
            "SELECT device_id, ec_time FROM minute_line WHERE digest_cached = 0 AND ec_time < ?"
            " AND row_count > 0 ORDER BY ec_time",
            (ec_time(before - MINUTE_S + 1) if before - MINUTE_S + 1 < self._file.day + 86_400 else "~",),
        )
        return [(d, parse_ec(self._file.date, t)) for d, t in found]
