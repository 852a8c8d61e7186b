"""Whether a long call is slow or stuck; pure, except for reading the state of a thread.

A disk may take a minute for a commit, and killing the process that waits for it only makes its successor
wait. A call counts as slow, and its process as alive, as long as its thread shows a sign of life: it used
processor time, it is waiting for a disk (state D), or it has counted a step. Without one for STUCK_S the call
is stuck: the process's heartbeat stops, and it is replaced.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SLOW_S = 5.0
"""A call that takes longer than this is reported as a trouble."""
STUCK_S = 60.0
"""A call whose thread shows no sign of life for this long is stuck."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The state of a thread at one moment."""

    processor_ticks: int = 0
    waits_for_disk: bool = False
    steps: int = 0
    """Steps of progress that the call itself has counted."""


class CallWatch:
    """Watches one call; times are of a monotonic clock, in seconds."""

    def __init__(self, began_s: float) -> None:
        self._began_s = self._sign_s = began_s
        self._seen = Activity()

    def look(self, now_s: float, activity: Activity) -> None:
        """Note the thread's present state."""
        if activity.waits_for_disk or activity != self._seen:
            self._sign_s = now_s
        self._seen = activity

    def is_stuck(self, now_s: float) -> bool:
        """Whether there was no sign of life for STUCK_S."""
        return now_s - self._sign_s > STUCK_S

    def trouble(self, now_s: float) -> str:
        """What to report about the call; "" while it is not slow."""
        took_s = now_s - self._began_s
        if self.is_stuck(now_s):
            return f"a write has been stuck for {took_s:.0f} s; the writer is replaced"
        if took_s > SLOW_S:
            return f"a write has taken more than {SLOW_S:g} s so far: the disk or the database is slow"
        return ""


def activity_of(thread_id: int | None, steps: int) -> Activity:
    """The state of a thread of this process; ``thread_id`` is that of ``threading.get_native_id``."""
    try:
        stat = Path(f"/proc/{os.getpid()}/task/{thread_id}/stat").read_text("ascii", "replace")
    except OSError:  # not Linux, or not started yet
        return Activity(steps=steps)
    fields = stat.rpartition(")")[2].split()
    return Activity(int(fields[11]) + int(fields[12]), fields[0] == "D", steps)
