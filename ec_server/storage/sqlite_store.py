"""The embedded engine: one SQLite file per UTC day, and ``progress.db``; see docs/storage.md.

Rules:

1. A day's rows, digests and verdicts are in the same file, so that they change together. ``progress.db``
   holds what spans days and is no proof: devices, minutes without rows, known days.
2. The verdicts in a day file count only if the file has not reverted to an older state (sqlite_trust.py).
3. A file that SQLite cannot read affects only its day, damaged rows only their minute (sqlite_folder.py).
4. Below ``storage.min_free_mb`` nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from ec_server.storage.contract import FinishedMinute, Packed, ReplacedRow, StorageHealth, Store, StoredBytes
from ec_server.storage.merge import single_day
from ec_server.storage.sqlite_backlog import Backlog
from ec_server.storage.sqlite_files import Day
from ec_server.storage.sqlite_folder import SqliteFolder
from ec_server.storage.sqlite_records import Records
from ec_server.storage.sqlite_trust import DayTrust
from ec_server.storage.sqlite_written import Written
from utilities.errors import DamagedFileError, RetryableStorageError
from utilities.model import (
    Batch,
    CommitMark,
    DeviceRecord,
    Digest,
    MinuteRecord,
    MinuteState,
    StoredRow,
    Verdict,
    WriteResult,
)
from utilities.utc import MINUTE_S, day_of, ec_date, minute_of

_FOR_EVER = 2**62


class SqliteStore(Store):
    """See the contract. ``folder`` is ``storage.path``; it is created if it is missing."""

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        synchronous: str = "normal",
        min_free_bytes: int = 0,
    ) -> None:
        self._folder = SqliteFolder(
            folder, read_only=read_only, synchronous=synchronous, min_free_bytes=min_free_bytes
        )
        self._trust = DayTrust(self._folder)
        self._records = Records(self._folder, self._trust)
        self._last_insert_us = 0
        self._backlog = Backlog(self._folder)

    def close(self) -> None:
        """See the contract."""
        self._folder.close()

    # --- writing --------------------------------------------------------------------------

    def ingest(self, batches: Sequence[Batch], mark: CommitMark | None = None) -> WriteResult:
        """See the contract."""
        now_us = max(time.time_ns() // 1000, self._last_insert_us + 1)
        self._last_insert_us = now_us + len(batches) - 1
        return self._write(batches, lambda day: day.writes.ingest(batches, mark, now_us))

    def repair(self, batches: Sequence[Batch]) -> WriteResult:
        """See the contract."""
        return self._write(batches, lambda day: day.writes.repair(batches))

    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        """See the contract."""
        return self._write([row.batch for row in rows], lambda day: day.writes.replay(rows))

    def keep_replaced(self, kept: Sequence[ReplacedRow]) -> None:
        """See the contract."""
        for day, group in groupby(kept, key=lambda one: day_of(one.row.batch.second)):
            of_day = list(group)
            self._trust.know(day)
            while not self._folder.on_day("writing to", day, lambda d, k=of_day: d.writes.keep_replaced(k)):  # type: ignore[misc]
                self._folder.days.forget(day)

    def _write(self, batches: Sequence[Batch], write: Callable[[Day], Written | None]) -> WriteResult:
        day = single_day(batches)
        if day is None:
            return WriteResult(())
        self._guard_space()
        self._trust.know(day)
        written = None
        while written is None:
            written = self._trust.write("writing to", day, write)
            if written is None:
                self._folder.days.forget(day)
        if written.generation is not None:
            known = self._trust.tell(day, written.generation)
            if known > written.generation:  # it has reverted: record that before the fact is lost
                self._trust.is_trusted(day, known)
        return written.result

    def _guard_space(self) -> None:
        writable, detail, _ = self._folder.space()
        if not writable:
            raise RetryableStorageError(detail)

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """See the contract."""
        if not self._folder.days.path(day).exists():
            return None
        found = self._folder.on_day(
            "reading",
            day,
            lambda of_day: of_day.file.db.execute(
                "SELECT sequence, stored, duplicate FROM ec_writer WHERE writer = ?", (writer,)
            ).fetchone(),
        )
        return (int(found[0]), int(found[1]), int(found[2])) if found else None

    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """See the contract."""
        taken = 0
        for day, group in groupby(sorted(finished, key=_minute), key=lambda f: day_of(f.minute)):
            of_day = list(group)
            if self._folder.days.path(day).exists():
                taken += self._folder.on_day(
                    "writing digests to",
                    day,
                    lambda d, f=of_day: d.digests.publish(f),  # type: ignore[misc]
                )
        return taken

    # --- reading --------------------------------------------------------------------------

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """See the contract; holds one minute in memory at a time."""
        counts = self._folder.of_days(
            minute_of(start), stop, lambda d, a, b: d.file.row_counts(device_id, a, b)
        )
        for minute, _, _ in counts:
            first, last = max(start, minute), min(stop, minute + MINUTE_S)
            yield from self._folder.of_days(first, last, lambda d, a, b: d.rows.all(device_id, a, b))

    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """See the contract."""
        return list(self._folder.of_days(start, stop, lambda d, a, b: d.rows.replaced(device_id, a, b)))

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        texts = self._folder.of_days(second, second + 1, lambda d, a, b: d.rows.texts(device_id, a, b))
        return next((text for _, text in texts), "")

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        return list(
            self._folder.of_days(
                minute,
                minute + MINUTE_S,
                lambda d, a, _: d.digests.of_seconds(device_id, a, from_rows=from_rows),
            )
        )

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        return list(
            self._folder.of_days(
                start, stop, lambda d, a, b: d.digests.of_minutes(device_id, a, b, from_rows=from_rows)
            )
        )

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract."""
        return list(self._folder.of_days(start, stop, lambda d, a, b: d.file.row_counts(device_id, a, b)))

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        found = self._folder.of_days(0, _FOR_EVER, lambda d, _a, _b: [d.file.first_minute(device_id)])
        return next((minute for minute in found if minute is not None), None)

    def stored_days(self) -> list[tuple[str, int]]:
        """See the contract."""
        found = self._folder.of_days(0, _FOR_EVER, lambda d, day, _: [(one, day) for one in d.file.devices()])
        return sorted(found)

    def latest_second(self) -> int | None:
        """See the contract; accurate to the minute."""
        for day in reversed(self._folder.days.stored()):
            (minute,) = list(
                self._folder.of_days(day, day + 1, lambda d, _a, _b: [d.file.last_minute()])
            ) or [None]
            if minute is not None:
                return minute + MINUTE_S - 1
        return None

    # --- devices --------------------------------------------------------------------------

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """See the contract."""
        self._folder.in_progress("writing to", lambda progress: progress.note_devices(seen))

    def note_coverage(self, device_id: str, start: int) -> None:
        """See the contract."""
        self._folder.in_progress("writing to", lambda progress: progress.note_coverage(device_id, start))

    def note_reopened(self, device_id: str, reopened: Sequence[tuple[int, int]]) -> None:
        """See the contract."""
        self._folder.in_progress("writing to", lambda progress: progress.note_reopened(device_id, reopened))

    def devices(self) -> list[DeviceRecord]:
        """See the contract."""
        return self._records.devices()

    def device(self, device_id: str) -> DeviceRecord | None:
        """See the contract."""
        return self._records.device(device_id)

    # --- proof ----------------------------------------------------------------------------

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract."""
        return self._records.unproven_ranges(device_id, start, stop)

    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """See the contract."""
        return self._records.ranges_in(device_id, start, stop, states)

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract."""
        return self._records.record_verdicts(device_id, verdicts, compared_us)

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        return self._records.minutes(device_id, start, stop)

    def checks(self, device_id: str, minute: int) -> dict[tuple[int, str], tuple[int | None, int]]:
        """See the contract. What is not cached was compared as often as its minute."""
        cached = self._folder.of_days(
            minute, minute + MINUTE_S, lambda d, a, _: d.proof.checks(device_id, a).items()
        )
        return super().checks(device_id, minute) | dict(cached)

    # --- keeping --------------------------------------------------------------------------

    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """See the contract."""
        return list(self._folder.of_days(0, before, lambda d, _a, _b: d.digests.absent(before)))

    def unpacked_minutes(self, before: int, most: int) -> list[tuple[str, int]]:
        """See the contract."""
        return self._backlog.unpacked_minutes(before, most)

    def count_unpacked(self, before: int) -> int:
        """See the contract."""
        return self._backlog.count_unpacked(before)

    def pack_minutes(self, minutes: Sequence[tuple[str, int]]) -> Iterator[Packed]:
        """See the contract. Allowed even if space is short: packing frees more than it needs."""
        for day, of_day in groupby(minutes, lambda one: day_of(one[1])):
            if self._folder.days.path(day).exists():
                yield from self._pack_day(day, list(of_day))

    def _pack_day(self, day: int, minutes: Sequence[tuple[str, int]]) -> Iterator[Packed]:
        plan = self._folder.on_day("packing", day, lambda d: d.packing.plan(minutes))
        while plan.minutes:
            yield self._folder.on_day("packing", day, lambda d: d.packing.pack_some(plan))

    def return_space(self, before: int) -> bool:
        """See the contract. Today's file keeps some free space for the next rows."""
        return self._backlog.return_space(before)

    def stored_bytes(self) -> StoredBytes:
        """See the contract."""
        return self._backlog.stored_bytes()

    def remove_before(self, day: int) -> list[str]:
        """See the contract."""
        removed = []
        for old in [d for d in self._folder.days.stored() if d < day]:
            self._trust.day_is_gone(old)
            self._folder.in_progress("writing to", lambda progress, d=old: progress.forget_day(d))  # type: ignore[misc]
            try:
                self._folder.days.remove(old)
            except DamagedFileError:
                self._folder.days.forget(old)
                self._folder.days.delete(old)
            self._records.forget(old)
            self._backlog.forget(old)
            removed.append(ec_date(old))
        return removed

    def health(self) -> StorageHealth:
        """See the contract."""
        writable, detail, free = self._folder.space()
        return StorageHealth(writable, detail, free, tuple(self._folder.damage()))


def _minute(of: FinishedMinute) -> int:
    return of.minute
