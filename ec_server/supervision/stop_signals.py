"""Waits for a request to stop or for the death of a child, whichever comes first.

SIGTERM and SIGINT request a stop. So does SIGHUP, when the terminal closes, unless the process was started
with SIGHUP ignored, as ``nohup`` does. Every signal, including SIGCHLD, ends the wait at once through a pipe
to which the interpreter writes, so that no signal is missed between a check and the next wait.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType


class StopSignals:
    """Handlers that are installed during the ``with`` block; for the main thread only."""

    def __init__(self) -> None:
        self.requests = 0
        """How often a stop has been requested."""
        self.last = ""
        """Name of the last signal that requested one."""

    def __enter__(self) -> StopSignals:
        """Install the handlers; the previous ones are restored at the end."""
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
        """Restore the previous handlers."""
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
        """Like ``wait``; returns whether to continue: True if no stop was requested."""
        self.wait(timeout_s)
        return self.requests == 0

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        self.requests += 1
        self.last = signal.Signals(number).name
