"""Lets the answers to what came in one poll leave in one segment a connection, under load.

PJSIP sends each answer by itself: a system call, a segment, and a wake-up of the peer for 400 bytes.
While many messages come, the connections that they come over are corked (TCP_CORK) until the end of
the poll, so that the kernel joins their answers. A poll that brought few messages corks nothing, and
nothing waits longer than the poll; the kernel itself ends a cork after 0.2 s.

The descriptors are PJSIP's, which closes them when it likes. What is corked is uncorked within the
same poll, so that one which meanwhile belongs to another connection takes no harm.

For one thread: the one that polls PJSIP.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Callable
from contextlib import suppress

from utilities.own_sockets import connections

_FEW = 4
_NO_CONNECTION = -1


class AnswerBundles:
    """Corks and uncorks the connections of this process."""

    def __init__(self) -> None:
        self._messages = 0
        self._under_load = False
        self._corked: dict[str, int] = {}
        self._descriptors: dict[str, int] | None = None
        self._cork, self._uncork = _setter(1), _setter(0)

    def note(self, sender: str) -> None:
        """A message came from ``ip:port`` and will be answered."""
        self._messages += 1
        if self._under_load and sender not in self._corked:
            descriptor = self._descriptor(sender)
            self._corked[sender] = descriptor
            if descriptor != _NO_CONNECTION:
                self._cork(descriptor)

    def poll_ended(self) -> None:
        """Let go what was held."""
        for descriptor in self._corked.values():
            if descriptor != _NO_CONNECTION:
                self._uncork(descriptor)
        self._corked.clear()
        self._under_load = self._messages > _FEW
        self._messages = 0

    def connections_changed(self) -> None:
        """Descriptors may belong to others now."""
        self._descriptors = None

    def _descriptor(self, sender: str) -> int:
        """The sender's descriptor; over UDP there is none, and where the search fails neither."""
        if self._descriptors is None:
            self._descriptors = {}
            with suppress(OSError):
                self._descriptors.update((peer, number) for number, peer, _ in connections())
        return self._descriptors.get(sender, _NO_CONNECTION)


def _setter(value: int) -> Callable[[int], None]:
    """What sets TCP_CORK of a descriptor to ``value``; one that cannot have it stays as it is."""
    number = ctypes.c_int(value)
    setsockopt = ctypes.PyDLL(None).setsockopt
    setsockopt.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
    place, length = ctypes.addressof(number), ctypes.sizeof(number)

    def set_cork(descriptor: int, _kept: ctypes.c_int = number) -> None:
        setsockopt(descriptor, socket.IPPROTO_TCP, socket.TCP_CORK, place, length)

    return set_cork
