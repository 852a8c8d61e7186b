"""Distinguishes a malformed file from a disk that cannot be read at the moment.

SQLite reports an I/O error of the operating system (EIO) in the same way as a malformed file. A malformed
file is set aside. A file that cannot be read is tried again for a while, as a loose cable, a controller or
a network disk may come back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utilities.errors import DamagedFileError, RetryableStorageError

PATIENCE_S = 60.0
"""A file that cannot be read for this long counts as damaged: the disk sector is probably bad."""
_PIECE_BYTES = 64 << 10
_FEWEST_READS = 256
"""A small file is read several times, since an unreliable disk may succeed once."""


class DiskCheck:
    """Remembers since when each file could not be read. Not thread-safe.

    Only the first part of a file is checked if reading it takes longer than ``longest_s``.
    """

    def __init__(self, longest_s: float = 10.0) -> None:
        self._longest_s = longest_s
        self._since_s: dict[Path, float] = {}

    @contextmanager
    def around(self, path: Path) -> Iterator[None]:
        """Let DamagedFileError pass only if the disk can read the file before and after.

        Raises RetryableStorageError otherwise.
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
    """The operating system's error on reading the file or its WAL; "" if there is none."""
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
