"""What each device is sending now, written beside the worker's page for the status server.

``<storage.path>/run/<worker>.devices.json``: ``{"written": epoch_s, "devices": {device_id:
{"last_seen": epoch_s, "samples_per_second": rate}}}``, with the devices of the last minute.

Memory is bounded: at most ``most`` devices are listed, those that sent the most samples in the window; of
other devices in an interval, at most as many again are counted. So invented ids cost no more than that, and
never push out a device that keeps sending.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from utilities.model import Batch

MOST_DEVICES = 10_000
_WINDOW = 5
"""Intervals over which a rate is averaged."""
_KEEP_S = 60.0


class LiveFigures:
    """Counts samples by device and writes the file every ``interval_s``. Not thread-safe.

    Times are epoch seconds of the wall clock, but intervals are measured with the monotonic ``now_s``.
    """

    def __init__(self, path: Path, now_s: float, interval_s: float = 2.0, most: int = MOST_DEVICES) -> None:
        self._path = path
        self._interval_s = interval_s
        self._most = most
        self._began_s = now_s
        self._samples: dict[str, int] = {}
        self._intervals: deque[tuple[float, dict[str, int]]] = deque()
        self._totals: dict[str, int] = {}
        """Samples of each device, over all intervals of the window."""
        self._last_seen_s: dict[str, float] = {}

    def count(self, batches: Iterable[Batch]) -> None:
        """Count batches that were received just now."""
        samples = self._samples
        for batch in batches:
            device_id = batch.device_id
            if device_id in samples:
                samples[device_id] += batch.count
            elif len(samples) < self._most or device_id in self._last_seen_s:
                samples[device_id] = batch.count

    def write_when_due(self, now_s: float) -> dict[str, float] | None:
        """Write the file once per interval; returns the devices seen in it, and when; None if not due.

        If the file cannot be written, this is ignored: figures are not data.
        """
        length_s = now_s - self._began_s
        if length_s < self._interval_s:
            return None
        wall_s = time.time()
        samples, self._samples, self._began_s = self._samples, {}, now_s
        self._add_interval(length_s, samples)
        self._last_seen_s |= dict.fromkeys(samples, wall_s)
        self._last_seen_s = {d: s for d, s in self._last_seen_s.items() if wall_s - s < _KEEP_S}
        if len(self._last_seen_s) > self._most:
            busiest = heapq.nlargest(self._most, self._last_seen_s, key=lambda d: self._totals.get(d, 0))
            self._last_seen_s = {d: self._last_seen_s[d] for d in busiest}
        self._write(wall_s)
        return {d: wall_s for d in samples if d in self._last_seen_s}

    def _add_interval(self, length_s: float, samples: dict[str, int]) -> None:
        totals = self._totals
        self._intervals.append((length_s, samples))
        for device_id, count in samples.items():
            totals[device_id] = totals.get(device_id, 0) + count
        if len(self._intervals) > _WINDOW:
            for device_id, count in self._intervals.popleft()[1].items():
                left = totals[device_id] - count
                if left:
                    totals[device_id] = left
                else:
                    del totals[device_id]

    def _write(self, wall_s: float) -> None:
        span_s = sum(length_s for length_s, _ in self._intervals)
        devices = {
            device_id: {
                "last_seen": round(last_seen_s, 3),
                "samples_per_second": round(self._totals.get(device_id, 0) / span_s, 1),
            }
            for device_id, last_seen_s in self._last_seen_s.items()
        }
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps({"written": wall_s, "devices": devices}), "utf-8")
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
