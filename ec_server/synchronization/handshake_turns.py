"""Whose TLS handshake goes on next: one at a time, in a thread, the sources in turn.

A handshake costs a signature, a thousand times what a refused connection costs otherwise. So it must
not hold up the event loop, and whoever opens many connections must not hold up a meter that opens one:
each source (IP address) has a line of its own, and the lines are served in turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class HandshakeTurns:
    """The lines and the thread; used from one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[tuple[Callable[[], None], Callable[[BaseException | None], None]]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handshake")
        self._running = False

    @property
    def waiting(self) -> int:
        """Steps that wait for their turn."""
        return sum(len(line) for line in self._lines.values())

    def put(
        self, source: str, step: Callable[[], None], done: Callable[[BaseException | None], None]
    ) -> None:
        """Let ``step`` run in the thread in its turn, then call ``done`` with what it raised, or None."""
        self._lines.setdefault(source, deque()).append((step, done))
        if not self._running:
            self._next()

    def _next(self) -> None:
        if not self._lines:
            self._running = False
            return
        self._running = True
        source, line = next(iter(self._lines.items()))
        step, done = line.popleft()
        del self._lines[source]
        if line:
            self._lines[source] = line  # to the end of the turn
        future = asyncio.get_running_loop().run_in_executor(self._thread, step)
        future.add_done_callback(lambda finished: self._after(finished, done))

    def _after(self, finished: asyncio.Future[None], done: Callable[[BaseException | None], None]) -> None:
        self._next()
        done(asyncio.CancelledError() if finished.cancelled() else finished.exception())

    def close(self) -> None:
        """Wait for the step that runs; those that wait are dropped."""
        self._lines.clear()
        self._thread.shutdown(cancel_futures=True)
