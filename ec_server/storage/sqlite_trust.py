"""Which day files may be believed: those that did not go back to an older state.

Rule: a folder knows the latest generation of each day file (sqlite_day.py), told right after each commit. A
file that has a lower one, or that is not known, went back to an older state: its verdicts are taken away,
and so are the empty minutes of its day. The known generation is read before the file's own, so that
a commit in between is never taken for a step back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ec_server.storage.ranges import Range
from ec_server.storage.sqlite_folder import SqliteFolder
from utilities.errors import PermanentStorageError
from utilities.utc import DAY_S

UNCHANGED_FOR_S = 60.0
"""A file that was not written to for so long rests: what is read of it is remembered until it changes."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Days whose files may be believed, and ranges of which nothing that is on record counts."""

    days: Sequence[int]
    void: Sequence[Range]


class DayTrust:
    """Of one folder. One thread."""

    def __init__(self, folder: SqliteFolder) -> None:
        self._folder = folder
        self._known: set[int] = set()
        self._known_by = 0
        self._generations: dict[int, tuple[tuple[int, ...], int]] = {}

    def know(self, day: int) -> None:
        """The day is on record before its first row is committed, so that its loss is noticed."""
        if self._known_by != self._folder.progress_opened:
            self._known.clear()
            self._known_by = self._folder.progress_opened
        if day not in self._known:
            self.tell(day, 0)
            self._known.add(day)

    def tell(self, day: int, generation: int) -> int:
        """Put a file's generation on record; the latest that is on record."""
        return self._folder.in_progress("writing to", lambda progress: progress.know_day(day, generation))

    def of(self, days: Sequence[int]) -> Trust:
        """Which of the days' files did not go back."""
        if not self._folder.has_progress():
            return Trust(list(days), [])
        known = self._folder.in_progress("reading", lambda progress: progress.known_days())
        stored = set(self._folder.days.stored())
        void = [day for day, generation in known.items() if generation >= 0 and day not in stored]
        for day in void:
            self.day_is_gone(day)
        trusted = [day for day in days if self.is_trusted(day, known.get(day))]
        # A store that may write has put this on record by now; another one has to know it itself.
        void += set(days).difference(trusted)
        return Trust(trusted, [(day, day + DAY_S) for day in void])

    def day_is_gone(self, day: int) -> None:
        """Nothing that is on record of the day counts any more."""
        if not self._folder.read_only:
            self._folder.in_progress("writing to", lambda progress: progress.day_went_back(day))
            self._folder.in_progress("writing to", lambda progress: progress.day_is_gone(day))
            self._known.discard(day)

    def _generation(self, day: int) -> int:
        """The generation that stands in the day's file; remembered once the file rests."""
        stamp = self._folder.days.stamp(day)
        kept = self._generations.get(day)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        generation = self._folder.on_day("reading", day, lambda d: d.file.generation())
        if time.time() - stamp[1] / 1e9 >= UNCHANGED_FOR_S and self._folder.days.stamp(day) == stamp:
            self._generations[day] = (stamp, generation)
        return generation

    def is_trusted(self, day: int, known: int | None) -> bool:
        """Whether the day's file has the generation that is known, or a later one; else it is revoked."""
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
