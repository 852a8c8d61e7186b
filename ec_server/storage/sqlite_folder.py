"""Access to the files of one folder (day files and ``progress.db``), with errors as the contract has them.

Rules:

1. A file that SQLite cannot read is set aside, and only its day is lost (sqlite_files.py). This happens
   after it was found unreadable twice, the second time after opening it again while the disk itself could
   read it (disk_check.py). Damaged rows affect only their minute. Both stay recorded until the devices have
   filled the gap. What the server keeps of the rows, and cannot understand, is computed from them again
   (sqlite_day_layout.py), once in a while.
2. A progress.db that SQLite cannot read is set aside, too, and a new one is created. It holds no proof, so
   no data is lost: every minute is compared again, and devices are recorded again when they send.
3. Below ``min_free_bytes`` nothing should be written: SQLite survives a full disk, but other programs on
   the machine may not, and repairs need space.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from ec_server.storage.disk_check import DiskCheck
from ec_server.storage.sqlite_connection import translated
from ec_server.storage.sqlite_files import Day, DayFiles, inode_of
from ec_server.storage.sqlite_progress import ProgressFile
from utilities.errors import DamagedFileError, PermanentStorageError
from utilities.utc import DAY_S, day_of, minute_text

_LONGEST_S, _READERS_LONGEST_S = 10.0, 0.5
"""Time limit for reading a file that SQLite calls damaged: a caller may be waiting."""

_REMADE_AGAIN_S = 600.0
_NOT_UNDERSTOOD = (ValueError, TypeError, OverflowError, AssertionError)
"""What comes of values that this server does not write: from a damaged page, or another program."""

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class SqliteFolder:
    """Not thread-safe. The folder is created if it is missing, unless read-only."""

    def __init__(self, path: Path, *, read_only: bool, synchronous: str, min_free_bytes: int) -> None:
        self.path = path
        self._progress_path = path / "progress.db"
        self.read_only = read_only
        self._synchronous = synchronous
        self._min_free_bytes = min_free_bytes
        self.days = DayFiles(path, read_only=read_only, synchronous=synchronous)
        self.days.on_damage = self._note_damaged_row
        self._disk = DiskCheck(_READERS_LONGEST_S if read_only else _LONGEST_S)
        self._progress: ProgressFile | None = None
        self._progress_inode = 0
        self.progress_opened = 0
        """How often progress.db was opened; a new file may lack what was recorded before."""
        self._unreadable: dict[str, tuple[int, tuple[int, ...], str]] = {}
        """What could not be read: its day, the file's stamp at that time, and why."""
        self._remade_s: dict[int, float] = {}
        """When a day's file may be remade again."""
        if not read_only:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PermanentStorageError(
                    f"cannot create the folder {path} (storage.path): {error.strerror}"
                ) from error

    def close(self) -> None:
        """Close every file."""
        self.days.close()
        self._close_progress()

    def in_progress(self, doing: str, use: Callable[[ProgressFile], _T]) -> _T:
        """Call ``use`` with progress.db; a damaged one is set aside, and a new one used."""
        path = self._progress_path
        try:
            with translated(doing, path):
                return use(self._open_progress(path))
        except DamagedFileError:
            self._close_progress()
        inode = inode_of(path)  # taken before the second look, so that the result is about this file
        try:
            with self._disk.around(path), translated(doing, path):
                return use(self._open_progress(path))
        except DamagedFileError as error:
            if self.read_only:
                raise
            self._set_progress_aside(path, inode, error)
        with translated(doing, path):
            return use(self._open_progress(path))

    def _open_progress(self, path: Path) -> ProgressFile:
        if self._progress is not None and inode_of(path) != self._progress_inode:
            self._close_progress()  # another process has set it aside, or somebody has removed it
        if self._progress is None:
            self._progress = ProgressFile(path, read_only=self.read_only, synchronous=self._synchronous)
            self._progress_inode = inode_of(path)
            self.progress_opened += 1
        return self._progress

    def _set_progress_aside(self, path: Path, inode: int, error: DamagedFileError) -> None:
        self._close_progress()
        aside = self.days.rename_aside(path, inode)
        if aside is not None:
            _log.error(
                "%s is damaged, set aside as %s, and replaced by a new one: %s", path, aside.name, error
            )

    def _close_progress(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def has_progress(self) -> bool:
        """Whether there is a progress.db, or one may be created."""
        return not self.read_only or self._progress_path.exists()

    def on_day(self, doing: str, day: int, use: Callable[[Day], _T]) -> _T:
        """The result of ``use`` on the day's file.

        A damaged file is set aside, and ``use`` is called on a new one. If data derived from the file's rows
        makes no sense, it is computed again from them; PermanentStorageError if that does not help.
        """
        try:
            return self._on_file(doing, day, use)
        except _NOT_UNDERSTOOD as error:
            why: Exception = error
        if self._may_be_remade(day):
            name = self.days.path(day).name
            _log.error("%s: what is kept of its rows is made again from them, since %s: %r", name, doing, why)
            self._on_file("writing to", day, lambda d: d.file.remake())
            try:
                return self._on_file(doing, day, use)
            except _NOT_UNDERSTOOD as error:
                why = error
        raise PermanentStorageError(
            f"{doing} {self.days.path(day)}: it cannot be understood: {why!r}"
        ) from why

    def _may_be_remade(self, day: int) -> bool:
        """Whether it is worth it: not again and again."""
        now_s = time.monotonic()
        is_time = now_s >= self._remade_s.get(day, now_s)
        if self.read_only or not is_time:
            return False
        self._remade_s[day] = now_s + _REMADE_AGAIN_S
        return True

    def _on_file(self, doing: str, day: int, use: Callable[[Day], _T]) -> _T:
        path = self.days.path(day)
        try:
            with translated(doing, path):
                return use(self.days.open(day))
        except DamagedFileError:
            self.days.forget(day)
        inode = inode_of(path)
        try:
            with self._disk.around(path), translated(doing, path):
                return use(self.days.open(day))
        except DamagedFileError as error:
            if self.read_only:
                raise
            self._set_aside(day, inode, error)
        with translated(doing, path):
            return use(self.days.open(day))

    def of_days(self, start: int, stop: int, read: Callable[[Day, int, int], Iterable[_T]]) -> Iterator[_T]:
        """What ``read`` finds in each file of ``[start, stop)``; it is given the part that lies in the file.

        If several days are asked for, an unreadable file affects only its own.
        """
        days = self.days.between(start, stop)
        for day in days:
            first, last = max(start, day), min(stop, day + DAY_S)
            try:
                yield from self.on_day("reading", day, lambda file, a=first, b=last: list(read(file, a, b)))  # type: ignore[misc]
            except PermanentStorageError as error:
                if len(days) == 1:
                    raise
                self.note_unreadable(day, str(error))

    def _set_aside(self, day: int, inode: int, error: DamagedFileError) -> None:
        aside = self.days.put_aside(day, inode)
        if aside is not None:
            self.in_progress(
                "writing to",
                lambda progress: progress.note_damage(aside.name, "", 0, f"set aside, since {error}"),
            )

    def note_unreadable(self, day: int, why: str, what: str = "") -> None:
        """Report that something of this day cannot be read, until the file changes."""
        name = self.days.path(day).name
        self._unreadable[f"{name} {what}".rstrip()] = (day, self.days.stamp(day), why)

    def _note_damaged_row(self, device_id: str, minute: int, detail: str) -> None:
        file = self.days.path(day_of(minute)).name
        if self.read_only:
            self.note_unreadable(day_of(minute), detail, f"{device_id} {minute_text(minute)}")
        else:
            self.in_progress("writing to", lambda p: p.note_damage(file, device_id, minute, detail))

    def damage(self) -> list[str]:
        """The known damage, one line each."""
        self._unreadable = {
            name: (day, stamp, why)
            for name, (day, stamp, why) in self._unreadable.items()
            if self.days.stamp(day) == stamp
        }
        found = [f"{name}: {why}" for name, (_, _, why) in self._unreadable.items()]
        if self.has_progress():
            noted = self.in_progress("reading", lambda p: p.damage())
            # A file that was removed since it was set aside need not be reported any more.
            found += [_told(*one) for one in noted if one[1] or (self.path / one[0]).exists()]
        return found

    def space(self) -> tuple[bool, str, int | None]:
        """``(whether there is enough space to write, why not, free bytes)``."""
        try:
            found = os.statvfs(self.path)
        except OSError as error:
            return False, f"{self.path} (storage.path) cannot be read: {error.strerror}", None
        free = found.f_bavail * found.f_frsize
        if free < self._min_free_bytes:
            detail = (
                f"{free // 2**20} MB free on {self.path}, storage.min_free_mb asks for "
                f"{self._min_free_bytes // 2**20}: make room, or lower storage.retention_days"
            )
            return False, detail, free
        return True, "", free


def _told(file: str, device_id: str, minute: int, detail: str) -> str:
    where = f"{file}, device {device_id}, minute {minute_text(minute)}" if device_id else file
    return f"{where}: {detail}"
