"""The embedded engine: a SQLite file a UTC day, and one for progress; see docs/storage.md.

Rules:

1. A day's rows, digests and verdicts stand in that day's file, so that they change together. What
   spans days (devices, how far each is proven) stands in ``progress.db`` and is derived: where it
   disagrees with the day files, the day files are right.
2. Below ``storage.min_free_mb`` nothing is written: SQLite survives a full disk, other programs on
   the machine may not, and a repair needs room.
3. Day files that are not today's change rarely: what is read from them again and again is kept as
   long as the file's size and time of change stay the same.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from ec_server.storage import ranges
from ec_server.storage.contract import FinishedMinute, StorageHealth, Store
from ec_server.storage.merge import single_day
from ec_server.storage.sqlite_connection import translated
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_progress import DeviceLine, ProgressFile
from utilities.errors import PermanentStorageError, RetryableStorageError
from utilities.model import (
    Batch,
    CommitMark,
    DeviceRecord,
    Digest,
    MinuteRecord,
    MinuteState,
    Verdict,
    WriteResult,
)
from utilities.utc import DAY_S, day_of, ec_date, parse_ec

_DAY_FILE = re.compile(r"ec-(\d{8})\.sqlite")
_OPEN_DAYS = 32
_SETTLED_AFTER_S = 60.0

_T = TypeVar("_T")
_Notable = list[tuple[str, int, str | None, int, int]]


class SqliteStore(Store):
    """See the contract. ``folder`` is ``storage.path``; it is made where it is missing."""

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        synchronous: str = "normal",
        min_free_bytes: int = 0,
    ) -> None:
        self._folder = folder
        self._read_only = read_only
        self._synchronous = synchronous
        self._min_free_bytes = min_free_bytes
        self._writer = uuid.uuid4().hex
        self._days: OrderedDict[int, DayFile] = OrderedDict()
        self._progress: ProgressFile | None = None
        self._known: set[int] = set()
        self._last_insert_us = 0
        self._settled: dict[int, tuple[tuple[int, ...], dict[str, _Notable]]] = {}
        if not read_only:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PermanentStorageError(
                    f"cannot make the folder {folder} (storage.path): {error.strerror}"
                ) from error

    def close(self) -> None:
        """See the contract."""
        for file in self._days.values():
            file.close()
        self._days.clear()
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    # --- files ----------------------------------------------------------------------------

    def _path(self, day: int) -> Path:
        return self._folder / f"ec-{ec_date(day)}.sqlite"

    def _stored_days(self) -> list[int]:
        """Days that have a file, ascending."""
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 (hundreds of names, asked often)
        except FileNotFoundError:
            return []
        found = []
        for match in filter(None, map(_DAY_FILE.fullmatch, names)):
            try:
                found.append(parse_ec(match[1], "000000"))
            except ValueError:
                continue  # somebody's copy, not a day
        return sorted(found)

    def _days_in(self, start: int, stop: int) -> list[int]:
        return [d for d in self._stored_days() if d < stop and d + DAY_S > start]

    def _day(self, day: int) -> DayFile:
        """The day's open file; made where it is missing. Call within ``translated``."""
        path, file = self._path(day), self._days.get(day)
        if file is not None:
            try:
                if path.stat().st_ino == file.inode:
                    self._days.move_to_end(day)
                    return file
            except FileNotFoundError:
                pass
            self._days.pop(day).close()
        while len(self._days) >= _OPEN_DAYS:
            self._days.popitem(last=False)[1].close()
        file = DayFile(
            path, day, read_only=self._read_only, synchronous=self._synchronous, writer=self._writer
        )
        self._days[day] = file
        return file

    def _progress_file(self) -> ProgressFile:
        if self._progress is None:
            self._progress = ProgressFile(
                self._folder / "progress.db", read_only=self._read_only, synchronous=self._synchronous
            )
        return self._progress

    def _has_progress(self) -> bool:
        return not self._read_only or (self._folder / "progress.db").exists()

    # --- ingest ---------------------------------------------------------------------------

    def write(
        self,
        batches: Sequence[Batch],
        mark: CommitMark | None = None,
        inserted_us: int | Sequence[int] | None = None,
    ) -> WriteResult:
        """See the contract."""
        day = single_day(batches)
        if day is None:
            return WriteResult(())
        self._guard_space()
        moments = self._moments(inserted_us, len(batches))
        with translated("writing to", self._path(day)):
            self._know(day)
            result = None
            while result is None:
                result = self._day(day).write(batches, mark, moments)
                if result is None:
                    self._days.pop(day).close()
        return result

    def _moments(self, inserted_us: int | Sequence[int] | None, count: int) -> Sequence[int]:
        """A moment for each batch: those given, or one microsecond apart and never stepping back."""
        if inserted_us is not None and not isinstance(inserted_us, int):
            return inserted_us
        start_us = max(inserted_us or time.time_ns() // 1000, self._last_insert_us + 1)
        self._last_insert_us = start_us + count - 1
        return range(start_us, start_us + count)

    def _know(self, day: int) -> None:
        """The day is on record before its first row is committed, so that its loss is noticed."""
        if day not in self._known:
            self._progress_file().know_days([day])
            self._known.add(day)

    def _guard_space(self) -> None:
        health = self.health()
        if not health.writable:
            raise RetryableStorageError(health.detail)

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """See the contract."""
        if not self._path(day).exists():
            return None
        with translated("reading", self._path(day)):
            return self._day(day).committed_mark(writer)

    def publish(self, finished: Sequence[FinishedMinute]) -> int:
        """See the contract."""
        taken = 0
        for day, of_day in groupby(sorted(finished, key=_minute), key=lambda f: day_of(f.minute)):
            if self._path(day).exists():
                with translated("writing digests to", self._path(day)):
                    taken += self._day(day).publish(of_day)
        return taken

    # --- reading --------------------------------------------------------------------------

    def _of_days(
        self, start: int, stop: int, read: Callable[[DayFile, int, int], Iterable[_T]]
    ) -> Iterator[_T]:
        """What ``read`` finds in each file of ``[start, stop)``, given the part of it that is the file's."""
        for day in self._days_in(start, stop):
            with translated("reading", self._path(day)):
                yield from read(self._day(day), max(start, day), min(stop, day + DAY_S))

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[tuple[Batch, int]]:
        """See the contract."""
        return self._of_days(start, stop, lambda file, first, last: file.rows(device_id, first, last))

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        texts = self._of_days(second, second + 1, lambda file, a, b: file.texts(device_id, a, b))
        return next((text for _, text in texts), "")

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        return list(
            self._of_days(
                minute,
                minute + 60,
                lambda file, first, _: file.second_digests(device_id, first, from_rows=from_rows),
            )
        )

    def minute_digests(
        self, device_id: str, start: int, stop: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        return list(
            self._of_days(
                start,
                stop,
                lambda file, first, last: file.minute_digests(device_id, first, last, from_rows=from_rows),
            )
        )

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract."""
        return list(self._of_days(start, stop, lambda file, a, b: file.row_counts(device_id, a, b)))

    # --- proof ----------------------------------------------------------------------------

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """See the contract."""
        with translated("writing to", self._folder / "progress.db"):
            self._progress_file().note_devices(seen)

    def devices(self) -> list[DeviceRecord]:
        """See the contract."""
        if not self._has_progress():
            return []
        with translated("reading", self._folder / "progress.db"):
            lines = self._progress_file().devices()
        notable: dict[str, _Notable] = {}
        for day in self._stored_days():
            for line in self._notable(day):
                notable.setdefault(line[0], []).append(line)
        return [_record(line, notable.get(line[0], [])) for line in lines]

    def device(self, device_id: str) -> DeviceRecord | None:
        """See the contract."""
        if not self._has_progress():
            return None
        with translated("reading", self._folder / "progress.db"):
            lines = self._progress_file().devices(device_id)
        if not lines:
            return None
        notable = [line for day in self._stored_days() for line in self._notable(day, device_id)]
        return _record(lines[0], notable)

    def _notable(self, day: int, device_id: str | None = None) -> _Notable:
        """Lines of minutes that are not simply proven: of every device, or of one."""
        stamp = self._stamp(day)
        kept = self._settled.get(day)
        if kept is None or kept[0] != stamp:
            with translated("reading", self._path(day)):
                if time.time() - max(stamp) / 1e9 < _SETTLED_AFTER_S:
                    return self._day(day).notable(device_id)
                by_device: dict[str, _Notable] = {}
                for line in self._day(day).notable():
                    by_device.setdefault(line[0], []).append(line)
                kept = self._settled[day] = (stamp, by_device)
        if device_id is not None:
            return kept[1].get(device_id, [])
        return [line for lines in kept[1].values() for line in lines]

    def _stamp(self, day: int) -> tuple[int, ...]:
        """What changes whenever the day's file does."""
        path, stamp = self._path(day), [0]
        for name in (path, path.with_name(path.name + "-wal")):
            try:
                found = name.stat()
                stamp += [found.st_mtime_ns, found.st_size]
            except FileNotFoundError:
                stamp += [0, 0]
        return tuple(stamp)

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        for day in self._stored_days():
            with translated("reading", self._path(day)):
                minute = self._day(day).first_minute(device_id)
            if minute is not None:
                return minute
        return None

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract."""
        verified, empty = [], []
        if self._has_progress():
            with translated("reading", self._folder / "progress.db"):
                self._notice_lost_days()
                for _, _, _, first, through in self._progress_file().devices(device_id):
                    verified = [(first, through)] if first is not None and through is not None else []
                empty = self._progress_file().empty_ranges(device_id)
        pending = ranges.subtract([(start, stop)], verified + empty)
        final: list[int] = []
        for first, last in pending:
            final += self._of_days(first, last, lambda file, a, b: file.final_minutes(device_id, a, b))
        unproven = ranges.subtract(pending, ranges.of_minutes(final))
        opened = [
            minute
            for day in self._days_in(start, stop)
            for _, minute, state, _, _ in self._notable(day, device_id)
            if state in (None, MinuteState.UNRESOLVED.value) and start <= minute < stop
        ]
        return ranges.union(unproven + ranges.of_minutes(opened))

    def _notice_lost_days(self) -> None:
        """A day's file that went without retention takes its proof with it."""
        known = self._progress_file().known_days()
        lost = known - set(self._stored_days())
        if lost and not self._read_only:
            self._progress_file().forget_days(lost, lost=True)
            self._known -= lost

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract."""
        changed: list[int] = []
        add: list[int] = []
        for day, group in groupby(sorted(verdicts, key=_minute), key=lambda v: day_of(v.minute)):
            of_day = list(group)
            unresolved = any(v.state is MinuteState.UNRESOLVED and v.seen is None for v in of_day)
            if self._path(day).exists() or unresolved:
                with translated("writing verdicts to", self._path(day)):
                    self._know(day)
                    elsewhere, moved = self._day(day).record_verdicts(device_id, of_day, compared_us)
            else:
                elsewhere = [v for v in of_day if v.seen is None]
                moved = [v.minute for v in of_day if v.seen is not None]
            changed += moved
            add += [v.minute for v in elsewhere if v.state is not MinuteState.UNRESOLVED]
        rest = {v.minute for v in verdicts}.difference(add)
        with translated("writing to", self._folder / "progress.db"):
            self._progress_file().change_empty(device_id, add, sorted(rest))
        return changed

    def record_progress(self, device_id: str, start: int, verified_through: int) -> None:
        """See the contract."""
        with translated("writing to", self._folder / "progress.db"):
            self._progress_file().set_verified(device_id, start, verified_through)

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        found = list(self._of_days(start, stop, lambda file, a, b: file.minutes(device_id, a, b)))
        if self._has_progress():
            with translated("reading", self._folder / "progress.db"):
                empty = ranges.clip(self._progress_file().empty_ranges(device_id), start, stop)
            have = {record.minute for record in found}
            found += [
                MinuteRecord(minute, None, MinuteState.UNCONFIRMABLE)
                for minute in ranges.minutes_in(empty)
                if minute not in have
            ]
        return sorted(found, key=_minute)

    # --- keeping --------------------------------------------------------------------------

    def unsealed_minutes(self, before: int) -> list[tuple[str, int]]:
        """See the contract."""
        return list(self._of_days(0, before, lambda file, _first, _last: file.unsealed(before)))

    def remove_before(self, day: int) -> list[str]:
        """See the contract."""
        removed = []
        for old in [d for d in self._stored_days() if d < day]:
            path = self._path(old)
            with translated("removing", path):
                self._progress_file().forget_days([old], lost=False)
                self._known.discard(old)
                self._day(old).mark_removed()
                self._days.pop(old).close()
            for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                name.unlink(missing_ok=True)
            self._settled.pop(old, None)
            removed.append(ec_date(old))
        return removed

    def health(self) -> StorageHealth:
        """See the contract."""
        try:
            found = os.statvfs(self._folder)
        except OSError as error:
            return StorageHealth(False, f"{self._folder} (storage.path) cannot be read: {error.strerror}")
        free = found.f_bavail * found.f_frsize
        if free < self._min_free_bytes:
            detail = (
                f"{free // 2**20} MB free on {self._folder}, storage.min_free_mb asks for "
                f"{self._min_free_bytes // 2**20}: make room, or lower storage.retention_days"
            )
            return StorageHealth(False, detail, free)
        return StorageHealth(True, "", free)


def _minute(of: FinishedMinute | Verdict | MinuteRecord) -> int:
    return of.minute


def _record(line: DeviceLine, notable: _Notable) -> DeviceRecord:
    """A device's line with what its notable minutes add."""
    device_id, first_us, last_us, _, through = line
    opened = [m for _, m, state, _, _ in notable if state in (None, MinuteState.UNRESOLVED.value)]
    if through is not None:
        through = min([through, *opened])
    return DeviceRecord(
        device_id,
        first_us,
        last_us,
        through,
        sum(state == MinuteState.UNRESOLVED.value for _, _, state, _, _ in notable),
        sum(state == MinuteState.UNCONFIRMABLE.value for _, _, state, _, _ in notable),
        sum(conflicts for *_, conflicts in notable),
        sum(extra for *_, extra, _ in notable),
    )
