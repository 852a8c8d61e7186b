"""Ensures one server per ``storage.path``, with a lock that is held until the last of its processes ends.

Rules:

1. The launcher holds a lock on ``<storage.path>/run/lock``, and each child inherits the open file. So the
   lock is released only when the launcher *and* all its children have ended, however they ended.
2. A second launcher ends at once while the first one is alive.
3. After a launcher was killed, its children notice this and drain; the next launcher waits for them. Those
   that still exist after the wait are considered hung and killed: processes that hold this file open and were
   started by a launcher are children of the former one.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from utilities.errors import ConfigurationError

ORPHANS_END_S = 25.0
"""How long the children of a killed launcher may take to drain."""

_log = logging.getLogger(__name__)


class RunLock:
    """The held lock; every child must inherit ``descriptor``."""

    def __init__(self, descriptor: int) -> None:
        """Use ``acquire``."""
        self.descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, pause: Callable[[float], bool], wait_s: float = ORPHANS_END_S) -> RunLock:
        """Lock ``path``, which is created if it is missing, and write this process's id into it.

        ``pause(seconds)`` waits and returns whether to continue. Raises ConfigurationError if another server
        is running on it, or if waiting for the processes of a former one was given up.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, path, pause, wait_s)
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Release it; children that are still alive keep the lock."""
        os.close(self.descriptor)


def _lock(descriptor: int, path: Path, pause: Callable[[float], bool], wait_s: float) -> None:
    until, told, killed = monotonic() + wait_s, False, False
    while not _try_lock(descriptor):
        owner = _owner(descriptor)
        if owner in holders(path):
            raise ConfigurationError(
                f"storage.path {str(path.parent.parent)!r} is in use by another server, process {owner}: "
                f"end that one, or give this one another storage.path"
            )
        if not told:
            _log.warning("waiting for the processes of a server that was killed: %s", holders(path))
            told = True
        if monotonic() > until and not killed:
            _kill(holders(path))
            until, killed = monotonic() + 5.0, True
        if not pause(0.05) or (killed and monotonic() > until):
            raise ConfigurationError(
                f"{path} is still held by the processes {holders(path)} of a server that was killed: end them"
            )


def holders(path: Path) -> list[int]:
    """Ids of other processes that have ``path`` open, as far as this user may see them (Linux)."""
    wanted = path.stat()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) != os.getpid() and _has_open(process, (wanted.st_dev, wanted.st_ino)):
            found.append(int(process.name))
    return sorted(found)


def _has_open(process: Path, wanted: tuple[int, int]) -> bool:
    try:
        for link in (process / "fd").iterdir():
            status = link.stat()
            if (status.st_dev, status.st_ino) == wanted:
                return True
    except OSError:
        pass  # it has ended meanwhile, or belongs to another user
    return False


def _kill(processes: list[int]) -> None:
    for process in filter(_was_supervised, processes):
        _log.error("process %d of a server that was killed does not end: killed", process)
        try:
            os.kill(process, signal.SIGKILL)
        except OSError as error:
            _log.warning("process %d cannot be killed: %s", process, error)


def _was_supervised(process: int) -> bool:
    try:
        return b"EC_SUPERVISED=1" in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0
