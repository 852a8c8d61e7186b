"""Power over a span in a few steps, for charts: the lowest, mean and highest value of each step.

Exact where the span has no more seconds with samples than ``most_seconds``, or each minute no more than its
part of them. Beyond that, as many are read, evenly spread: reading a month at 44,000 samples a second
would take hours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ec_server.export.coverage import SECOND_US
from ec_server.export.stored_seconds import Microseconds, Span, Values, arrays_of, seconds_of, stored_minutes
from ec_server.storage.contract import Store

MOST_POINTS = 10_000
DEFAULT_POINTS = 1_000
MOST_SECONDS = 3_600
"""The most seconds of samples that one answer reads: a complete hour."""
_LISTED_ROWS = 6_000
"""In a minute of up to so many rows, which seconds have samples is found out before some are chosen."""
_SCALE = 2.0**-40
"""Changes no digit of a value, and keeps the sum of a step finite, whatever finite values it has."""


class Step(NamedTuple):
    """One step of a chart; ``time_us`` is its beginning in epoch microseconds."""

    time_us: int
    lowest: float
    mean: float
    highest: float


def power_steps(store: Store, span: Span, points: int, most_seconds: int) -> Iterator[Step | None]:
    """At most ``points`` steps, ascending, without those that have no samples.

    Between them, it yields ``None`` after each second read, so that the caller sees progress.
    """
    steps = _Steps(span, points)
    for second, text in _texts(store, span, most_seconds):
        microseconds, values = arrays_of(text)
        yield from steps.add(microseconds + second * SECOND_US, values)
        yield None
    yield from steps.finish()


def _texts(store: Store, span: Span, most_seconds: int) -> Iterator[tuple[int, str]]:
    """The seconds to read: as many of each minute, and where that leaves none, of some minutes."""
    minutes = seconds = 0
    for minute, _, _ in stored_minutes(store, span):
        minutes, seconds = minutes + 1, seconds + len(seconds_of(span, minute))
    every = max(1, -(-minutes // most_seconds))
    of_each = 60 if seconds <= most_seconds else max(1, most_seconds // minutes)
    for number, (minute, rows, _) in enumerate(stored_minutes(store, span)):
        if number % every == 0:
            yield from _of_minute(store, span, minute, rows, of_each)


def _of_minute(store: Store, span: Span, minute: int, rows: int, most: int) -> Iterator[tuple[int, str]]:
    """At most so many of its seconds that have samples, evenly spread."""
    inside = seconds_of(span, minute)
    found = False
    if len(inside) <= most or rows > _LISTED_ROWS:
        for second in _spread(inside, most):
            if text := store.second_text(span.device_id, second):
                found = True
                yield second, text
    if len(inside) > most and not found:
        stored = [second for second, _ in store.second_digests(span.device_id, minute) if second in inside]
        for second in _spread(stored, most):
            yield second, store.second_text(span.device_id, second)


def _spread(seconds: Sequence[int], most: int) -> Sequence[int]:
    count = len(seconds)
    return seconds if count <= most else [seconds[i * count // most] for i in range(most)]


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
