"""One process of a worker, from its start to its end.

Rules:

1. The child runs in a session of its own, so that Ctrl-C in the terminal reaches only the launcher, which
   stops the children in the right order.
2. The child's standard input is a pipe whose other end only the launcher holds. If the launcher dies for any
   reason, the child reads end of file, drains and ends.
3. The child starts as a new program; it inherits only standard output, standard error and the descriptors
   in ``keep_open``.
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
    """Exit code, or the negative number of the signal that killed it."""
    life: Life
    asked: bool
    """Whether it had been asked to stop."""

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
        """Whether it drained and ended, or was asked to stop before it was ready, with nothing to drain."""
        unready = self.life.ready_s is None and self.code == -signal.SIGTERM
        return self.code == 0 or (self.asked and unready)


class Child:
    """A started process. Not thread-safe."""

    def __init__(self, plan: ChildPlan, environ: Mapping[str, str], keep_open: Sequence[int] = ()) -> None:
        """Start the process. Raises OSError if the system refuses."""
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
        """Ask it, once, to accept no more, drain and end."""
        if not self.asked:
            self.asked = True
            self._process.terminate()

    def kill(self) -> None:
        """Kill it; its death is reported like any other."""
        self.killed = True
        self._process.kill()

    def outcome(self) -> Outcome | None:
        """How it ended, after reaping it; None while it is alive."""
        code = self._process.poll()
        if code is None:
            return None
        if self._process.stdin is not None:
            self._process.stdin.close()
        life = Life(self.started_s, self.ready_s, monotonic())
        return Outcome(self.pid, code, life, self.asked)
