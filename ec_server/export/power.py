"""Power over a span in a few steps, for charts: the lowest, mean and highest value of each step.

Exact if the span has at most ``most_seconds`` seconds with samples. Otherwise that many are read, evenly
distributed, and ``Reading`` says how many of how many: reading a month at 44,000 samples per second would
take hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ec_server.export.coverage import SECOND_US
from ec_server.export.stored_seconds import Microseconds, Span, Values, arrays_of, seconds_of, stored_minutes
from ec_server.storage.contract import Store

MOST_POINTS = 10_000
DEFAULT_POINTS = 1_000
MOST_SECONDS = 3_600
"""Seconds of samples that one answer reads at most: an hour without a break."""
_SCALE = 2.0**-40
"""Changes no digit of a value, and keeps the sum of a step finite, whatever finite values it has."""


class Step(NamedTuple):
    """One step of a chart; ``time_us`` is its beginning in epoch microseconds."""

    time_us: int
    lowest: float
    mean: float
    highest: float


@dataclass(frozen=True, slots=True)
class Reading:
    """Which seconds are read: every ``stride``-th of those that may have samples."""

    seconds: int
    stride: int

    @property
    def read(self) -> int:
        """How many seconds are read."""
        return -(-self.seconds // self.stride)


def reading_of(store: Store, span: Span, most_seconds: int) -> Reading:
    """How to read a span so that at most ``most_seconds`` seconds are read."""
    seconds = sum(len(seconds_of(span, minute)) for minute, _, _ in stored_minutes(store, span))
    return Reading(seconds, max(1, -(-seconds // most_seconds)))


def power_steps(store: Store, span: Span, points: int, reading: Reading) -> Iterator[Step | None]:
    """At most ``points`` steps, ascending, without those that have no samples.

    Between them, it yields ``None`` after each second read, so that the caller sees progress.
    """
    steps = _Steps(span, points)
    number = 0
    for minute, _, _ in stored_minutes(store, span):
        for second in seconds_of(span, minute):
            wanted, number = number % reading.stride == 0, number + 1
            if wanted and (text := store.second_text(span.device_id, second)):
                microseconds, values = arrays_of(text)
                yield from steps.add(microseconds + second * SECOND_US, values)
                yield None
    yield from steps.finish()


class _Steps:
    """Aggregates samples by step; the last step stays open until a sample of a later step arrives."""

    def __init__(self, span: Span, points: int) -> None:
        self._start_us = span.start * SECOND_US
        self._step_us = max(1, -(-(span.stop - span.start) * SECOND_US // points))
        self._open: tuple[int, float, float, float, int] | None = None
        """``(step, lowest, sum times _SCALE, highest, samples)``."""

    def add(self, times_us: Microseconds, values: Values) -> Iterator[Step]:
        if not len(values):  # damage left none
            return
        numbers = (times_us - self._start_us) // self._step_us
        begins = np.concatenate(([0], np.flatnonzero(np.diff(numbers)) + 1))
        found = zip(
            numbers[begins].tolist(),
            np.minimum.reduceat(values, begins).tolist(),
            np.add.reduceat(values * _SCALE, begins).tolist(),
            np.maximum.reduceat(values, begins).tolist(),
            np.diff(begins, append=len(values)).tolist(),
        )
        for step in found:
            yield from self._merge(step)

    def _merge(self, step: tuple[int, float, float, float, int]) -> Iterator[Step]:
        before = self._open
        if before is None or before[0] != step[0]:
            yield from self.finish()
            self._open = step
            return
        number, lowest, total, highest, count = before
        self._open = (
            number,
            min(lowest, step[1]),
            total + step[2],
            max(highest, step[3]),
            count + step[4],
        )

    def finish(self) -> Iterator[Step]:
        if self._open is not None:
            number, lowest, total, highest, count = self._open
            mean = min(max(total / count / _SCALE, lowest), highest)
            yield Step(self._start_us + number * self._step_us, lowest, mean, highest)
            self._open = None
