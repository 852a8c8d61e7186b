"""Ensures one SIP process per receiver number, with a lock that the kernel releases when its holder ends.

Two processes that put into the same ring would overwrite each other's messages. The lock is a separate file,
because a ring that does not match the account is replaced by another file.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from utilities.errors import EcServerError


def lock_receiver(run_folder: Path, name: str) -> int:
    """Lock receiver ``name`` for as long as the returned descriptor is open (it is not inherited).

    Raises EcServerError if another process holds it, OSError if the file cannot be used.
    """
    path = run_folder / f"{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise EcServerError(
            f"{name} is already running, as process {holder}, on {run_folder.parent}:"
            " end that one, or give this one another --worker number or storage.path"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
