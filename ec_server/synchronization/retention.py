"""Which days retention may remove, even if the clock is wrong; pure.

Rules:

1. "Now" is never later than the clock, and never later than a day after the newest stored data: if nothing
   new is stored, nothing is removed.
2. If the clock leaps forward while the server runs, the new time counts only after a day. So a clock that is
   wrong for an hour removes nothing, even if data with wrong times was stored meanwhile.
3. If the clock is set back, the new time counts at once: days are kept longer.

No rule can detect a clock that was wrong already when the server started, if there is data of the same wrong
time: then days that are old according to this clock are removed.
"""

from __future__ import annotations

from utilities.utc import DAY_S, day_of

LEAP_S = 3600.0
"""A larger change is a leap, a smaller one an ordinary correction of the clock."""
_HELD_FOR_S = float(DAY_S)


class SteadyClock:
    """The wall clock, except that a leap forward counts only after a day."""

    def __init__(self) -> None:
        self._trusted: float | None = None
        self._leapt: tuple[float, float] | None = None

    def now(self, wall_s: float, uptime_s: float) -> float:
        """The time to use, in UTC epoch seconds; ``uptime_s`` is a monotonic clock."""
        offset = wall_s - uptime_s
        if self._trusted is None or offset <= self._trusted + LEAP_S or self._has_held(offset, uptime_s):
            self._trusted, self._leapt = offset, None
        return self._trusted + uptime_s

    def _has_held(self, offset: float, uptime_s: float) -> bool:
        if self._leapt is None or abs(offset - self._leapt[0]) > LEAP_S:
            self._leapt = (offset, uptime_s)
        return uptime_s - self._leapt[1] >= _HELD_FOR_S


def first_kept_day(now_s: float, latest_second: int, retention_days: int) -> int:
    """The first day to keep; ``latest_second`` is the latest one with rows of any device (rule 1)."""
    return day_of(int(min(now_s, latest_second + DAY_S))) - retention_days * DAY_S
