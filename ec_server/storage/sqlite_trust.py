"""Which day files can be trusted: those that have not reverted to an older state.

Rule: progress.db records the latest generation of each day file (sqlite_day.py) right after each commit. A
file with a lower generation, or a file that is not recorded, has reverted to an older state: its verdicts and
the empty minutes of its day are removed. This happens before the server raises the generation of such a file,
because afterwards it might be the recorded one; changes by other programs do not raise it. The recorded
generation is read before the file's own, so that a commit in between is never mistaken for a reversal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ec_server.storage.ranges import Range
from ec_server.storage.sqlite_day import RevertedError
from ec_server.storage.sqlite_files import Day
from ec_server.storage.sqlite_folder import SqliteFolder
from utilities.errors import PermanentStorageError, RetryableStorageError
from utilities.utc import DAY_S

UNCHANGED_FOR_S = 60.0
"""What is read from a file that was not written to for this long is cached until it changes."""

_ATTEMPTS = 3

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Trust:
    """Days whose files can be trusted, and ranges whose records do not count."""

    days: Sequence[int]
    void: Sequence[Range]


class DayTrust:
    """The trust in the files of one folder. Not thread-safe."""

    def __init__(self, folder: SqliteFolder) -> None:
        self._folder = folder
        self._known: set[int] = set()
        self._known_by = 0
        self._generations: dict[int, tuple[tuple[int, ...], int]] = {}

    def know(self, day: int) -> None:
        """Record a day before its first row is committed, so that the loss of its file is noticed."""
        if self._known_by != self._folder.progress_opened:
            self._known.clear()
            self._known_by = self._folder.progress_opened
        if day not in self._known:
            self.tell(day, 0)
            self._known.add(day)

    def write(self, doing: str, day: int, use: Callable[[Day], _T]) -> _T:
        """The result of ``use``, one transaction on the day's file that may raise its generation.

        If the file has reverted, nothing is written before its proof is removed.
        """
        for _ in range(_ATTEMPTS):
            recorded = self._folder.in_progress("reading", lambda progress: progress.known_generation(day))
            try:
                return self._folder.on_day(doing, day, lambda d, r=recorded: _write(d, r, use))  # type: ignore[misc]
            except RevertedError:
                self.is_trusted(day, recorded)
        path = self._folder.days.path(day)
        raise RetryableStorageError(
            f"{doing} {path}: the file was replaced by an older one {_ATTEMPTS} times; it will be tried again"
        )

    def tell(self, day: int, generation: int) -> int:
        """Record a file's generation; returns the latest recorded one."""
        return self._folder.in_progress("writing to", lambda progress: progress.know_day(day, generation))

    def of(self, days: Sequence[int]) -> Trust:
        """Which of the days' files have not reverted to an older state."""
        if not self._folder.has_progress():
            return Trust(list(days), [])
        known = self._folder.in_progress("reading", lambda progress: progress.known_days())
        stored = set(self._folder.days.stored())
        void = [day for day, generation in known.items() if generation >= 0 and day not in stored]
        for day in void:
            self.day_is_gone(day)
        trusted = [day for day in days if self.is_trusted(day, known.get(day))]
        # A writable store has recorded this by now; a read-only one has to work it out itself.
        void += set(days).difference(trusted)
        return Trust(trusted, [(day, day + DAY_S) for day in void])

    def day_is_gone(self, day: int) -> None:
        """Make the day's records void."""
        if not self._folder.read_only:
            self._folder.in_progress("writing to", lambda progress: progress.day_went_back(day))
            self._folder.in_progress("writing to", lambda progress: progress.day_is_gone(day))
            self._known.discard(day)

    def _generation(self, day: int) -> int:
        """The generation in the day's file; cached once the file no longer changes."""
        stamp = self._folder.days.stamp(day)
        kept = self._generations.get(day)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        generation = self._folder.on_day("reading", day, lambda d: d.file.generation())
        if time.time() - stamp[1] / 1e9 >= UNCHANGED_FOR_S and self._folder.days.stamp(day) == stamp:
            self._generations[day] = (stamp, generation)
        return generation

    def is_trusted(self, day: int, known: int | None) -> bool:
        """Whether the day's file has the recorded generation or a later one; otherwise it is revoked."""
        try:
            generation = self._generation(day)
        except PermanentStorageError as error:
            self._folder.note_unreadable(day, str(error))
            return False
        known = abs(known) if known is not None else None
        if known is None and generation:
            known = generation + 1  # somebody else's file, or progress.db was lost
        if known is None or generation >= known:
            if not self._folder.read_only and generation > (known or 0):
                self.tell(day, generation)
            return True
        if not self._folder.read_only:
            raised = known + 1
            self._folder.on_day("writing to", day, lambda d: d.proof.revoke_all(raised))
            self._folder.in_progress("writing to", lambda progress: progress.day_went_back(day))
            self.tell(day, raised)
        return not self._folder.read_only


def _write(day: Day, recorded: int, use: Callable[[Day], _T]) -> _T:
    day.file.recorded_generation = recorded
    return use(day)
