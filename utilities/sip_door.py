"""Keeps PJSIP from taking more connections than it has handles free; without this it aborts.

PJSIP has 64 handles, one a socket. A connection that has ended keeps its handle for half a second
more. Where all handles are open it refuses the next connection, as it should. Where some are free
again but all of those still rest, an assertion ends the process: some sixty connections that come
and go within half a second, a port scan for instance, are enough.

So the door counts. While the next connection could meet only resting handles, each listening
descriptor is made to refer to another listening socket, which nobody knows: PJSIP finds nobody
waiting there, and goes on with its other work. The connections wait in the kernel's queue; half a
second later the descriptor refers to the real socket again. That queue is made longer too: PJSIP
asks for 5 places, and whoever finds none waits a second before the next try.

Not counted are TLS handshakes that fail, of which PJSIP tells nobody. ``reserve`` handles are kept
for them; more of them than that, within half a second of each other, still end the process.

For one thread: the one that polls PJSIP. The count is pure; only `shut` and `open` touch sockets.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable

from utilities.own_sockets import tcp_sockets

HANDLES = 64
_WAITING = 512
_REST_S = 0.7
"""PJSIP's 0.5 s (PJ_IOQUEUE_KEY_FREE_DELAY), and some for the time between its telling and its doing."""


class Handles:
    """How many of PJSIP's handles are open, and how many rest; pure."""

    def __init__(self, limit: int, reserve: int = 0) -> None:
        """``limit`` handles are there for connections."""
        self._limit = limit
        self._reserve = reserve
        self._open = 0
        self._rest_until_s: deque[float] = deque()

    def opened(self) -> None:
        """One more connection."""
        self._open += 1

    def ended(self, now_s: float) -> None:
        """One connection less; its handle begins to rest."""
        self._open = max(0, self._open - 1)
        self._rest_until_s.append(now_s + _REST_S)

    def may_meet_a_resting_one(self, now_s: float) -> bool:
        """Whether the next connection could find no handle but resting ones."""
        resting = self._rest_until_s
        while resting and resting[0] <= now_s:
            resting.popleft()
        return bool(resting) and self._open + len(resting) >= self._limit - self._reserve


class SipDoor:
    """Shuts and opens the listening descriptors of this process, as `Handles` says."""

    def __init__(self, ports: Iterable[int], other_sockets: int, reserve: int = 0) -> None:
        """Guard the sockets that listen on ``ports``; ``other_sockets`` of PJSIP's are no connections."""
        self.handles = Handles(HANDLES - other_sockets, reserve)
        self._listening = {descriptor: os.dup(descriptor) for descriptor in _listening(frozenset(ports))}
        self._nobody = socket.create_server(("127.0.0.1", 0), backlog=1)
        self._nobody.setblocking(False)
        self.is_shut = False

    def look(self, now_s: float) -> None:
        """Shut or open the door as it has to be now: after each change, and now and then."""
        shut = self.handles.may_meet_a_resting_one(now_s)
        if shut != self.is_shut:
            self.is_shut = shut
            for descriptor, real in self._listening.items():
                os.dup2(self._nobody.fileno() if shut else real, descriptor, inheritable=False)

    def close(self) -> None:
        """Let go of the sockets; those of PJSIP are not touched."""
        for real in self._listening.values():
            os.close(real)
        self._listening.clear()
        self._nobody.close()


def _listening(ports: frozenset[int]) -> list[int]:
    """This process's descriptors of TCP sockets that listen on one of the ports."""
    return [descriptor for descriptor, one in tcp_sockets() if _listens(one, ports)]


def _listens(one: socket.socket, ports: frozenset[int]) -> bool:
    """Whether it listens on one of the ports; if so, give it a longer queue."""
    listens = bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if listens and one.getsockname()[1] in ports:
        one.listen(_WAITING)
        return True
    return False
