"""A receiver's writer process, as the SIP process sees it: started, watched, replaced, ended.

It may die at any moment: what it had in hand is still in the ring, and its replacement goes on where
the account ends. The pipe to it wakes it when it sleeps, and tells it when this process is gone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ec_server.ingest.intake_ring import IntakeRing
from utilities.errors import ConfigurationError, EcServerError
from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION

_ROOT = Path(__file__).resolve().parents[2]
_STUCK_S = 15.0
_SHORT_LIFE_S = 2.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class WriterProcess:
    """Everything is called by the SIP process's main thread."""

    def __init__(self, ring: IntakeRing, number: int, configuration: Path | None) -> None:
        self._ring = ring
        self._command = [sys.executable, "-u", "-m", "ec_server.ingest", "--worker", str(number)]
        if configuration is not None:
            self._command += ["-c", str(configuration)]
        self._child: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._pause_s = 0.0
        self._not_before_s = 0.0

    def start(self) -> None:
        """Start it; it becomes ready by itself (``ring.writer_is_ready``)."""
        self._ring.expect_writer()
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        )
        assert self._child.stdin is not None
        self._ring.wakes(self._child.stdin.fileno())
        self._started_s = time.monotonic()

    def refusal(self) -> EcServerError | None:
        """Why it ended before it was ready, where it says that starting it again is of no use."""
        code = self._child.poll() if self._child is not None else None
        reason = self._ring.trouble or "the writer cannot start; see the log"
        if code == EXIT_CONFIGURATION:
            return ConfigurationError(reason)
        return EcServerError(reason) if code == EXIT_CANNOT_BOOT else None

    def look_after(self) -> bool:
        """Replace it where it died or hangs; whether it goes round. Asked about twice a second."""
        now_s = time.monotonic()
        if self._child is not None:
            if self._child.poll() is None:
                if self._ring.writer_silent_for_s() < _STUCK_S:
                    return True
                _log.error("the writer (pid %d) hangs: killed", self._child.pid)
                self._child.kill()
            self._bury(self._child, now_s)
        if now_s >= self._not_before_s:
            self.start()
        return self._child is not None

    def _bury(self, child: subprocess.Popen[bytes], now_s: float) -> None:
        code = child.wait()
        if self._ring.writer_is_ready:  # an accident: whoever sends is waiting
            self._pause_s = _FIRST_PAUSE_S if now_s - self._started_s < _SHORT_LIFE_S else 0.0
        else:
            self._pause_s = min(2 * self._pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        self._not_before_s = now_s + self._pause_s
        _log.error("the writer ended with %d; what it had in hand is still in the ring", code)
        self._let_go(child)

    def _let_go(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        self._ring.wakes_nobody()
        child.stdin.close()
        self._child = None

    def end(self, within_s: float, meanwhile: Callable[[], None]) -> bool:
        """Wait until it has settled what is in the closed ring; killed after that time. Whether it ended."""
        child, until_s = self._child, time.monotonic() + within_s
        while child is not None and child.poll() is None and time.monotonic() < until_s:
            meanwhile()
            time.sleep(0.02)
        if child is None:
            return False
        if ended := child.poll() is not None:
            ended = child.returncode == 0
        else:
            child.kill()
            child.wait()
        self._let_go(child)
        return ended
