"""Which rows a writer knows without reading: those it wrote last, and from where on it remembers all.

A row may be written without reading first only if certainly no row of its key is stored. In a minute that
nobody else writes to, that holds for every row that this writer has not written itself. It remembers the
rows it wrote last (recent_rows.py), and for each minute the floor: rows that it has forgotten are not above
it. Live data arrives in ascending order and so is above the floor.
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
"""Lower than every place."""
place_of: Callable[[Batch], Place] = itemgetter(1, 2)
"""The position of a batch in its minute."""


@dataclass(slots=True)
class _Minute:
    generation: int
    top: Place = BEGINNING
    """Place of the highest row written."""
    middle: Place = BEGINNING
    """Place of the highest row written before the younger half of the memory began, or soon after."""
    floor: Place = BEGINNING
    """Rows up to here may have been forgotten."""


class KnownRows:
    """The memory of one writer. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        """Remembers between half of ``limit`` and ``limit`` rows, and the floors of as many minutes."""
        self._recent = RecentRows(limit)
        self._limit = limit
        self._minutes: dict[tuple[str, int], _Minute] = {}

    def is_same(self, key: RowKey, checksum: str) -> bool | None:
        """Whether the row of a key has these samples; None if no row of the key is remembered."""
        return self._recent.is_same(key, checksum)

    def floor(self, minute: tuple[str, int]) -> Place:
        """Up to here rows of the minute may have been written and forgotten; above it all are remembered."""
        known = self._minutes.get(minute)
        return BEGINNING if known is None else self._floor(known)

    def _floor(self, known: _Minute) -> Place:
        age = self._recent.generation - known.generation
        return known.floor if age == 0 else known.middle if age == 1 else known.top

    def add(self, minute: tuple[str, int], batches: Iterable[Batch]) -> None:
        """Remember stored rows of one minute."""
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
        """Forget these minutes, as their rows are gone; True if any row of them was remembered.

        Single rows cannot be forgotten, so all are: those of other minutes are then below the floor.
        """
        gone = [minute for minute in minutes if self._minutes.pop(minute, None) is not None]
        if gone:
            self._recent = RecentRows(self._limit)
            for known in self._minutes.values():
                known.generation, known.middle, known.floor = 0, known.top, known.top
        return bool(gone)
