"""The embedded engine: a SQLite file for each UTC day, and ``progress.db``; see docs/storage.md.

Rules:

1. A day's rows, digests and verdicts stand in that day's file, so that they change together.
   ``progress.db`` holds what spans days and proves nothing: devices, minutes without rows, known days.
2. It knows the latest generation of each day file (sqlite_day.py), told right after each commit. A file
   that has a lower one, or that is not known, went back to an older state: its verdicts are taken away,
   and so are the empty minutes of its day. The known generation is read before the file's own, so that
   a commit in between is never taken for a step back.
3. A file that SQLite cannot read is set aside and costs its day (sqlite_files.py). Damaged rows cost
   their minute. Both stand in ``health`` until the devices have filled the gap.
4. Below ``storage.min_free_mb`` nothing is written: SQLite survives a full disk, other programs on
   the machine may not, and a repair needs room.
5. Day files that are not today's change rarely: what is read from them again and again is kept as
   long as the file stays the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from ec_server.storage import ranges
from ec_server.storage.contract import FinishedMinute, Packed, ReplacedRow, StorageHealth, Store, StoredBytes
from ec_server.storage.merge import single_day
from ec_server.storage.ranges import Range
from ec_server.storage.sqlite_connection import translated
from ec_server.storage.sqlite_day_proof import Notable
from ec_server.storage.sqlite_day_writes import Written
from ec_server.storage.sqlite_files import Day, DayFiles
from ec_server.storage.sqlite_progress import DeviceLine, ProgressFile
from utilities.errors import DamagedFileError, PermanentStorageError, RetryableStorageError
from utilities.model import (
    SETTLED,
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
from utilities.utc import DAY_S, MINUTE_S, day_of, ec_date, minute_of, minute_text

_UNCHANGED_FOR_S = 60.0
_FOR_EVER = 2**62

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _DayView:
    """What is read of a day again and again: settled ranges and notable minutes by device."""

    settled: Mapping[str, Sequence[Range]]
    notable: Mapping[str, Sequence[Notable]]


@dataclass(frozen=True, slots=True)
class _Trust:
    """Days whose files may be believed, and ranges of which nothing that is on record counts."""

    days: Sequence[int]
    void: Sequence[Range]


_NO_VIEW = _DayView({}, {})


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
        self._days = DayFiles(folder, read_only=read_only, synchronous=synchronous)
        self._days.on_damage = self._note_damaged_row
        self._progress: ProgressFile | None = None
        self._known: set[int] = set()
        self._last_insert_us = 0
        self._views: dict[int, tuple[tuple[int, ...], _DayView]] = {}
        self._generations: dict[int, tuple[tuple[int, ...], int]] = {}
        self._sizes: dict[int, tuple[tuple[int, ...], StoredBytes]] = {}
        self._unreadable: dict[str, str] = {}
        if not read_only:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PermanentStorageError(
                    f"cannot make the folder {folder} (storage.path): {error.strerror}"
                ) from error

    def close(self) -> None:
        """See the contract."""
        self._days.close()
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    # --- files ----------------------------------------------------------------------------

    def _progress_file(self) -> ProgressFile:
        """Call within ``translated``."""
        if self._progress is None:
            self._progress = ProgressFile(
                self._folder / "progress.db", read_only=self._read_only, synchronous=self._synchronous
            )
        return self._progress

    def _in_progress(self, doing: str, use: Callable[[ProgressFile], _T]) -> _T:
        with translated(doing, self._folder / "progress.db"):
            return use(self._progress_file())

    def _has_progress(self) -> bool:
        return not self._read_only or (self._folder / "progress.db").exists()

    def _on_day(self, doing: str, day: int, use: Callable[[Day], _T]) -> _T:
        """What ``use`` makes of the day's file; a damaged one is set aside, and used anew."""
        try:
            with translated(doing, self._days.path(day)):
                return use(self._days.open(day))
        except DamagedFileError as error:
            if self._read_only:
                raise
            self._set_aside(day, error)
        with translated(doing, self._days.path(day)):
            return use(self._days.open(day))

    def _of_days(self, start: int, stop: int, read: Callable[[Day, int, int], Iterable[_T]]) -> Iterator[_T]:
        """What ``read`` finds in each file of ``[start, stop)``, given the part of it that is the file's.

        An unreadable file costs its own day, where several are asked for.
        """
        days = self._days.between(start, stop)
        for day in days:
            first, last = max(start, day), min(stop, day + DAY_S)
            try:
                yield from self._on_day("reading", day, lambda file, a=first, b=last: list(read(file, a, b)))  # type: ignore[misc]
            except DamagedFileError as error:
                if len(days) == 1:
                    raise
                self._unreadable[self._days.path(day).name] = str(error)

    def _set_aside(self, day: int, error: DamagedFileError) -> None:
        aside = self._days.put_aside(day)
        if aside is not None:
            self._in_progress(
                "writing to",
                lambda progress: progress.note_damage(aside.name, "", 0, f"set aside, since {error}"),
            )

    def _note_damaged_row(self, device_id: str, minute: int, detail: str) -> None:
        file = self._days.path(day_of(minute)).name
        if self._read_only:
            self._unreadable[f"{file} {device_id} {minute_text(minute)}"] = detail
        else:
            self._in_progress("writing to", lambda p: p.note_damage(file, device_id, minute, detail))

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
            self._know(day)
            while not self._on_day("writing to", day, lambda d, k=of_day: d.writes.keep_replaced(k)):  # type: ignore[misc]
                self._days.forget(day)

    def _write(self, batches: Sequence[Batch], write: Callable[[Day], Written | None]) -> WriteResult:
        day = single_day(batches)
        if day is None:
            return WriteResult(())
        self._guard_space()
        self._know(day)
        written = None
        while written is None:
            written = self._on_day("writing to", day, write)
            if written is None:
                self._days.forget(day)
        if written.generation is not None:
            known = self._tell_generation(day, written.generation)
            if known > written.generation:  # it went back: that must be on record before it is lost again
                self._is_trusted(day, known)
        return written.result

    def _know(self, day: int) -> None:
        """The day is on record before its first row is committed, so that its loss is noticed."""
        if day not in self._known:
            self._tell_generation(day, 0)
            self._known.add(day)

    def _tell_generation(self, day: int, generation: int) -> int:
        return self._in_progress("writing to", lambda progress: progress.know_day(day, generation))

    def _guard_space(self) -> None:
        writable, detail, _ = self._space()
        if not writable:
            raise RetryableStorageError(detail)

    def committed_mark(self, day: int, writer: str) -> tuple[int, int, int] | None:
        """See the contract."""
        if not self._days.path(day).exists():
            return None
        found = self._on_day(
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
            if self._days.path(day).exists():
                taken += self._on_day("writing digests to", day, lambda d, f=of_day: d.digests.publish(f))  # type: ignore[misc]
        return taken

    # --- reading --------------------------------------------------------------------------

    def rows(self, device_id: str, start: int, stop: int) -> Iterator[StoredRow]:
        """See the contract; a minute at a time is in memory."""
        counts = self._of_days(minute_of(start), stop, lambda d, a, b: d.file.row_counts(device_id, a, b))
        for minute, _, _ in counts:
            first, last = max(start, minute), min(stop, minute + MINUTE_S)
            yield from self._of_days(first, last, lambda d, a, b: d.rows.all(device_id, a, b))

    def replaced_rows(self, device_id: str, start: int, stop: int) -> list[ReplacedRow]:
        """See the contract."""
        return list(self._of_days(start, stop, lambda d, a, b: d.rows.replaced(device_id, a, b)))

    def second_text(self, device_id: str, second: int) -> str:
        """See the contract."""
        texts = self._of_days(second, second + 1, lambda d, a, b: d.rows.texts(device_id, a, b))
        return next((text for _, text in texts), "")

    def second_digests(
        self, device_id: str, minute: int, *, from_rows: bool = False
    ) -> list[tuple[int, Digest]]:
        """See the contract."""
        return list(
            self._of_days(
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
            self._of_days(
                start, stop, lambda d, a, b: d.digests.of_minutes(device_id, a, b, from_rows=from_rows)
            )
        )

    def row_counts(self, device_id: str, start: int, stop: int) -> list[tuple[int, int, int]]:
        """See the contract."""
        return list(self._of_days(start, stop, lambda d, a, b: d.file.row_counts(device_id, a, b)))

    def earliest_minute(self, device_id: str) -> int | None:
        """See the contract."""
        found = self._of_days(0, _FOR_EVER, lambda d, _a, _b: [d.file.first_minute(device_id)])
        return next((minute for minute in found if minute is not None), None)

    def stored_days(self) -> list[tuple[str, int]]:
        """See the contract."""
        found = self._of_days(0, _FOR_EVER, lambda d, day, _: [(one, day) for one in d.file.devices()])
        return sorted(found)

    def latest_second(self) -> int | None:
        """See the contract; to the minute."""
        for day in reversed(self._days.stored()):
            (minute,) = list(self._of_days(day, day + 1, lambda d, _a, _b: [d.file.last_minute()])) or [None]
            if minute is not None:
                return minute + MINUTE_S - 1
        return None

    # --- devices --------------------------------------------------------------------------

    def note_devices(self, seen: Mapping[str, int]) -> None:
        """See the contract."""
        self._in_progress("writing to", lambda progress: progress.note_devices(seen))

    def note_coverage(self, device_id: str, start: int) -> None:
        """See the contract."""
        self._in_progress("writing to", lambda progress: progress.note_coverage(device_id, start))

    def devices(self) -> list[DeviceRecord]:
        """See the contract."""
        if not self._has_progress():
            return []
        lines = self._in_progress("reading", lambda progress: progress.devices())
        trust = self._trust(self._days.stored())
        views = {day: self._view(day) for day in trust.days}
        empty = self._in_progress("reading", lambda progress: progress.empty_ranges_of_all())
        return [
            self._record(line, views, ranges.subtract(empty.get(line[0], []), trust.void)) for line in lines
        ]

    def device(self, device_id: str) -> DeviceRecord | None:
        """See the contract."""
        if not self._has_progress():
            return None
        lines = self._in_progress("reading", lambda progress: progress.devices(device_id))
        if not lines:
            return None
        trust = self._trust(self._days.stored())
        views = {day: self._view(day, device_id) for day in trust.days}
        empty = self._in_progress("reading", lambda progress: progress.empty_ranges(device_id))
        return self._record(lines[0], views, ranges.subtract(empty, trust.void))

    def _record(
        self, line: DeviceLine, views: Mapping[int, _DayView], empty: Sequence[Range]
    ) -> DeviceRecord:
        device_id, first_us, last_us, covered_from = line
        notable = [n for view in views.values() for n in view.notable.get(device_id, ())]
        states = [state for _, _, state, _, _ in notable]
        true_empty = self._without_rows(device_id, empty)
        through = None
        if covered_from is not None:
            settled = [r for view in views.values() for r in view.settled.get(device_id, ())]
            through = ranges.subtract([(covered_from, _FOR_EVER)], [*settled, *true_empty])[0][0]
        return DeviceRecord(
            device_id,
            first_us,
            last_us,
            covered_from,
            through,
            states.count(MinuteState.UNRESOLVED.value),
            states.count(MinuteState.UNCONFIRMABLE.value),
            sum(conflicts for *_, conflicts in notable),
            sum(extra for *_, extra, _ in notable),
            sum(stop - start for start, stop in true_empty) // MINUTE_S
            + states.count(MinuteState.EMPTY.value),
        )

    def _view(self, day: int, device_id: str | None = None) -> _DayView:
        """What is on record of a day, of every device or of one; remembered once the file rests."""
        stamp = self._days.stamp(day)
        kept = self._views.get(day)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        rests = time.time() - stamp[1] / 1e9 >= _UNCHANGED_FOR_S
        try:
            view = self._on_day("reading", day, lambda d: _read_view(d, None if rests else device_id))
        except DamagedFileError as error:
            self._unreadable[self._days.path(day).name] = str(error)
            return _NO_VIEW
        if rests and self._days.stamp(day) == stamp:
            self._views[day] = (stamp, view)
        return view

    # --- proof ----------------------------------------------------------------------------

    def _trust(self, days: Sequence[int]) -> _Trust:
        """Which of the days' files did not go back; rule 2 of the module for the others."""
        if not self._has_progress():
            return _Trust(list(days), [])
        known = self._in_progress("reading", lambda progress: progress.known_days())
        stored = set(self._days.stored())
        void = [day for day, generation in known.items() if generation >= 0 and day not in stored]
        for day in void:
            self._day_is_gone(day)
        trusted = [day for day in days if self._is_trusted(day, known.get(day))]
        # A store that may write has put this on record by now; another one has to know it itself.
        void += set(days).difference(trusted)
        return _Trust(trusted, [(day, day + DAY_S) for day in void])

    def _day_is_gone(self, day: int) -> None:
        if not self._read_only:
            self._in_progress("writing to", lambda progress: progress.day_went_back(day))
            self._in_progress("writing to", lambda progress: progress.day_is_gone(day))
            self._known.discard(day)

    def _generation(self, day: int) -> int:
        """The generation that stands in the day's file; remembered once the file rests."""
        stamp = self._days.stamp(day)
        kept = self._generations.get(day)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        generation = self._on_day("reading", day, lambda d: d.file.generation())
        if time.time() - stamp[1] / 1e9 >= _UNCHANGED_FOR_S and self._days.stamp(day) == stamp:
            self._generations[day] = (stamp, generation)
        return generation

    def _is_trusted(self, day: int, known: int | None) -> bool:
        try:
            generation = self._generation(day)
        except DamagedFileError as error:
            self._unreadable[self._days.path(day).name] = str(error)
            return False
        known = abs(known) if known is not None else None
        if known is None and generation:
            known = generation + 1  # somebody else's file, or progress.db was lost
        if known is None or generation >= known:
            if not self._read_only and generation > (known or 0):
                self._tell_generation(day, generation)
            return True
        if not self._read_only:
            raised = known + 1
            self._on_day("writing to", day, lambda d: d.proof.revoke_all(raised))
            self._in_progress("writing to", lambda progress: progress.day_went_back(day))
            self._tell_generation(day, raised)
        return not self._read_only

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract."""
        trust = self._trust(self._days.between(start, stop))
        settled = self._empty(device_id, start, stop, trust)
        for day in trust.days:
            settled += self._view(day, device_id).settled.get(device_id, ())
        return ranges.subtract([(start, stop)], settled)

    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """See the contract."""
        trust = self._trust(self._days.between(start, stop))
        found = self._empty(device_id, start, stop, trust) if MinuteState.EMPTY in states else []
        for day in trust.days:
            first, last = max(start, day), min(stop, day + DAY_S)
            found += list(
                self._of_days(first, last, lambda d, a, b: d.proof.in_states(device_id, a, b, states))
            )
        return ranges.union(found)

    def _empty(self, device_id: str, start: int, stop: int, trust: _Trust) -> list[Range]:
        """Ranges of minutes on record as empty that never had rows."""
        if not self._has_progress():
            return []
        found = self._in_progress("reading", lambda progress: progress.empty_ranges(device_id))
        clipped = ranges.subtract(ranges.clip(found, start, stop), trust.void)
        return self._without_rows(device_id, clipped)

    def _without_rows(self, device_id: str, empty: Sequence[Range]) -> list[Range]:
        with_line = [
            minute
            for start, stop in empty
            for minute in self._of_days(start, stop, lambda d, a, b: d.proof.with_line(device_id, a, b))
        ]
        return ranges.subtract(empty, ranges.of_minutes(with_line))

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract."""
        changed: list[int] = []
        empty: list[int] = []
        for day, group in groupby(sorted(verdicts, key=_minute), key=lambda v: day_of(v.minute)):
            of_day = list(group)
            self._trust(self._days.between(day, day + 1))  # what went back is revoked before, not after
            if self._days.path(day).exists() or any(v.state is MinuteState.UNRESOLVED for v in of_day):
                self._know(day)
                elsewhere, moved, generation = self._on_day(
                    "writing verdicts to",
                    day,
                    lambda d, v=of_day: d.proof.record(device_id, v, compared_us),  # type: ignore[misc]
                )
                self._tell_generation(day, generation)
            else:
                elsewhere = [v for v in of_day if v.seen is None]
                moved = [v.minute for v in of_day if v.seen is not None]
            changed += moved
            empty += [v.minute for v in elsewhere]
        rest = {v.minute for v in verdicts}.difference(empty)
        self._in_progress("writing to", lambda p: p.change_empty(device_id, empty, rest))
        self._clear_damage(device_id, {v.minute for v in verdicts if v.state in SETTLED}.difference(changed))
        return changed

    def _clear_damage(self, device_id: str, minutes: Collection[int]) -> None:
        for file, of_device, minute, _ in self._in_progress("reading", lambda p: p.damage()):
            if of_device == device_id and minute in minutes:
                self._in_progress("writing to", lambda p, f=file, m=minute: p.clear_damage(f, device_id, [m]))  # type: ignore[misc]

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        trust = self._trust(self._days.between(start, stop))
        found = list(self._of_days(start, stop, lambda d, a, b: d.proof.minutes(device_id, a, b)))
        found = [one if day_of(one.minute) in trust.days else replace(one, state=None) for one in found]
        have = {record.minute for record in found}
        found += [
            MinuteRecord(minute, None, MinuteState.EMPTY)
            for minute in ranges.minutes_in(self._empty(device_id, start, stop, trust))
            if minute not in have
        ]
        return sorted(found, key=_minute)

    def checks(self, device_id: str, minute: int) -> dict[tuple[int, str], tuple[int | None, int]]:
        """See the contract."""
        return dict(
            self._of_days(minute, minute + MINUTE_S, lambda d, a, _: d.proof.checks(device_id, a).items())
        )

    # --- keeping --------------------------------------------------------------------------

    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        """See the contract."""
        return list(self._of_days(0, before, lambda d, _a, _b: d.digests.absent(before)))

    def unpacked_minutes(self, before: int, most: int) -> list[tuple[str, int]]:
        """See the contract."""
        found: list[tuple[str, int]] = []
        for day in self._days.between(0, before):
            left = most - len(found)
            if left <= 0:
                break
            found += self._of_days(day, day + 1, lambda d, _a, _b, n=left: d.packing.unpacked(before, n))  # type: ignore[misc]
        return found

    def count_unpacked(self, before: int) -> int:
        """See the contract."""
        return sum(self._of_days(0, before, lambda d, _a, _b: [d.packing.count_unpacked(before)]))

    def pack_minute(self, device_id: str, minute: int) -> Packed:
        """See the contract. Also where space is short: packing makes more than it needs."""
        if not self._days.path(day_of(minute)).exists():
            return Packed()
        return self._on_day("packing", day_of(minute), lambda d: d.packing.pack_minute(device_id, minute))

    def return_space(self, before: int) -> bool:
        """See the contract. Today's file keeps some, for the rows that come."""
        more = False
        for day in self._days.between(0, before):
            more |= self._on_day("shrinking", day, partial(_return_space, is_over=day + DAY_S <= before))
        return more

    def stored_bytes(self) -> StoredBytes:
        """See the contract."""
        found = [self._bytes_of(day) for day in self._days.stored()]
        return StoredBytes(sum(one.rows for one in found), sum(one.blocks for one in found))

    def _bytes_of(self, day: int) -> StoredBytes:
        stamp, kept = self._days.stamp(day), self._sizes.get(day)
        if kept is None or kept[0] != stamp:
            found = list(self._of_days(day, day + 1, lambda d, _a, _b: [d.packing.stored_bytes()]))
            kept = self._sizes[day] = (stamp, found[0] if found else StoredBytes(0, 0))
        return kept[1]

    def remove_before(self, day: int) -> list[str]:
        """See the contract."""
        removed = []
        for old in [d for d in self._days.stored() if d < day]:
            self._day_is_gone(old)
            self._in_progress("writing to", lambda progress, d=old: progress.forget_day(d))  # type: ignore[misc]
            try:
                self._days.remove(old)
            except DamagedFileError:
                self._days.forget(old)
                self._days.delete(old)
            self._views.pop(old, None)
            self._sizes.pop(old, None)
            removed.append(ec_date(old))
        return removed

    def health(self) -> StorageHealth:
        """See the contract."""
        writable, detail, free = self._space()
        damage = [f"{name}: {why}" for name, why in self._unreadable.items()]
        if self._has_progress():
            damage += [_told(*one) for one in self._in_progress("reading", lambda p: p.damage())]
        return StorageHealth(writable, detail, free, tuple(damage))

    def _space(self) -> tuple[bool, str, int | None]:
        try:
            found = os.statvfs(self._folder)
        except OSError as error:
            return False, f"{self._folder} (storage.path) cannot be read: {error.strerror}", None
        free = found.f_bavail * found.f_frsize
        if free < self._min_free_bytes:
            detail = (
                f"{free // 2**20} MB free on {self._folder}, storage.min_free_mb asks for "
                f"{self._min_free_bytes // 2**20}: make room, or lower storage.retention_days"
            )
            return False, detail, free
        return True, "", free


def _minute(of: FinishedMinute | Verdict | MinuteRecord) -> int:
    return of.minute


def _told(file: str, device_id: str, minute: int, detail: str) -> str:
    where = f"{file}, device {device_id}, minute {minute_text(minute)}" if device_id else file
    return f"{where}: {detail}"


def _return_space(day: Day, *, is_over: bool) -> bool:
    return day.packing.return_space(is_over=is_over)


def _read_view(day: Day, device_id: str | None) -> _DayView:
    if device_id is not None:
        return _DayView({device_id: day.proof.settled(device_id)}, {device_id: day.proof.notable(device_id)})
    notable: dict[str, list[Notable]] = {}
    for line in day.proof.notable():
        notable.setdefault(line[0], []).append(line)
    return _DayView(day.proof.settled_of_all(), notable)
