"""The two clocks of a writer: one that only moves forward, for order, and one that suspension does not stop.

Rules:

1. Ranks, versions and write timestamps come from ``Stamps``: the wall clock in epoch microseconds, but
   never twice the same, and never below what this process has seen in the database (a hybrid logical
   clock). A clock that steps back, or another server's that is ahead, does not change the order.
2. How long a lease still lasts is measured in boot time, which counts while the machine is suspended.
   The monotonic clock stops then, and a writer that wakes up would take its lease for valid when
   readers have long taken it for dead.
"""

from __future__ import annotations

import time


def boot_time_s() -> float:
    """Seconds since the machine was started, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> int:
    """What the clock says, in epoch microseconds."""
    return time.time_ns() // 1000


class Stamps:
    """Moments in epoch microseconds, each later than the one before."""

    def __init__(self) -> None:
        self._last_us = 0

    def next(self, how_many: int = 1) -> int:
        """The first of ``how_many`` consecutive moments that are this caller's alone."""
        first_us = max(time.time_ns() // 1000, self._last_us + 1)
        self._last_us = first_us + how_many - 1
        return first_us

    def saw(self, moment_us: int) -> None:
        """What was read from the database: every later stamp is above it."""
        self._last_us = max(self._last_us, moment_us)
