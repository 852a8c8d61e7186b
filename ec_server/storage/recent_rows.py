"""Fingerprints of the rows that a process wrote last, to recognise repeated messages without reading.

Two generations of at most half the limit each: when the younger one is full it becomes the older one, and
the previous older one is forgotten. Each row takes two 64-bit hashes; rows are considered the same only
if both are equal. If only that of the key is, the caller looks at the stored row.
"""

from __future__ import annotations

from collections.abc import Iterable

RowKey = tuple[str, int, int, int]
"""``Batch.key``."""


class RecentRows:
    """The memory of one writer; not thread-safe."""

    def __init__(self, limit: int) -> None:
        """Remembers between half of ``limit`` and ``limit`` rows."""
        self._half = limit // 2
        self._younger: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self.generation = 0
        """How often rows were forgotten; this generation and the one before it are remembered."""

    def __len__(self) -> int:
        """Rows remembered."""
        return len(self._younger) + len(self._older)

    def is_same(self, key: RowKey, checksum: str) -> bool | None:
        """Whether the row of a key has these samples; None if no row of the key is remembered."""
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
