"""The day files of one folder: which exist, which are open, and how damaged ones are set aside.

Rules:

1. If a file was replaced by another (by retention or a restore), its inode shows this, and it is opened
   again. Each opened file gets a writer id of its own: rows that this process wrote to the previous file are
   not in this one, so it must not publish their digests.
2. A file that SQLite cannot read is set aside: renamed to ``<name>.damaged-<n>``, never deleted. From
   then on the file counts as missing, so that only its day is affected. Its WAL is renamed first: SQLite
   would delete a WAL that it finds without its file.
3. A file is marked as removed before it is deleted, both under the folder's lock. If a process dies in
   between, the next one that finds the marked file deletes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

from ec_server.storage.sqlite_connection import translated
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_day_blocks import OnDamage
from ec_server.storage.sqlite_day_digests import DayDigests
from ec_server.storage.sqlite_day_layout import REMOVED
from ec_server.storage.sqlite_day_packing import DayPacking
from ec_server.storage.sqlite_day_proof import DayProof
from ec_server.storage.sqlite_day_rows import DayRows
from ec_server.storage.sqlite_day_writes import DayWrites
from utilities.utc import DAY_S, day_of, ec_date, parse_ec

_DAY_FILE = re.compile(r"ec-(\d{8})\.sqlite")
_SET_ASIDE = re.compile(r"ec-(\d{8})\.sqlite\.damaged-\d+")
_OPEN_DAYS = 32


@dataclass(frozen=True, slots=True)
class Day:
    """An open day file and the parts that use it."""

    file: DayFile
    rows: DayRows
    digests: DayDigests
    proof: DayProof
    writes: DayWrites
    packing: DayPacking


def inode_of(path: Path) -> int:
    """The file's inode, which distinguishes it from another that has its name later; 0 if there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def day_of_set_aside(name: str) -> int | None:
    """The day of a file that was set aside; None if it is another kind of name."""
    match = _SET_ASIDE.fullmatch(name)
    return parse_ec(match[1], "000000") if match else None


@lru_cache(maxsize=1024)
def _day_of_file(name: str) -> int | None:
    """The day of a day file; None if it is another kind of name, or a copy that somebody made."""
    match = _DAY_FILE.fullmatch(name)
    try:
        return parse_ec(match[1], "000000") if match else None
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _path_of(folder: Path, day: int) -> Path:
    return folder / f"ec-{ec_date(day)}.sqlite"


class DayFiles:
    """Opens and closes the files of one store."""

    def __init__(self, folder: Path, *, read_only: bool, synchronous: str) -> None:
        self.folder = folder
        self._read_only = read_only
        self._synchronous = synchronous
        self._open: OrderedDict[int, Day] = OrderedDict()
        self.on_damage: OnDamage = lambda *_: None
        """Called with rows that do not match their checksums."""

    def close(self) -> None:
        """Close every file."""
        while self._open:
            self._open.popitem()[1].file.close()

    def forget(self, day: int) -> None:
        """Close a day's file, if it is open."""
        if day in self._open:
            self._open.pop(day).file.close()

    def path(self, day: int) -> Path:
        """Where the day's file is, or would be."""
        return _path_of(self.folder, day)

    def stored(self) -> list[int]:
        """Days that have a file, ascending."""
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 (hundreds of names, asked often)
        except FileNotFoundError:
            return []
        return sorted(day for day in map(_day_of_file, names) if day is not None)

    def between(self, start: int, stop: int) -> list[int]:
        """Days that have a file and overlap ``[start, stop)``, ascending."""
        if stop - start > DAY_S:
            return [day for day in self.stored() if day < stop and day + DAY_S > start]
        return [day for day in range(day_of(start), stop, DAY_S) if self.path(day).exists()]

    def open(self, day: int) -> Day:
        """The day's open file; created if it is missing. Call within ``translated``."""
        path, known = self.path(day), self._open.get(day)
        if known is not None:
            try:
                if path.stat().st_ino == known.file.inode:
                    self._open.move_to_end(day)
                    return known
            except FileNotFoundError:
                pass
            self._open.pop(day).file.close()
        while len(self._open) >= _OPEN_DAYS:
            self._open.popitem(last=False)[1].file.close()
        file = self._file(day)
        if file.layout == REMOVED and not self._read_only:
            file.close()
            self._finish_removal(day)
            file = self._file(day)
        self._open[day] = _parts_of(file)
        return self._open[day]

    def _file(self, day: int) -> DayFile:
        return DayFile(
            self.path(day),
            day,
            read_only=self._read_only,
            synchronous=self._synchronous,
            writer=uuid.uuid4().hex,
            on_damage=self.on_damage,
        )

    def _finish_removal(self, day: int) -> None:
        """Delete a day's file that is marked as removed, unless it was replaced."""
        with self._folder_lock():
            if not self.path(day).exists():
                return
            file = self._file(day)
            file.close()
            if file.layout == REMOVED:
                self.delete(day)

    def stamp(self, day: int) -> tuple[int, ...]:
        """A value that changes whenever the day's file changes or is replaced."""
        path, stamp = self.path(day), [0]
        for name in (path, f"{path}-wal"):
            try:
                found = os.stat(name)  # noqa: PTH116 (asked often)
                # An empty -wal exists whenever somebody has the file open: treated as absent.
                said = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
                stamp += said if found.st_size else (0, 0, 0, 0)
            except FileNotFoundError:
                stamp += [0, 0, 0, 0]
        return tuple(stamp)

    def put_aside(self, day: int, inode: int | None = None) -> Path | None:
        """Close and rename a day's damaged file; see ``rename_aside``."""
        path = self.path(day)
        self.forget(day)
        return self.rename_aside(path, inode_of(path) if inode is None else inode)

    def rename_aside(self, path: Path, inode: int) -> Path | None:
        """Rename the damaged file with this inode; returns its new path.

        None if it is gone: another process has renamed it, and a file of that name is a new one.
        """
        with self._folder_lock():
            if not inode or inode_of(path) != inode:
                return None
            aside = self._free_name(path)
            for end in ("-wal", "-shm", ""):
                if (old := path.with_name(path.name + end)).exists():
                    old.rename(aside.with_name(aside.name + end))
        return aside

    @staticmethod
    def _free_name(path: Path) -> Path:
        """The first name that neither a file nor a WAL has; a process that died may leave a WAL alone."""
        names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
        ends = ("", "-wal", "-shm")
        return next(n for n in names if not any(n.with_name(n.name + end).exists() for end in ends))

    def remove(self, day: int) -> None:
        """Mark a day's file as removed, for processes that have it open, and delete it."""
        path = self.path(day)
        with translated("removing", path):
            file = self.open(day).file
            with self._folder_lock():
                file.mark_removed()
                self.forget(day)
                self.delete(day)

    def delete(self, day: int) -> None:
        """Delete a day's file without marking it."""
        path = self.path(day)
        for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
            name.unlink(missing_ok=True)

    @contextmanager
    def _folder_lock(self) -> Iterator[None]:
        handle = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _parts_of(file: DayFile) -> Day:
    rows, proof = DayRows(file), DayProof(file)
    digests = DayDigests(file, rows)
    return Day(file, rows, digests, proof, DayWrites(file, rows, digests, proof), DayPacking(file))
