"""The counters of the last hour, in memory, one point every few seconds; for "in the last hour"."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict

from ec_server.status.snapshot import Account

_EVERY_S = 15.0
_KEEP_S = 3600.0


class History:
    """Points of the account by monotonic time. Not thread-safe."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, dict[str, int]]] = deque()
        self._since: dict[str, float] = {}

    def due(self, now_s: float) -> bool:
        """Whether a point should be noted now."""
        return not self._points or now_s - self._points[-1][0] >= _EVERY_S

    def note(self, now_s: float, account: Account) -> None:
        """Add a point, and drop those older than an hour, except for the latest of these."""
        self._points.append((now_s, asdict(account)))
        while len(self._points) > 1 and self._points[1][0] < now_s - _KEEP_S:
            self._points.popleft()

    @property
    def span_s(self) -> float:
        """How long the points reach back."""
        return self._points[-1][0] - self._points[0][0] if self._points else 0.0

    def risen(self, figure: str, value: int) -> int:
        """By how much a figure has increased within the span, up to its present ``value``."""
        return value - self._points[0][1].get(figure, 0) if self._points else 0

    def since(self, reasons: tuple[str, ...], now: float) -> dict[str, float]:
        """For each present reason, the epoch second at which it was first seen.

        Reasons are compared without digits, which change all the time.
        """
        keys = {reason: "".join(c for c in reason if not c.isdigit()) for reason in reasons}
        self._since = {key: self._since.get(key, now) for key in keys.values()}
        return {reason: self._since[key] for reason, key in keys.items()}
