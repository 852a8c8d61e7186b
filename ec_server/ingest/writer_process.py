"""Starts, watches, replaces and ends a receiver's writer process; runs in the SIP process.

The writer may die at any moment: the messages that it was processing are still in the ring, and its
replacement continues where the account ends. The pipe to it wakes it when it sleeps, and tells it when this
process is gone. The supervisor's rules (restart_policy.py) decide when it is restarted, and when it counts as
hung.
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
from ec_server.supervision.restart_policy import STABLE_S, Life, Limits, RestartHistory, why_hung
from utilities.errors import ConfigurationError, EcServerError
from utilities.exit_codes import EXIT_CANNOT_BOOT, EXIT_CONFIGURATION, text_of

_ROOT = Path(__file__).resolve().parents[2]
_LIMITS = Limits(silent_s=15.0)
_SILENT_TOLD_S = 5.0
"""Silence that is reported as a trouble, before the writer counts as hung."""
_UNREADY_TOLD_S = 3.0
"""How long a replacement may take to become ready before that is reported as a trouble."""
_LONGEST_PAUSE_S = 5.0
"""The longest pause before a restart: the cause may have been fixed meanwhile, and messages wait."""

_log = logging.getLogger(__name__)


class WriterProcess:
    """All calls must come from the SIP process's main thread."""

    def __init__(self, ring: IntakeRing, number: int, configuration: Path | None) -> None:
        self._ring = ring
        self._command = [sys.executable, "-u", "-m", "ec_server.ingest", "--worker", str(number)]
        self._command += ["--ring", str(ring.path)]
        if configuration is not None:
            self._command += ["-c", str(configuration)]
        self._child: subprocess.Popen[bytes] | None = None
        self._history = RestartHistory()
        self._started_s = 0.0
        self._ready_s: float | None = None
        self._unready_since_s = time.monotonic()
        self._was_killed = False
        self._due_s = 0.0
        self._last_end = ""

    def start(self) -> None:
        """Start the writer without waiting until it is ready (``ring.writer_is_ready``)."""
        self._ring.expect_writer()
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        )
        assert self._child.stdin is not None
        self._ring.wakes(self._child.stdin.fileno())
        self._started_s, self._ready_s, self._was_killed = time.monotonic(), None, False

    def refusal(self) -> EcServerError | None:
        """Why it ended before it was ready, if its exit code says that a restart would not help."""
        code = self._child.poll() if self._child is not None else None
        reason = self._ring.trouble or "the writer cannot start; see the log"
        if code == EXIT_CONFIGURATION:
            return ConfigurationError(reason)
        return EcServerError(reason) if code == EXIT_CANNOT_BOOT else None

    def look_after(self) -> None:
        """Replace the writer if it has died or is hung. Call this about twice a second."""
        now_s = time.monotonic()
        if self._child is not None:
            self._watch(self._child, now_s)
        if self._child is None and now_s >= self._due_s:
            self.start()

    def trouble(self) -> str:
        """Why messages are not being written at the moment; "" if they are, or soon will be."""
        now_s = time.monotonic()
        why = f": {self._ring.trouble}" if self._ring.trouble else ""
        if self._ready_s is None:
            if now_s - self._unready_since_s > _UNREADY_TOLD_S or self._history.failed_boots:
                return f"the writer {self._last_end or 'is not ready'}{why}"
            return ""
        if self._ring.writer_silent_for_s() > _SILENT_TOLD_S:
            return f"the writer has not answered for more than {_SILENT_TOLD_S:g} s{why}"
        if self._history.pause_s() and now_s - self._ready_s < STABLE_S:
            return f"the writer ends again and again; the last one {self._last_end}{why}"
        return self._ring.trouble

    def _watch(self, child: subprocess.Popen[bytes], now_s: float) -> None:
        if self._ring.writer_is_ready and self._ready_s is None:
            self._ready_s = now_s
        code = child.poll()
        if code is not None:
            self._bury(child, code, now_s)
        elif not self._was_killed:
            state = "starting" if self._ready_s is None else "ready"
            silent_s = self._ring.writer_silent_for_s()
            hung = why_hung(state, self._ring.trouble, now_s - self._started_s, silent_s, _LIMITS)
            if hung:
                _log.error("the writer (process %d) %s: killed", child.pid, hung)
                child.kill()  # if it waits for a disk, it ends when the disk answers
                self._was_killed = True

    def _bury(self, child: subprocess.Popen[bytes], code: int, now_s: float) -> None:
        self._history = self._history.after(Life(self._started_s, self._ready_s, now_s))
        if self._ready_s is not None:
            self._unready_since_s = now_s
        self._ready_s = None
        self._last_end = text_of(code)
        self._due_s = now_s + min(self._history.pause_s(), _LONGEST_PAUSE_S)
        _log.error(
            "the writer (process %d) %s; the messages that it was processing are still in the ring",
            child.pid,
            self._last_end,
        )
        self._let_go(child)

    def _let_go(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        self._ring.wakes_nobody()
        child.stdin.close()
        self._child = None

    def end(self, within_s: float, meanwhile: Callable[[], None]) -> bool:
        """Wait until the closed ring is settled, and kill the writer after ``within_s``; False if killed.

        A writer that dies before is replaced, so that everything received before the stop is stored.
        """
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s:
            code = self._child.poll() if self._child is not None else None
            if self._child is not None and code == 0:
                self._let_go(self._child)
                return True
            if self.refusal() is not None:
                break
            if self._child is None or code is not None:
                self.look_after()
            meanwhile()
            time.sleep(0.02)
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._let_go(self._child)
        return False
