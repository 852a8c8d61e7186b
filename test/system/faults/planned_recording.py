"""What the meters of a load plan recorded so far: a function of the plan and the time, nothing is kept.

A meter records in step with the clock, whatever of it is sent and arrives. ``Recorded`` of
reference_client/sync_answerer.py, for one device.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Sequence
from functools import lru_cache

from reference_client.load_plan import LoadPlan
from reference_client.local_store import samples_within
from utilities.model import Digest
from utilities.utc import MINUTE_S, minute_of, second_text


class PlannedRecording:
    """Device number ``device`` of a plan with a rate that began at ``began_s`` (monotonic)."""

    def __init__(self, plan: LoadPlan, device: int, began_s: float) -> None:
        assert plan.rate is not None
        self.device_id = plan.device_id(device)
        self._plan, self._device, self._began_s = plan, device, began_s
        self._rate = plan.rate
        self._cached = lru_cache(maxsize=None)(self._compute)

    def _recorded(self) -> int:
        """The first second that is not complete."""
        steps = min((time.monotonic() - self._began_s) * self._rate, self._plan.messages) / self._plan.devices
        return self._plan.start + int(steps) // self._plan.messages_per_second

    def is_done(self) -> bool:
        """Whether the plan is at its end."""
        return (time.monotonic() - self._began_s) * self._rate >= self._plan.messages

    def text(self, second: int) -> str:
        """Canonical text of a complete second; "" if it is not."""
        if not self._plan.start <= second < self._recorded():
            return ""
        per_second, devices = self._plan.messages_per_second, self._plan.devices
        first = (second - self._plan.start) * per_second
        numbers = range(first * devices + self._device, (first + per_second) * devices, devices)
        return ";".join([self._plan.batch(number)[2] for number in numbers])

    def minutes(self) -> list[int]:
        """Every minute with a complete second."""
        stop = self._recorded()
        return list(range(minute_of(self._plan.start), stop, MINUTE_S)) if stop > self._plan.start else []

    def _compute(self, second: int) -> Digest:
        text = self.text(second)
        return Digest(text.count(","), hashlib.md5(text.encode()).hexdigest())

    # --- what the synchronization asks ----------------------------------------------------------

    def oldest(self) -> int | None:
        """The first minute."""
        return minute_of(self._plan.start)

    def through(self) -> int | None:
        """The minute that is being recorded."""
        return None if self.is_done() else minute_of(self._recorded())

    def minute_digests(self, start: int, stop: int) -> list[tuple[int, Digest]]:
        """By minute."""
        found = []
        for minute in self.minutes():
            if start <= minute < stop and (seconds := self.second_digests(minute)):
                lines = "".join(f"{second_text(s)[8:]},{d.count},{d.md5}\n" for s, d in seconds)
                md5 = hashlib.md5(lines.encode()).hexdigest()
                found.append((minute, Digest(sum(d.count for _, d in seconds), md5)))
        return found

    def second_digests(self, minute: int) -> list[tuple[int, Digest]]:
        """By second."""
        first, stop = max(minute, self._plan.start), min(minute + MINUTE_S, self._recorded())
        return [(second, self._cached(second)) for second in range(first, stop)]

    def packed(self, second: int) -> tuple[Digest, bytes] | None:
        """A whole second."""
        text = self.text(second)
        return (self._cached(second), zlib.compress(text.encode(), 1)) if text else None

    def samples(self, second: int, ranges: Sequence[tuple[int, int]]) -> str:
        """Parts of a second."""
        return ";".join(samples_within(self.text(second), ranges))
