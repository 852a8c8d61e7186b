"""What a folder may look like after the processes died, or the power failed, at one point of a recording.

The model is that of SQLite's own crash tests, and harsher than a file system that keeps its journal:

* What was synced stands. Of what was not, each file keeps some of its writes and not others, in any
  combination; a write keeps some of its sectors of 512 bytes and not others. What a file gained in length
  without its data reads as zeros.
* Names change in order (a file system's journal keeps the order of its own entries), but how many of the
  last changes are lost is open, until the folder is synced.
* A death of processes alone loses nothing that was written.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crash.recorded_disk import Link, Noted, Operation, Rename, Sync, Truncate, Unlink, Write

SECTOR_BYTES = 512

Change = Write | Truncate
NameChange = Link | Unlink | Rename
Keep = Callable[[random.Random, Sequence[Change]], Sequence[Change]]


@dataclass
class Disk:
    """What of a recording's beginning stands on the disk, and what is under way to it."""

    stands: dict[int, bytearray] = field(default_factory=dict)
    under_way: dict[int, list[Change]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    names_under_way: list[NameChange] = field(default_factory=list)

    def do(self, operation: Operation) -> None:
        """Go on by one operation."""
        if isinstance(operation, Write | Truncate):
            self.under_way.setdefault(operation.file, []).append(operation)
        elif isinstance(operation, Sync):
            content = self.stands.setdefault(operation.file, bytearray())
            for change in self.under_way.pop(operation.file, ()):
                _apply(content, change)
            if operation.with_folder:
                _rename(self.names, self.names_under_way)
                self.names_under_way.clear()
        elif not isinstance(operation, Noted):
            self.names_under_way.append(operation)

    def names_after(self, most: int | None = None) -> dict[str, int]:
        """Which file each name stands for, with the first ``most`` changes under way; None: all."""
        names = dict(self.names)
        _rename(names, self.names_under_way[:most])
        return names

    def content(self, file: int, changes: Sequence[Change]) -> bytes:
        """A file with some of its changes under way."""
        content = bytearray(self.stands.get(file, b""))
        for change in changes:
            _apply(content, change)
        return bytes(content)


def _apply(content: bytearray, change: Change) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
        return
    if len(content) < change.at:
        content.extend(bytes(change.at - len(content)))
    content[change.at : change.at + len(change.data)] = change.data


def _rename(names: dict[str, int], changes: Sequence[NameChange]) -> None:
    for change in changes:
        if isinstance(change, Link):
            names[change.name] = change.file
        elif isinstance(change, Unlink):
            names.pop(change.name, None)
        elif change.old in names:
            names[change.new] = names.pop(change.old)


# --- which of the unsynced changes are kept ------------------------------------------------------


def everything(_random: random.Random, changes: Sequence[Change]) -> Sequence[Change]:
    return changes


def nothing(_random: random.Random, _changes: Sequence[Change]) -> Sequence[Change]:
    return ()


def beginning(chance: random.Random, changes: Sequence[Change]) -> Sequence[Change]:
    """Up to some change, and of that one some sectors."""
    if not changes:
        return ()
    at = chance.randrange(len(changes))
    return [*changes[:at], *_some_sectors(chance, changes[at])]


def any_of_them(chance: random.Random, changes: Sequence[Change]) -> Sequence[Change]:
    """Whole changes, some early ones lost and later ones kept."""
    share = chance.choice([0.2, 0.5, 0.9])
    return [change for change in changes if chance.random() < share]


def any_sectors(chance: random.Random, changes: Sequence[Change]) -> Sequence[Change]:
    """Sectors of changes, in any combination."""
    return [piece for change in changes for piece in _some_sectors(chance, change)]


def zeros(chance: random.Random, changes: Sequence[Change]) -> Sequence[Change]:
    """Lengths without data, from some change on: what some file systems leave of a file that grew."""
    at = chance.randrange(len(changes) + 1)
    return [*changes[:at], *(_as_zeros(change) for change in changes[at:])]


def _as_zeros(change: Change) -> Change:
    return Write(change.file, change.at, bytes(len(change.data))) if isinstance(change, Write) else change


def _some_sectors(chance: random.Random, change: Change) -> Iterator[Change]:
    if isinstance(change, Truncate):
        if chance.random() < 0.5:
            yield change
        return
    at, end = change.at, change.at + len(change.data)
    while at < end:
        following = min(end, at - at % SECTOR_BYTES + SECTOR_BYTES)
        if chance.random() < 0.5:
            yield Write(change.file, at, change.data[at - change.at : following - change.at])
        at = following


WAYS: Mapping[str, Keep] = {
    "everything": everything,
    "nothing": nothing,
    "beginning": beginning,
    "any of them": any_of_them,
    "any sectors": any_sectors,
}
"""``zeros`` is for files that only grow: a sector that was overwritten in place never reads as zeros."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a folder: name to content."""

    files: Mapping[str, bytes]

    def only(self, database: str) -> Folder:
        """One database, with what belongs to it."""
        names = [database + end for end in ("", "-wal", "-journal")]
        return Folder({name: self.files[name] for name in names if name in self.files})

    def digest(self) -> bytes:
        digest = hashlib.sha1()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name} {len(content)} ".encode())
            digest.update(content)
        return digest.digest()

    def make(self, path: Path) -> None:
        path.mkdir()
        for name, content in self.files.items():
            (path / name).write_bytes(content)


def after_deaths(disk: Disk) -> Folder:
    """All processes died: what was written is there."""
    names = disk.names_after()
    return Folder({name: disk.content(file, disk.under_way.get(file, ())) for name, file in names.items()})


def after_power_failure(disk: Disk, chance: random.Random) -> Folder:
    """One of the ways in which a power failure may leave the folder."""
    names = disk.names_after(chance.randrange(len(disk.names_under_way) + 1))
    same_way = chance.choice([None, *WAYS])
    files: dict[int, bytes] = {}
    for name, file in sorted(names.items()):
        changes = disk.under_way.get(file, ())
        keep = WAYS[same_way or chance.choice(list(WAYS))]
        if name.endswith("-wal") and chance.random() < 0.1:
            keep = zeros
        files[file] = disk.content(file, keep(chance, changes))
    return Folder({name: files[file] for name, file in names.items()})
