"""Ends connections whose peers do not read their answers, before these fill the memory.

PJSIP keeps every answer that the kernel does not take, 8 KB each, without a limit: one peer that sends
over TCP and never reads costs hundreds of megabytes a second. Otherwise the memory of a process with
the SIP stack stays as it is after the start. So the memory is looked at every few hundred messages;
where it has grown, the connections with the longest queues of unread answers are ended, and their
peers told so by that.

For one thread: the one that polls PJSIP.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import mmap
import os
import socket
import struct
import termios
import time
from contextlib import suppress

from utilities.own_sockets import connections

ROOM_BYTES = 64 << 20
"""What answers may take before somebody has to go."""

_EVERY = 256
_REST_S = 0.25
"""For PJSIP to let go of what it keeps for a connection that has ended."""
_LEAST_QUEUE_BYTES = 4096

_log = logging.getLogger(__name__)


class UnreadAnswers:
    """Watches this process's memory; made when the process has all that it needs at rest."""

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        """``room_bytes`` beyond what is in use now are left to answers."""
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._room_bytes = room_bytes
        self._limit = self._in_use() + room_bytes
        self._left = _EVERY
        self._next_s = 0.0
        self._has_ended_some = False

    def count(self) -> None:
        """One more message came."""
        self._left -= 1
        if not self._left:
            self._left = _EVERY
            if self._in_use() > self._limit and (now_s := time.monotonic()) >= self._next_s:
                self._next_s = now_s + _REST_S
                try:
                    self._relieve()
                except OSError:  # the message at hand is not to pay for it
                    _log.exception("connections could not be looked at")

    def close(self) -> None:
        """Watch no more."""
        os.close(self._statm)

    def _in_use(self) -> int:
        """Bytes of this process that are no mapped file."""
        _, resident, shared, *_ = os.pread(self._statm, 256, 0).split()
        return (int(resident) - int(shared)) * mmap.PAGESIZE

    def _relieve(self) -> None:
        if self._has_ended_some:  # what PJSIP has freed since is still this process's
            self._has_ended_some = False
            ctypes.CDLL(None).malloc_trim(0)
            if self._in_use() <= self._limit:
                return
        queues = _send_queues()
        most = max(queues.values(), default=0)
        if most < _LEAST_QUEUE_BYTES:
            self._limit = self._in_use() + self._room_bytes
            _log.warning("memory has grown to %d MB, and not by unread answers", self._in_use() >> 20)
            return
        self._has_ended_some = True
        for _, peer, connection in connections():
            if queues.get(peer, 0) >= most / 2:
                _log.warning("connection from %s is ended: its peer does not read its answers", peer)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def _send_queues() -> dict[str, int]:
    """``ip:port`` of each connection's peer to the bytes that its machine has not acknowledged."""
    found = {}
    for _, peer, connection in connections():
        (found[peer],) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return found
