"""How long rows last: their time to live in Cassandra, so that old data ends without being deleted; pure.

Rule: a clock that leaps forward shortens nobody's life. Time counts from the clock, or from the newest moment
of which this store has kept anything, where that is earlier; live data is as new as the clock. What lasts
longer for it goes with its day all the same (``remove_before``).
"""

from __future__ import annotations

from utilities.utc import DAY_S, day_of

_LONGEST_TTL_S = 20 * 365 * DAY_S  # Cassandra's own limit


class Lifetime:
    """Of what one store writes."""

    def __init__(self, retention_days: int) -> None:
        """0 keeps forever."""
        self._retention_s = retention_days * DAY_S
        self._newest = 0

    def ttl_s(self, moment: int, now_s: int) -> int:
        """Seconds until retention removes the day of ``moment``; 0: never."""
        if not self._retention_s:
            return 0
        self._newest = max(self._newest, moment)
        left_s = day_of(moment) + DAY_S + self._retention_s - min(now_s, self._newest)
        return 0 if left_s > _LONGEST_TTL_S else max(DAY_S, left_s)
