"""Waits for a request to stop or for the death of a child, whichever comes first.

SIGTERM and SIGINT ask for a stop. So does SIGHUP, when the terminal goes, unless the process was
started with it ignored, which is what ``nohup`` does. Every signal, SIGCHLD too, ends the wait at
once, by way of a pipe that the interpreter writes to: nothing is missed between look and wait.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType


class StopSignals:
    """Installed while in its ``with`` block; for the main thread only."""

    def __init__(self) -> None:
        self.requests = 0
        """How often a stop has been asked for."""
        self.last = ""
        """Name of the signal that asked last."""

    def __enter__(self) -> StopSignals:
        """Take over the signals; those of before come back at the end."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._former_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._former = {signal.SIGCHLD: signal.signal(signal.SIGCHLD, lambda *_: None)}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float) -> None:
        """Return at the next signal, or after ``timeout_s``."""
        if select.select([self._read], [], [], timeout_s)[0]:
            os.read(self._read, 4096)

    def pause(self, timeout_s: float) -> bool:
        """Like ``wait``; returns whether to continue, that is, whether no stop was requested."""
        self.wait(timeout_s)
        return self.requests == 0

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        self.requests += 1
        self.last = signal.Signals(number).name
