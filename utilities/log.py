"""The log of every process of the server: one line per event, on stderr, with UTC times.

    2026-03-01T12:00:00.123Z WARNING receiver-0 [meter-7] rejected: no end mark (sender 10.0.0.7:5060)

If a line concerns a device, its id is in brackets: ``extra={"device": device_id}``.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable


class _UtcFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        device = getattr(record, "device", "")
        line = (
            f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {self._process} "
            f"{f'[{device}] ' if device else ''}{_one_line(record.getMessage())}"
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up(process: str, level: int = logging.INFO) -> None:
    """Write this process's log to stderr, with the process's name in each line. Call once, early."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_UtcFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class RateLimit:
    """Lets ``burst`` events of each kind through per ``period_s``, and counts those it held back.

    Memory is bounded: beyond ``kinds`` kinds in one period, all others share one budget.
    """

    def __init__(
        self,
        burst: int = 5,
        period_s: float = 10.0,
        kinds: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst, self._period_s, self._kinds, self._clock = burst, period_s, kinds, clock
        self._since = clock()
        self._counts: dict[str, int] = {}

    def allow(self, kind: str) -> tuple[bool, int]:
        """``(whether to log it, how many were held back in the period that has just ended)``."""
        now, held_back = self._clock(), 0
        if now - self._since >= self._period_s:
            held_back = sum(max(0, n - self._burst) for n in self._counts.values())
            self._since = now
            self._counts.clear()
        if kind not in self._counts and len(self._counts) >= self._kinds:
            kind = "(others)"
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._counts[kind] <= self._burst, held_back


def _one_line(text: str) -> str:
    """Escape line breaks and control characters, so that a peer's text cannot forge log lines."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
