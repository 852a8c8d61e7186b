"""The simulated clock, and what is to happen when. Nothing here waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Timeline:
    """Events in the order of their moments; those of one moment in the order in which they were made."""

    def __init__(self, start_s: float) -> None:
        self.now_s = start_s
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + max(0.0, delay_s), next(self._numbers), act))

    def run_until(self, moment_s: float) -> None:
        """Let everything happen that comes before a moment."""
        while self._events and self._events[0][0] <= moment_s:
            self.now_s, _, act = heapq.heappop(self._events)
            act()
        self.now_s = moment_s
