"""Computes digests while batches are committed, so that rows need not be read again; pure.

Rules:

1. Only batches that changed stored data are added, in the order of their commit. A minute is followed only if
   its first committed batch went through this ledger (``opened``); otherwise the digest would be of a part.
2. The ledger returns a correct digest or none. If samples arrive too late for the running hash, or overlap,
   the ledger has no digest of their second, and it is computed from the rows instead. Whether another
   process wrote to the minute is not known here: the store checks that when digests are published.
3. A group is added as a whole before any minute ends: it may hold batches of several minutes in any order,
   and a minute that ended halfway through would be published without the rest.
4. Constant memory per device: a second in progress has a hash and the last few batches (which may still be
   reordered), a finished second its digest. At most two minutes of a device are open.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from ec_server.storage.contract import FinishedMinute
from utilities.model import Batch, Digest
from utilities.utc import minute_of

_WAITING: Final = 16
"""Batches of a second that may still be reordered: UDP swaps neighbours, not halves of a second."""
_LINGER_S: Final = 2
"""For how many seconds of device time a second stays open after a later one began."""


class _SecondHash:
    """A second in progress: the running hash, and the batches that wait to be hashed in order."""

    __slots__ = ("_hash", "_hashed_through_us", "_waiting", "count", "is_exact")

    def __init__(self) -> None:
        self.count = 0
        self.is_exact = True
        self._hash = hashlib.md5(usedforsecurity=False)
        self._hashed_through_us = -1
        self._waiting: list[tuple[int, int, str]] = []

    def add(self, batch: Batch) -> None:
        """Add a batch; if it begins before what is hashed already, the second has no exact digest."""
        waiting = self._waiting
        item = (batch.start_us, batch.end_us, batch.values)
        if batch.start_us <= self._hashed_through_us:
            self.is_exact = False
        elif not waiting or batch.start_us > waiting[-1][1]:
            waiting.append(item)
        else:
            insort(waiting, item)
        self.count += batch.count
        if len(waiting) >= _WAITING:
            self._hash_first(_WAITING // 2)

    def _hash_first(self, how_many: int) -> None:
        first = self._waiting[:how_many]
        del self._waiting[:how_many]
        through_us = self._hashed_through_us
        for start_us, end_us, _ in first:
            if start_us <= through_us:
                self.is_exact = False
            through_us = end_us
        text = ";".join([values for _, _, values in first])
        self._hash.update((text if self._hashed_through_us < 0 else ";" + text).encode("ascii"))
        self._hashed_through_us = through_us

    def digest(self) -> Digest | None:
        """End the second; returns its digest, None if it can be computed only from the rows."""
        if self._waiting:
            self._hash_first(len(self._waiting))
        return Digest(self.count, self._hash.hexdigest()) if self.is_exact else None


class _OpenMinute:
    """A minute of a device, from its first batch on."""

    __slots__ = ("_in_progress", "_newest", "_over", "device_id", "minute", "touched_s")

    def __init__(self, device_id: str, minute: int) -> None:
        self.device_id = device_id
        self.minute = minute
        self.touched_s = 0.0
        self._newest = minute
        self._in_progress: dict[int, _SecondHash] = {}
        self._over: dict[int, Digest | None] = {}

    def add(self, second: int, batches: Sequence[Batch]) -> None:
        """Add committed batches of one of the minute's seconds."""
        if second > self._newest:
            self._newest = second
            for old in [s for s in self._in_progress if s < second - _LINGER_S]:
                self._over[old] = self._in_progress.pop(old).digest()
        state = self._in_progress.get(second)
        if state is None:
            if second in self._over:
                self._over[second] = None
                return
            state = self._in_progress[second] = _SecondHash()
        for batch in batches:
            state.add(batch)

    def finished(self) -> FinishedMinute:
        """End the minute; returns what is known of it."""
        digests = self._over | {second: s.digest() for second, s in self._in_progress.items()}
        exact = tuple((s, d) for s, d in sorted(digests.items()) if d is not None)
        return FinishedMinute(self.device_id, self.minute, exact, len(exact) == len(digests))


class MinuteLedger:
    """The open minutes of every device that one writer serves. Not thread-safe.

    ``now_s`` is a monotonic clock, in seconds.
    """

    def __init__(self, max_minutes: int = 20_000, idle_s: float = 15.0) -> None:
        """A minute without a batch for ``idle_s`` is over.

        Beyond ``max_minutes`` open ones, the minute of the device that has been silent for longest is given
        up: its digest is computed from the rows.
        """
        self._max_minutes = max_minutes
        self._idle_s = idle_s
        self._devices: OrderedDict[str, dict[int, _OpenMinute]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Number of open minutes."""
        return self._count

    def add(
        self, batches: Iterable[Batch], opened: Collection[tuple[str, int]], now_s: float
    ) -> list[FinishedMinute]:
        """Add committed batches that changed stored data, and the minutes that their write began.

        Returns the minutes that are over according to their device's time, for ``Store.publish``.
        """
        for device_id, minute in opened:
            self._begin(device_id, minute)
        by_second: dict[tuple[str, int], list[Batch]] = {}
        for batch in batches:
            by_second.setdefault((batch.device_id, batch.second), []).append(batch)
        ended_before: dict[str, int] = {}
        for (device_id, second), of_second in by_second.items():
            minute = minute_of(second)
            entry = self._devices.get(device_id, {}).get(minute)
            if entry is not None:
                entry.add(second, of_second)
                entry.touched_s = now_s
                self._devices.move_to_end(device_id)
                if second - minute >= _LINGER_S:
                    ended_before[device_id] = max(minute, ended_before.get(device_id, minute))
        return [
            finished
            for device_id, before in ended_before.items()
            for finished in self._end(device_id, [m for m in self._devices[device_id] if m < before])
        ]

    def idle(self, now_s: float) -> list[FinishedMinute]:
        """End the minutes to which nothing was added for a while; call this now and then."""
        finished: list[FinishedMinute] = []
        for device_id, minutes in list(self._devices.items()):
            over = [m for m, entry in minutes.items() if now_s - entry.touched_s >= self._idle_s]
            finished += self._end(device_id, over)
        return finished

    def end_all(self) -> list[FinishedMinute]:
        """End every minute, as the writer stops and another one will write to them."""
        return [f for device_id in list(self._devices) for f in self._end(device_id, None)]

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """Stop following these ``(device, minute)``, as it is not known what was committed."""
        for device_id, minute in keys:
            self._end(device_id, [minute])

    def _begin(self, device_id: str, minute: int) -> None:
        minutes = self._devices.setdefault(device_id, {})
        self._devices.move_to_end(device_id)
        if minute not in minutes:
            self._count += 1
        minutes[minute] = _OpenMinute(device_id, minute)
        while self._count > self._max_minutes:
            self._end(next(iter(self._devices)), None)

    def _end(self, device_id: str, over: list[int] | None) -> list[FinishedMinute]:
        minutes = self._devices.get(device_id, {})
        ended = [minutes.pop(m) for m in (list(minutes) if over is None else over) if m in minutes]
        self._count -= len(ended)
        if not minutes:
            self._devices.pop(device_id, None)
        return [entry.finished() for entry in ended]
