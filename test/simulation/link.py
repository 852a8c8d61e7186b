"""One simulated TCP connection: bytes in order, in pieces, late; until it is cut."""

from __future__ import annotations

import random
from collections.abc import Callable

from simulation.timeline import Timeline

Receive = Callable[[bytes], None]


class Link:
    """Both directions. ``ends`` are told of bytes, and of the end (no bytes), by name."""

    def __init__(self, timeline: Timeline, chance: random.Random) -> None:
        self._timeline, self._chance = timeline, chance
        self.ends: dict[str, Receive] = {}
        self._arrives_s = {"server": 0.0, "meter": 0.0}
        self._told = {"server": True, "meter": True}
        """Which ends will hear of the end of the connection."""
        self.is_cut = False

    def send(self, to: str, data: bytes) -> None:
        """Send bytes towards an end; they arrive in one piece or two."""
        if not data or self.is_cut:
            return
        at = self._chance.randrange(len(data)) if len(data) > 1 and self._chance.random() < 0.2 else 0
        for piece in (data[:at], data[at:]):
            if piece:
                self._deliver(to, piece)

    def _deliver(self, to: str, piece: bytes) -> None:
        delay_s = self._chance.choice([0.001, 0.01, 0.2])
        arrives_s = max(self._arrives_s[to], self._timeline.now_s + delay_s)
        self._arrives_s[to] = arrives_s
        self._timeline.after(arrives_s - self._timeline.now_s, lambda: self._arrive(to, piece))

    def _arrive(self, to: str, piece: bytes) -> None:
        if not self.is_cut:
            self.ends[to](piece)

    def close(self, by: str) -> None:
        """An end closes its side: what it sent arrives, then the other hears of it."""
        other = "meter" if by == "server" else "server"
        if not self.is_cut:
            self._timeline.after(
                max(0.0, self._arrives_s[other] - self._timeline.now_s) + 0.01, lambda: self._end(other)
            )

    def _end(self, to: str) -> None:
        if not self.is_cut:
            self.is_cut = True
            self.ends[to](b"")

    def cut(self, *, server_is_told: bool = True) -> None:
        """What is under way is lost. The server may never hear of it."""
        if not self.is_cut:
            self.is_cut = True
            for end in ("meter", "server") if server_is_told else ("meter",):
                self._timeline.after(self._chance.uniform(0, 2), lambda end=end: self.ends[end](b""))  # type: ignore[misc]
