"""One process of one worker: its start, its end, and what is known about it in between.

Rules:

1. The child leads a session of its own: a Ctrl-C in the terminal reaches the launcher alone, which
   tells the children in the right order.
2. The child's standard input is a pipe whose other end only the launcher holds. When the launcher
   dies, however it dies, the child reads the end of file, drains and ends.
3. The child starts as a new program; it inherits standard output and error, and the descriptors
   named in ``keep_open``, nothing else.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from ec_server.supervision.plan import ChildPlan
from ec_server.supervision.restart_policy import Life
from utilities.exit_codes import text_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended."""

    pid: int
    code: int
    """Exit code, or minus the number of the signal that killed it."""
    life: Life
    asked: bool
    """It had been asked to stop."""

    @property
    def text(self) -> str:
        """For the log: ``was killed by SIGKILL`` or ``ended with exit code 1``."""
        return text_of(self.code)

    @property
    def lived_s(self) -> float:
        """Seconds from start to end."""
        return self.life.ended_s - self.life.started_s

    @property
    def clean(self) -> bool:
        """It drained and ended; or it was asked to stop before it was ready, and had nothing to drain."""
        unready = self.life.ready_s is None and self.code == -signal.SIGTERM
        return self.code == 0 or (self.asked and unready)


class Child:
    """A started process. For one thread."""

    def __init__(self, plan: ChildPlan, environ: Mapping[str, str], keep_open: Sequence[int] = ()) -> None:
        """Start it. Raises OSError if the system refuses."""
        self.plan = plan
        self.started_s = monotonic()
        self.ready_s: float | None = None
        self.asked = False
        self.killed = False
        self._process = subprocess.Popen(
            plan.command,
            stdin=subprocess.PIPE,
            env=dict(environ),
            pass_fds=tuple(keep_open),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def saw_ready(self, now_s: float) -> None:
        """Note the first time that the process was seen ready."""
        if self.ready_s is None:
            self.ready_s = now_s

    def ask_to_stop(self) -> None:
        """Tell it once to stop taking, drain and end."""
        if not self.asked:
            self.asked = True
            self._process.terminate()

    def kill(self) -> None:
        """End it now; its death is reported like any other."""
        self.killed = True
        self._process.kill()

    def outcome(self) -> Outcome | None:
        """How it ended, once it has; the process is then gone from the system. None while it lives."""
        code = self._process.poll()
        if code is None:
            return None
        if self._process.stdin is not None:
            self._process.stdin.close()
        life = Life(self.started_s, self.ready_s, monotonic())
        return Outcome(self.pid, code, life, self.asked)
