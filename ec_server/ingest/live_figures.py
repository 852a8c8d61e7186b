"""What each device sends at the moment, written beside the worker's page for the status service.

``<storage.path>/run/<worker>.devices.json``: ``{"written": epoch_s, "devices": {device_id:
{"last_seen": epoch_s, "samples_per_second": rate}}}``, with the devices of the last minute.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from utilities.model import Batch

_WINDOW = 5
"""Intervals over which a rate is taken."""
_KEEP_S = 60.0


class LiveFigures:
    """Counts samples by device and writes the file every ``interval_s``; one thread.

    Times are of the wall clock, epoch seconds, but intervals are measured by ``now_s`` of a steady one.
    """

    def __init__(self, path: Path, now_s: float, interval_s: float = 2.0) -> None:
        self._path = path
        self._interval_s = interval_s
        self._began_s = now_s
        self._samples: dict[str, int] = {}
        self._intervals: deque[tuple[float, dict[str, int]]] = deque(maxlen=_WINDOW)
        self._last_seen_s: dict[str, float] = {}

    def count(self, batches: Iterable[Batch]) -> None:
        """These were received just now."""
        samples = self._samples
        for batch in batches:
            samples[batch.device_id] = samples.get(batch.device_id, 0) + batch.count

    def write_when_due(self, now_s: float) -> dict[str, float] | None:
        """Write the file once an interval; returns the devices seen in it, with their moment.

        A disk that does not take the file is left alone: figures are not data.
        """
        length_s = now_s - self._began_s
        if length_s < self._interval_s:
            return None
        wall_s = time.time()
        self._intervals.append((length_s, self._samples))
        seen = dict.fromkeys(self._samples, wall_s)
        self._last_seen_s |= seen
        self._last_seen_s = {d: s for d, s in self._last_seen_s.items() if wall_s - s < _KEEP_S}
        self._samples, self._began_s = {}, now_s
        self._write(wall_s)
        return seen

    def _write(self, wall_s: float) -> None:
        span_s = sum(length_s for length_s, _ in self._intervals)
        devices = {
            device_id: {
                "last_seen": round(last_seen_s, 3),
                "samples_per_second": round(
                    sum(samples.get(device_id, 0) for _, samples in self._intervals) / span_s, 1
                ),
            }
            for device_id, last_seen_s in self._last_seen_s.items()
        }
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps({"written": wall_s, "devices": devices}), "utf-8")
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
