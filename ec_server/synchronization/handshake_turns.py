"""Whose TLS handshake begins next: one per turn of the event loop, the sources in turn.

The server's answer to a TLS ClientHello costs a signature, more than everything else that a refused
connection costs. So in each turn of the loop one is begun, and connected devices are served in
between; and each source (IP address) has a queue of its own, so that a source with many connections
delays one with a single connection by one handshake at most. The rest of a handshake is cheap, and is
not queued.

A thread for it was tried and is slower: what the interpreter loses in passing control to and fro is
more than a signature.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class HandshakeTurns:
    """The lines; used from one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Callable[[], None]]] = {}
        self._scheduled = False

    def put(self, source: str, step: Callable[[], None]) -> None:
        """Call ``step`` in its turn."""
        self._lines.setdefault(source, deque()).append(step)
        self._schedule()

    def _schedule(self) -> None:
        if self._lines and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        source, line = next(iter(self._lines.items()))
        step = line.popleft()
        del self._lines[source]
        if line:
            self._lines[source] = line  # behind the other sources
        self._schedule()
        step()
