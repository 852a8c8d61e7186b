"""Which TLS handshake begins next: one per iteration of the event loop, alternating between sources.

The server's answer to a TLS ClientHello requires a signature, which costs more than everything else about a
refused connection. So only one handshake begins in each iteration, and connected devices are served in
between. Each source (IP address) has its own queue, so that a source with many connections delays one with a
single connection by at most one handshake. The rest of a handshake is cheap and not queued.

A separate thread was tried and is slower: switching threads costs the interpreter more than a signature.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class HandshakeTurns:
    """The queues; used from one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Callable[[], None]]] = {}
        self._scheduled = False

    def put(self, source: str, step: Callable[[], None]) -> None:
        """Call ``step`` when it is its source's turn."""
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
            self._lines[source] = line  # after the other sources
        self._schedule()
        step()
