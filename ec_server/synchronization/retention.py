"""Which days retention may remove, whatever the clock does; pure.

Rules:

1. "Now" is never later than the clock, nor than a day after the newest stored data: where nothing is
   stored any more, nothing is removed either.
2. A clock that leaps forward while the server runs counts only once it has held for a day. So an hour of
   a wrong clock removes nothing, even where data of that wrong time was stored meanwhile.
3. A clock that steps back counts at once: days are kept longer.

What no rule can tell is a clock that was wrong already when the server started, with data of that same
wrong time: then the days go that this clock calls old.
"""

from __future__ import annotations

from utilities.utc import DAY_S, day_of

LEAP_S = 3600.0
"""More is a leap; less is an ordinary correction of the clock."""
_HELD_FOR_S = float(DAY_S)


class SteadyClock:
    """The wall clock, except that a leap forward counts only once it has held for a day."""

    def __init__(self) -> None:
        self._trusted: float | None = None
        self._leapt: tuple[float, float] | None = None

    def now(self, wall_s: float, uptime_s: float) -> float:
        """UTC epoch seconds to go by; ``uptime_s`` counts seconds, whatever the wall clock does."""
        offset = wall_s - uptime_s
        if self._trusted is None or offset <= self._trusted + LEAP_S or self._has_held(offset, uptime_s):
            self._trusted, self._leapt = offset, None
        return self._trusted + uptime_s

    def _has_held(self, offset: float, uptime_s: float) -> bool:
        if self._leapt is None or abs(offset - self._leapt[0]) > LEAP_S:
            self._leapt = (offset, uptime_s)
        return uptime_s - self._leapt[1] >= _HELD_FOR_S


def first_kept_day(now_s: float, latest_second: int, retention_days: int) -> int:
    """The first day that is kept; ``latest_second`` is the newest of which any device has rows (rule 1)."""
    return day_of(int(min(now_s, latest_second + DAY_S))) - retention_days * DAY_S
