"""Which rows a writer knows without asking: what it wrote last, and how far back it knows all it wrote.

A row may be written blindly only if it is certain that none of its key is stored. In a minute that
nobody else writes to, that is so for every row that this writer has not written; and it knows those it
wrote last (recent_rows.py), or that nothing beyond a certain microsecond was written before what it has
forgotten (the floor). Live data ascends, and lies above the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter

from ec_server.storage.recent_rows import RecentRows, RowKey
from utilities.model import Batch

Place = tuple[int, int]
"""``(second, start_us)``."""
BEGINNING: Place = (-1, -1)
"""Below every place."""
place_of: Callable[[Batch], Place] = itemgetter(1, 2)
"""Where a batch lies in its minute."""


@dataclass(slots=True)
class _Minute:
    generation: int
    top: Place = BEGINNING
    """The highest row written."""
    middle: Place = BEGINNING
    """The highest row written before the younger half of the memory began, or soon after."""
    floor: Place = BEGINNING
    """Rows up to here may have been forgotten."""


class KnownRows:
    """One writer's memory; one thread."""

    def __init__(self, limit: int) -> None:
        """Between half of ``limit`` rows and all of it are remembered, and the floors of as many minutes."""
        self._recent = RecentRows(limit)
        self._limit = limit
        self._minutes: dict[tuple[str, int], _Minute] = {}

    def is_same(self, key: RowKey, checksum: str) -> bool | None:
        """Whether the row of a key has these samples; None: no such row is remembered."""
        return self._recent.is_same(key, checksum)

    def floor(self, minute: tuple[str, int]) -> Place:
        """Up to where rows of a minute may have been written and forgotten; beyond it all are remembered."""
        known = self._minutes.get(minute)
        return BEGINNING if known is None else self._floor(known)

    def _floor(self, known: _Minute) -> Place:
        age = self._recent.generation - known.generation
        return known.floor if age == 0 else known.middle if age == 1 else known.top

    def add(self, minute: tuple[str, int], batches: Iterable[Batch]) -> None:
        """Remember rows of one minute that are stored."""
        listed = list(batches)
        if not listed:
            return
        before = self._recent.generation
        self._recent.add((batch.key, batch.checksum) for batch in listed)
        generation = self._recent.generation
        known = self._minutes.pop(minute, None) or _Minute(before)
        floor = self._floor(known)
        known.top = max(known.top, max(map(place_of, listed)))  # noqa: PLW3301 - twice as fast
        if known.generation != generation:
            known.floor = floor if generation - before < 2 else known.top
            known.generation, known.middle = generation, known.top
        self._minutes[minute] = known
        if len(self._minutes) > self._limit:
            del self._minutes[next(iter(self._minutes))]

    def forget(self, minutes: Iterable[tuple[str, int]]) -> bool:
        """These minutes' rows are gone; whether any of them was remembered.

        Rows cannot be forgotten one by one, so all are: those of other minutes are then below the floor.
        """
        gone = [minute for minute in minutes if self._minutes.pop(minute, None) is not None]
        if gone:
            self._recent = RecentRows(self._limit)
            for known in self._minutes.values():
                known.generation, known.middle, known.floor = 0, known.top, known.top
        return bool(gone)
