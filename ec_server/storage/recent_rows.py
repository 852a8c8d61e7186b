"""The rows that a process wrote last, as fingerprints: what tells a repeated message where nothing is read.

Two generations of at most half the limit each: when the younger is full it becomes the older one, and
what that held is forgotten. A row takes two 64-bit numbers; two rows are taken for the same only where
both agree. Where only the key's does, the caller looks at what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable

RowKey = tuple[str, int, int, int]
"""``Batch.key``."""


class RecentRows:
    """One writer's memory; one thread."""

    def __init__(self, limit: int) -> None:
        """Between half of ``limit`` and all of it is remembered."""
        self._half = limit // 2
        self._younger: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self.generation = 0
        """How often rows were forgotten: those of this generation and of the one before are remembered."""

    def __len__(self) -> int:
        """Rows remembered."""
        return len(self._younger) + len(self._older)

    def is_same(self, key: RowKey, checksum: str) -> bool | None:
        """Whether the row of a key has these samples; None: no such row is remembered."""
        place = hash(key)
        known = self._younger.get(place)
        if known is None:
            known = self._older.get(place)
        return None if known is None else known == hash(checksum)

    def add(self, rows: Iterable[tuple[RowKey, str]]) -> None:
        """Remember rows that are stored: their keys and checksums."""
        for key, checksum in rows:
            if len(self._younger) >= self._half:
                self._older, self._younger = self._younger, {}
                self.generation += 1
            self._younger[hash(key)] = hash(checksum)
