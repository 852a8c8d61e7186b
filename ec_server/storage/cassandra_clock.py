"""A writer's two clocks: one that never moves back, for ordering, and one that runs on during suspension.

Rules:

1. Ranks, versions and write timestamps come from ``Stamps``, a hybrid logical clock: the wall clock in
   epoch microseconds, but never the same value twice, and always above what this process has seen in the
   database. So the order stays right if the clock steps back or another server's clock is ahead.
2. The remaining time of a lease is measured in boot time, which includes time in suspension. The
   monotonic clock stops then: a writer that wakes up would consider its lease valid although readers have
   considered the writer dead for a long time.
"""

from __future__ import annotations

import time


def boot_time_s() -> float:
    """Seconds since the machine was started, including suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> int:
    """The wall clock, in epoch microseconds."""
    return time.time_ns() // 1000


class Stamps:
    """Timestamps in epoch microseconds, strictly increasing."""

    def __init__(self) -> None:
        self._last_us = 0

    def next(self, how_many: int = 1) -> int:
        """The first of ``how_many`` consecutive timestamps that nobody else in this process gets."""
        first_us = max(time.time_ns() // 1000, self._last_us + 1)
        self._last_us = first_us + how_many - 1
        return first_us

    def saw(self, moment_us: int) -> None:
        """Note a timestamp read from the database: every later one will be above it."""
        self._last_us = max(self._last_us, moment_us)
