"""Finds where samples are stored without interruption, to the microsecond; pure.

The *interval* of a second is the median distance of its samples. A second with a single sample has that of
the previous second, or one second if there is none. There is a gap between two samples that are further apart
than twice the interval (of the earlier one's second); a span ends one interval after its last sample. So the
44 samples of a lost message show as a gap of a millisecond, and the jitter of a clock does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ec_server.export.stored_seconds import Microseconds

SECOND_US = 1_000_000
Spans = list[tuple[int, int]]
"""Half-open ``(start, stop)`` in epoch microseconds, ascending, disjoint."""


class Coverage:
    """Takes seconds in ascending order, and returns spans as soon as they end."""

    def __init__(self) -> None:
        self._begin_us = self._last_us = 0
        self._interval_us = 0  # 0: no span is open
        self._latest_interval_us = SECOND_US

    def add(self, second: int, microseconds: Microseconds) -> Spans:
        """Add the samples of a second; returns the spans that end before or in it."""
        if not len(microseconds):
            return []
        times = microseconds + second * SECOND_US
        distances = np.diff(times)
        interval_us = self._interval_of(distances)
        closed = self._enter(int(times[0]))
        breaks = np.flatnonzero(distances > 2 * interval_us)
        for before, after in zip(times[breaks].tolist(), times[breaks + 1].tolist()):
            closed.append((self._begin_us, before + interval_us))
            self._begin_us = after
        self._last_us = int(times[-1])
        self._interval_us = self._latest_interval_us = interval_us
        return closed

    def add_whole(self, second: int, interval_us: int, length_s: int = 1) -> Spans:
        """A second, or several from there on, known to be without a gap, without its samples."""
        closed = self._enter(second * SECOND_US)
        self._last_us = (second + length_s) * SECOND_US - interval_us
        self._interval_us = self._latest_interval_us = interval_us
        return closed

    def finish(self) -> Spans:
        """End the open span, if any, and return it."""
        if not self._interval_us:
            return []
        last = (self._begin_us, self._last_us + self._interval_us)
        self._interval_us = 0
        return [last]

    def _interval_of(self, distances: Microseconds) -> int:
        return int(np.median(distances)) if len(distances) else self._latest_interval_us

    def _enter(self, first_us: int) -> Spans:
        """Begin a new span at ``first_us``, unless it continues the open one."""
        if self._interval_us and first_us - self._last_us <= 2 * self._interval_us:
            return []
        closed = self.finish()
        self._begin_us = first_us
        return closed


def is_whole(second: int, microseconds: Microseconds) -> int:
    """The interval in microseconds if the second has no gap from its beginning to its end, else 0."""
    coverage = Coverage()
    spans = [*coverage.add(second, microseconds), *coverage.finish()]
    if len(spans) != 1 or len(microseconds) < 2:
        return 0
    interval_us = int(np.median(np.diff(microseconds)))
    start_us, stop_us = second * SECOND_US, (second + 1) * SECOND_US
    reaches_both_ends = spans[0][0] <= start_us + interval_us and spans[0][1] >= stop_us - interval_us
    return interval_us if reaches_both_ends else 0


def gaps_between(spans: Iterable[tuple[int, int]], start_us: int, stop_us: int) -> Iterator[tuple[int, int]]:
    """The parts of ``[start_us, stop_us)`` that are in none of the spans."""
    at = start_us
    for begin, end in spans:
        if begin > at:
            yield at, min(begin, stop_us)
        at = max(at, end)
        if at >= stop_us:
            return
    if at < stop_us:
        yield at, stop_us


def clipped(spans: Iterable[tuple[int, int]], start_us: int, stop_us: int) -> Iterator[tuple[int, int]]:
    """The parts of the spans that are in ``[start_us, stop_us)``."""
    for begin, end in spans:
        begin, end = max(begin, start_us), min(end, stop_us)  # noqa: PLW2901
        if begin < end:
            yield begin, end
