"""Tells a malformed file from a disk that does not read it at the moment.

SQLite reports a read error of the operating system (EIO) as it reports a malformed file. A file that is
malformed is set aside; one that cannot be read is waited for, as long as there is hope: a cable, a
controller or a network disk comes back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utilities.errors import DamagedFileError, RetryableStorageError

PATIENCE_S = 60.0
"""A file that cannot be read for so long counts as damaged: then it is the disk's place that is bad."""
_PIECE_BYTES = 64 << 10
_FEWEST_READS = 256
"""A small file is read several times, since an unsteady disk may read it once."""


class DiskCheck:
    """Remembers since when which file cannot be read. For one thread.

    Of a file that takes longer than ``longest_s`` to read, only the first part is looked at.
    """

    def __init__(self, longest_s: float = 10.0) -> None:
        self._longest_s = longest_s
        self._since_s: dict[Path, float] = {}

    @contextmanager
    def around(self, path: Path) -> Iterator[None]:
        """What is done with the file in between found it damaged only if the disk reads it before and after.

        Raises RetryableStorageError if it does not.
        """
        self._check(path)
        try:
            yield
        except DamagedFileError:
            self._check(path)
            raise

    def _check(self, path: Path) -> None:
        why, now_s = why_unreadable(path, self._longest_s), time.monotonic()
        if not why:
            self._since_s.pop(path, None)
        elif now_s - self._since_s.setdefault(path, now_s) < PATIENCE_S:
            raise RetryableStorageError(f"reading {path}: {why}; it will be tried again")


def why_unreadable(path: Path, longest_s: float = 10.0) -> str:
    """The system's error where it does not read the file or its WAL; "" if it does."""
    until_s = time.monotonic() + longest_s
    try:
        for name in (path, path.with_name(path.name + "-wal")):
            if name.exists():
                _read(name, until_s)
    except OSError as error:
        return f"{error.strerror} ({error.filename or name})"
    return ""


def _read(path: Path, until_s: float) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(handle).st_size
        reads, at = 0, 0
        while (at < size or reads < _FEWEST_READS) and time.monotonic() < until_s:
            os.pread(handle, _PIECE_BYTES, at % max(size, 1))
            reads, at = reads + 1, at + _PIECE_BYTES
    finally:
        os.close(handle)
