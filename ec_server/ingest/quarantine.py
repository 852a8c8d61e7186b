"""A bounded file for messages whose time is too far off, so that it can be corrected later.

``<storage.path>/quarantine.jsonl``, one JSON object per line: ``received`` (ISO-8601 UTC), ``sender``,
``reason``, ``body`` (base64 of the exact bytes). Rules:

1. The file never exceeds its limit: once the next line would, no more is appended, and nothing is removed.
   An operator who has processed its messages moves the file away, and a new one is begun.
2. Several receivers append to it, one at a time (a lock on the file), so that lines stay intact.
3. It is a convenience, not storage: a full disk or a missing folder is logged once, and stops nothing.
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
from pathlib import Path

from utilities import utc
from utilities.model import RawMessage, RejectReason

FILE_NAME = "quarantine.jsonl"
MEGABYTE = 1_000_000

_log = logging.getLogger(__name__)


class Quarantine:
    """Appends messages to the file at ``path``, up to ``limit_bytes``. Not thread-safe."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Opens or creates nothing before the first message; a limit of 0 keeps none."""
        self._path = path
        self._limit_bytes = limit_bytes
        self._said = ""

    def keep(self, message: RawMessage, reason: RejectReason) -> bool:
        """Append a message; True if it was written. Never raises because of the disk."""
        line = _line(message, reason)
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed
                return self._append(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._say_once(f"quarantine: cannot write {self._path}: {error}; such messages are only counted")
            return False

    def _append(self, descriptor: int, line: bytes) -> bool:
        before = os.fstat(descriptor).st_size
        if before + len(line) > self._limit_bytes:
            self._say_once(
                f"quarantine: {self._path} is full ({before} bytes of storage.quarantine_mb); "
                "further messages are only counted until it is moved away"
            )
            return False
        if before and os.pread(descriptor, 1, before - 1) != b"\n":
            line = b"\n" + line  # the previous line was cut by a full disk and must not spoil this one
        written = os.write(descriptor, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be written")
        if before < self._limit_bytes // 2:
            self._said = ""  # the file was moved away, or the disk has space again
        return True

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            _log.warning("%s", text)


def _line(message: RawMessage, reason: RejectReason) -> bytes:
    record = {
        "received": utc.iso(message.received_us),
        "sender": message.sender,
        "reason": reason.value,
        "body": base64.b64encode(message.body).decode("ascii"),
    }
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
