"""What one transaction did to a day's minutes, and which minutes one connection has written alone; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from utilities.model import WriteResult

Minute = tuple[str, int]
"""``(device, minute)``."""
_MOST_FOLLOWED = 50_000


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction did."""

    result: WriteResult
    generation: int | None
    """The file's new generation, where what proof rests on has changed."""
    versions: Mapping[Minute, int]
    """The new version of each minute that was written to."""


class OwnMinutes:
    """The version that each minute had after the last commit of this connection.

    A minute whose version is another one was written to by others, or the file went back to an older state
    while it was open, as with SQLite's ``.restore``: then rows are gone that this connection knows of.
    """

    def __init__(self) -> None:
        self._versions: dict[Minute, int] = {}

    def version(self, minute: Minute) -> int:
        """After the last commit; 0 where nothing is known of the minute."""
        return self._versions.get(minute, 0)

    def committed(self, written: Written | None) -> Written | None:
        """Take note of a transaction that has committed, and pass it on."""
        if written is not None:
            self._versions |= written.versions
            while len(self._versions) > _MOST_FOLLOWED:
                del self._versions[next(iter(self._versions))]
        return written
