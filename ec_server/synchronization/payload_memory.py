"""Limits the bytes of payloads in memory, over all connections; pure.

A payload counts with its full length from the line that announces it until the round has processed it.
Rules:

1. The sum never exceeds ``total``. Connections for which there is no room wait in the order of arrival, and
   are not read from meanwhile.
2. Payloads of more than ``LARGE_BYTES`` may take at most three quarters, and wait in a separate queue, so
   that ordinary seconds (a few hundred kilobytes) always get through.
3. One connection holds at most MAX_PAYLOAD_BYTES; what it announces beyond that waits until its earlier
   payloads are processed, and does not delay others.

The memory for decompressing and processing payloads is bounded elsewhere: by the number of store threads,
MAX_PAYLOAD_BYTES when decompressed, and sync.max_second_samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from ec_server.synchronization.frames import MAX_PAYLOAD_BYTES

TOTAL_BYTES = 4 * MAX_PAYLOAD_BYTES
LARGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Waiting:
    length: int
    granted: Callable[[], None]

    @property
    def large(self) -> bool:
        return self.length > LARGE_BYTES


class PayloadMemory:
    """Which connection holds how much, and which wait; used from one event loop."""

    def __init__(self, total: int = TOTAL_BYTES) -> None:
        self.total = total
        self.held = self._large = 0
        """Bytes in use now, and how many of them are in large payloads."""
        self._held_by: Counter[Hashable] = Counter()
        self._large_of: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, _Waiting] = {}

    @property
    def is_short(self) -> bool:
        """Whether a connection waits for memory that others hold."""
        return any(not self._is_own_limit(who, w.length) for who, w in self._waiting.items())

    def take(self, who: Hashable, length: int, granted: Callable[[], None]) -> bool:
        """Whether there is room for a payload; if not, ``granted`` is called once there is."""
        wanted = _Waiting(length, granted)
        if not self._is_line_before(wanted) and self._fits(who, length):
            self._grant(who, length)
            return True
        self._waiting[who] = wanted
        return False

    def give_back(self, who: Hashable, length: int) -> None:
        """Release a payload of this length; ignored if its holder was forgotten before."""
        if who not in self._held_by:
            return
        self._add(who, -length)
        self._serve()

    def move(self, who: Hashable, to: Hashable, length: int) -> None:
        """Pass a payload from one holder to another, which may live longer."""
        if who in self._held_by:
            self._add(to, length)
            self._add(who, -length)

    def forget(self, who: Hashable) -> None:
        """Release everything that a connection holds or waits for, as it has ended."""
        self._waiting.pop(who, None)
        self.held -= self._held_by.pop(who, 0)
        self._large -= self._large_of.pop(who, 0)
        self._serve()

    def _is_line_before(self, wanted: _Waiting) -> bool:
        return any(
            w.large is wanted.large and not self._is_own_limit(who, w.length)
            for who, w in self._waiting.items()
        )

    def _is_own_limit(self, who: Hashable, length: int) -> bool:
        return self._held_by[who] > 0 and self._held_by[who] + length > MAX_PAYLOAD_BYTES

    def _fits(self, who: Hashable, length: int) -> bool:
        if self._is_own_limit(who, length):
            return False
        if length > LARGE_BYTES and self._large + length > self.total * 3 // 4:
            return False
        return self.held + length <= self.total

    def _grant(self, who: Hashable, length: int) -> None:
        self._waiting.pop(who, None)
        self._add(who, length)

    def _add(self, who: Hashable, length: int) -> None:
        self.held += length
        self._held_by[who] += length
        if abs(length) > LARGE_BYTES:
            self._large += length
            self._large_of[who] += length

    def _serve(self) -> None:
        """Admit waiting payloads that fit, in the order of arrival within each queue."""
        full: set[bool] = set()
        for who, wanted in list(self._waiting.items()):
            if wanted.large not in full and self._fits(who, wanted.length):
                self._grant(who, wanted.length)
                wanted.granted()
            elif not self._is_own_limit(who, wanted.length):
                full.add(wanted.large)
