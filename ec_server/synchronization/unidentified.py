"""Limits connections that are not yet authenticated; pure.

There is a limit for each source (IP address) and for all together. If one is exceeded, the oldest connection
of the source with the most is closed, not the newest: an honest meter needs only milliseconds to be
identified, so it gets in however many idle connections others hold open.
"""

from __future__ import annotations

from typing import Generic, TypeVar

MAX_UNIDENTIFIED = 4096
MAX_OF_SOURCE = 2048

_Connection = TypeVar("_Connection")


class Unidentified(Generic[_Connection]):
    """The connections, by source, in the order of arrival."""

    def __init__(self, most: int = MAX_UNIDENTIFIED, most_of_source: int = MAX_OF_SOURCE) -> None:
        self._most, self._most_of_source = most, most_of_source
        self._of_source: dict[str, dict[_Connection, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, source: str, connection: _Connection) -> _Connection | None:
        """Add a connection; returns the one that must be closed for it, if any."""
        mine = self._of_source.setdefault(source, {})
        mine[connection] = None
        self._count += 1
        if len(mine) > self._most_of_source:
            return next(iter(mine))
        if self._count > self._most:
            return next(iter(self._of_source[max(self._of_source, key=self._number_of)]))
        return None

    def _number_of(self, source: str) -> int:
        return len(self._of_source[source])

    def remove(self, source: str, connection: _Connection) -> None:
        """Remove a connection that was identified or has ended; ignored if it was removed before."""
        mine = self._of_source.get(source, {})
        if connection in mine:
            del mine[connection]
            self._count -= 1
            if not mine:
                del self._of_source[source]
