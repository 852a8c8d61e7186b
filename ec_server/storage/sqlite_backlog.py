"""What is left to pack in a folder of day files, how much space they use, and returning free space.

Rule: a packer asks every few seconds, and most files are past days that are fully packed and do not change.
Results for a past day are therefore kept until its file changes, so that a year of files is not opened each
time.
"""

from __future__ import annotations

from typing import NamedTuple

from ec_server.storage.contract import StoredBytes
from ec_server.storage.sqlite_folder import SqliteFolder
from utilities.utc import DAY_S


class _Done(NamedTuple):
    """Days with nothing left to do, each with the stamp that its file had when this was found."""

    packed: dict[int, tuple[int, ...]]
    shrunk: dict[int, tuple[int, ...]]


class Backlog:
    """The backlog of one folder. Not thread-safe."""

    def __init__(self, folder: SqliteFolder) -> None:
        self._folder = folder
        self._done = _Done({}, {})
        self._sizes: dict[int, tuple[tuple[int, ...], StoredBytes]] = {}

    def forget(self, day: int) -> None:
        """Forget a day whose file is gone."""
        for known in (self._done.packed, self._done.shrunk, self._sizes):
            known.pop(day, None)

    def unpacked_minutes(self, before: int, most: int) -> list[tuple[str, int]]:
        """See the contract."""
        found: list[tuple[str, int]] = []
        for day in self._folder.days.between(0, before):
            left = most - len(found)
            if left <= 0:
                break
            if self._count(day, before):
                found += self._folder.of_days(
                    day,
                    day + 1,
                    lambda d, _a, _b, n=left: d.packing.unpacked(before, n),  # type: ignore[misc]
                )
        return found

    def count_unpacked(self, before: int) -> int:
        """See the contract."""
        return sum(self._count(day, before) for day in self._folder.days.between(0, before))

    def _count(self, day: int, before: int) -> int:
        stamp = self._folder.days.stamp(day)
        if self._done.packed.get(day) == stamp:
            return 0
        found = self._folder.of_days(day, day + 1, lambda d, _a, _b: [d.packing.count_unpacked(before)])
        count = sum(found)
        if not count and day + DAY_S <= before:
            self._done.packed[day] = stamp
        return count

    def return_space(self, before: int) -> bool:
        """See the contract. Today's file keeps some free space for the next rows."""
        more = [self._return_space(day, before) for day in self._folder.days.between(0, before)]
        return any(more)

    def _return_space(self, day: int, before: int) -> bool:
        is_over = day + DAY_S <= before
        if self._done.shrunk.get(day) == self._folder.days.stamp(day):
            return False
        more = self._folder.on_day("shrinking", day, lambda d: d.packing.return_space(is_over=is_over))
        if is_over and not more and self._folder.on_day("shrinking", day, lambda d: d.file.empty_log()):
            self._done.shrunk[day] = self._folder.days.stamp(day)
        return more

    def stored_bytes(self) -> StoredBytes:
        """See the contract."""
        found = [self._bytes_of(day) for day in self._folder.days.stored()]
        return StoredBytes(sum(one.rows for one in found), sum(one.blocks for one in found))

    def _bytes_of(self, day: int) -> StoredBytes:
        stamp, kept = self._folder.days.stamp(day), self._sizes.get(day)
        if kept is None or kept[0] != stamp:
            found = list(self._folder.of_days(day, day + 1, lambda d, _a, _b: [d.packing.stored_bytes()]))
            kept = self._sizes[day] = (stamp, found[0] if found else StoredBytes(0, 0))
        return kept[1]
