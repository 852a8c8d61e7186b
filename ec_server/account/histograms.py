"""Histograms as figures of a worker's page: one figure per bucket, and one for the sum; pure.

A page holds whole numbers that only increase, so a histogram survives its worker's death like every other
figure, and those of several workers can be added.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of times in seconds; ``name`` is that of the metric, ``prefix`` that of the figures."""

    name: str
    prefix: str
    bounds_s: tuple[float, ...]
    """Upper bounds, inclusive, ascending; there is one more bucket above the last one."""
    help: str

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures of a page: the buckets, ascending, then the sum in milliseconds."""
        return (*(f"{self.prefix}_{i}" for i in range(len(self.bounds_s) + 1)), f"{self.prefix}_ms")

    def noted(self, seconds: float) -> dict[str, int]:
        """What one observation adds to the figures; negative ones count as 0."""
        seconds = max(0.0, seconds)
        bucket = bisect_left(self.bounds_s, seconds)
        return {f"{self.prefix}_{bucket}": 1, f"{self.prefix}_ms": round(seconds * 1000)}

    def buckets(self, totals: Mapping[str, int]) -> list[tuple[str, int]]:
        """``(le, cumulative count)`` as in Prometheus, from figures summed over the pages."""
        cumulative, found = 0, []
        for bound, figure in zip([*map("{:g}".format, self.bounds_s), "+Inf"], self.figures):
            cumulative += totals.get(figure, 0)
            found.append((bound, cumulative))
        return found


COMMIT_DURATION = Histogram(
    "ec_commit_duration_seconds",
    "commit_took",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    "How long commits took.",
)
NEWEST_SAMPLE_AGE = Histogram(
    "ec_newest_sample_age_seconds",
    "newest_age",
    (0.5, 1, 2, 3, 5, 10, 30, 60, 300, 3600, 86400),
    "Age of the newest sample of each commit when it was stored.",
)
ROUND_DURATION = Histogram(
    "ec_sync_round_duration_seconds",
    "round_took",
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    "How long rounds took.",
)
HISTOGRAMS = (COMMIT_DURATION, NEWEST_SAMPLE_AGE, ROUND_DURATION)
