"""The records of devices and minutes (verdicts, coverage) across all day files and progress.db.

Rules:

1. Verdicts in a file that has reverted to an older state do not count (sqlite_trust.py).
2. Past days' files change rarely: what is read from them repeatedly is cached until the file changes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ec_server.storage import ranges
from ec_server.storage.ranges import Range
from ec_server.storage.sqlite_day_proof import Noted
from ec_server.storage.sqlite_files import Day, day_of_set_aside
from ec_server.storage.sqlite_folder import SqliteFolder
from ec_server.storage.sqlite_progress import DeviceLine
from ec_server.storage.sqlite_trust import UNCHANGED_FOR_S, DayTrust, Trust
from utilities.errors import PermanentStorageError
from utilities.model import SETTLED, DeviceRecord, MinuteRecord, MinuteState, Verdict
from utilities.utc import DAY_S, MINUTE_S, day_of, minute_of

_FOR_EVER = 2**62


@dataclass(frozen=True, slots=True)
class _DayView:
    """What is read of a day repeatedly: settled ranges, and the summary of notable minutes, by device."""

    settled: Mapping[str, Sequence[Range]]
    noted: Mapping[str, Noted]


_NO_VIEW = _DayView({}, {})


class Records:
    """The records of one folder. Not thread-safe."""

    def __init__(self, folder: SqliteFolder, trust: DayTrust) -> None:
        self._folder, self._trust = folder, trust
        self._views: dict[int, tuple[tuple[int, ...], _DayView]] = {}

    def forget(self, day: int) -> None:
        """Forget a day whose file is gone."""
        self._views.pop(day, None)

    def devices(self) -> list[DeviceRecord]:
        """See the contract."""
        if not self._folder.has_progress():
            return []
        lines = self._folder.in_progress("reading", lambda progress: progress.devices())
        trust = self._trust.of(self._folder.days.stored())
        views = {day: self._view(day) for day in trust.days}
        empty = self._folder.in_progress("reading", lambda progress: progress.empty_ranges_of_all())
        return [
            self._record(line, views, ranges.subtract(empty.get(line[0], []), trust.void)) for line in lines
        ]

    def device(self, device_id: str) -> DeviceRecord | None:
        """See the contract."""
        if not self._folder.has_progress():
            return None
        lines = self._folder.in_progress("reading", lambda progress: progress.devices(device_id))
        if not lines:
            return None
        trust = self._trust.of(self._folder.days.stored())
        views = {day: self._view(day, device_id) for day in trust.days}
        empty = self._folder.in_progress("reading", lambda progress: progress.empty_ranges(device_id))
        return self._record(lines[0], views, ranges.subtract(empty, trust.void))

    def _record(
        self, line: DeviceLine, views: Mapping[int, _DayView], empty: Sequence[Range]
    ) -> DeviceRecord:
        device_id, first_us, last_us, covered_from, reopened = line
        noted = Noted(
            *map(sum, zip(Noted(), *[view.noted.get(device_id, Noted()) for view in views.values()]))
        )
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
            noted.unresolved,
            noted.unconfirmable,
            noted.conflicts,
            noted.extra,
            sum(stop - start for start, stop in true_empty) // MINUTE_S + noted.empty,
            tuple(reopened),
        )

    def _view(self, day: int, device_id: str | None = None) -> _DayView:
        """The records of a day, of every device or of one; cached once the file no longer changes."""
        stamp = self._folder.days.stamp(day)
        kept = self._views.get(day)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        rests = time.time() - stamp[1] / 1e9 >= UNCHANGED_FOR_S
        try:
            view = self._folder.on_day("reading", day, lambda d: _read_view(d, None if rests else device_id))
        except PermanentStorageError as error:
            self._folder.note_unreadable(day, str(error))
            return _NO_VIEW
        if rests and self._folder.days.stamp(day) == stamp:
            self._views[day] = (stamp, view)
        return view

    # --- minutes --------------------------------------------------------------------------

    def unproven_ranges(self, device_id: str, start: int, stop: int) -> list[tuple[int, int]]:
        """See the contract."""
        trust = self._trust.of(self._folder.days.between(start, stop))
        settled = self._empty(device_id, start, stop, trust)
        for day in trust.days:
            settled += self._view(day, device_id).settled.get(device_id, ())
        return ranges.subtract([(start, stop)], settled)

    def ranges_in(
        self, device_id: str, start: int, stop: int, states: Collection[MinuteState]
    ) -> list[tuple[int, int]]:
        """See the contract."""
        trust = self._trust.of(self._folder.days.between(start, stop))
        found = self._empty(device_id, start, stop, trust) if MinuteState.EMPTY in states else []
        for day in trust.days:
            first, last = max(start, day), min(stop, day + DAY_S)
            found += list(
                self._folder.of_days(first, last, lambda d, a, b: d.proof.in_states(device_id, a, b, states))
            )
        return ranges.union(found)

    def _empty(self, device_id: str, start: int, stop: int, trust: Trust) -> list[Range]:
        """Ranges of minutes that are recorded as empty and never had rows."""
        if not self._folder.has_progress():
            return []
        found = self._folder.in_progress("reading", lambda progress: progress.empty_ranges(device_id))
        clipped = ranges.subtract(ranges.clip(found, start, stop), trust.void)
        return self._without_rows(device_id, clipped)

    def _without_rows(self, device_id: str, empty: Sequence[Range]) -> list[Range]:
        with_line = [
            minute
            for start, stop in empty
            for minute in self._folder.of_days(
                start, stop, lambda d, a, b: d.proof.with_line(device_id, a, b)
            )
        ]
        return ranges.subtract(empty, ranges.of_minutes(with_line))

    def record_verdicts(self, device_id: str, verdicts: Sequence[Verdict], compared_us: int) -> list[int]:
        """See the contract."""
        changed: list[int] = []
        empty: list[int] = []
        for day, group in groupby(sorted(verdicts, key=_minute), key=lambda v: day_of(v.minute)):
            of_day = list(group)
            # The verdicts of a file that is gone are removed first, not afterwards.
            self._trust.of(self._folder.days.between(day, day + 1))
            if self._folder.days.path(day).exists() or any(v.state is MinuteState.UNRESOLVED for v in of_day):
                self._trust.know(day)
                elsewhere, moved, generation = self._trust.write(
                    "writing verdicts to",
                    day,
                    lambda d, v=of_day: d.proof.record(device_id, v, compared_us),  # type: ignore[misc]
                )
                self._trust.tell(day, generation)
            else:
                elsewhere = [v for v in of_day if v.seen is None]
                moved = [v.minute for v in of_day if v.seen is not None]
            changed += moved
            empty += [v.minute for v in elsewhere]
        rest = {v.minute for v in verdicts}.difference(empty)
        self._folder.in_progress("writing to", lambda p: p.change_empty(device_id, empty, rest))
        self._clear_damage(device_id, {v.minute for v in verdicts if v.state in SETTLED}.difference(changed))
        self._clear_damaged_files()
        return changed

    def _clear_damage(self, device_id: str, minutes: Collection[int]) -> None:
        for file, of_device, minute, _ in self._folder.in_progress("reading", lambda p: p.damage()):
            if of_device == device_id and minute in minutes:
                self._folder.in_progress(
                    "writing to",
                    lambda p, f=file, m=minute: p.clear_damage(f, device_id, [m]),  # type: ignore[misc]
                )

    def _clear_damaged_files(self) -> None:
        """Stop reporting a file that was set aside once its day's minutes are settled for every device."""
        for file, noticed_us in self._folder.in_progress("reading", lambda p: p.damaged_files()):
            day = day_of_set_aside(file)
            if day is not None and self._is_settled(
                day, min(day + DAY_S, minute_of(noticed_us // 1_000_000))
            ):
                self._folder.in_progress("writing to", lambda p, f=file: p.clear_damage(f, "", [0]))  # type: ignore[misc]

    def _is_settled(self, start: int, stop: int) -> bool:
        for record in self.devices():
            known_from = record.covered_from
            if known_from is None:
                known_from = minute_of(record.first_seen_us // 1_000_000)
            first = max(start, known_from)
            if first < stop and self.unproven_ranges(record.device_id, first, stop):
                return False
        return True

    def minutes(self, device_id: str, start: int, stop: int) -> list[MinuteRecord]:
        """See the contract."""
        trust = self._trust.of(self._folder.days.between(start, stop))
        found = list(self._folder.of_days(start, stop, lambda d, a, b: d.proof.minutes(device_id, a, b)))
        found = [one if day_of(one.minute) in trust.days else replace(one, state=None) for one in found]
        have = {record.minute for record in found}
        found += [
            MinuteRecord(minute, None, MinuteState.EMPTY)
            for minute in ranges.minutes_in(self._empty(device_id, start, stop, trust))
            if minute not in have
        ]
        return sorted(found, key=_minute)


def _minute(of: Verdict | MinuteRecord) -> int:
    return of.minute


def _read_view(day: Day, device_id: str | None) -> _DayView:
    if device_id is not None:
        return _DayView({device_id: day.proof.settled(device_id)}, day.proof.noted(device_id))
    return _DayView(day.proof.settled_of_all(), day.proof.noted())
