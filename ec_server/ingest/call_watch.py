"""Whether a long call is slow or stuck; pure, except for reading what a thread is doing.

A disk may take a minute for a commit, and to kill the process that waits for it only makes it wait again.
A call counts as slow, and its process as alive, as long as its thread shows a sign of life: it used
processor time, the kernel has it waiting for a disk (state D), or it counted a step of its own. It is
stuck when there was none for STUCK_S: then its process no longer beats, and is replaced.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SLOW_S = 5.0
"""A call that takes longer is reported as a trouble."""
STUCK_S = 60.0
"""A call whose thread shows no sign of life for so long does not return."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What a thread shows at one moment."""

    processor_ticks: int = 0
    waits_for_disk: bool = False
    steps: int = 0
    """Steps that the call itself has counted."""


class CallWatch:
    """Follows one call; times are of any steady clock, in seconds."""

    def __init__(self, began_s: float) -> None:
        self._began_s = self._sign_s = began_s
        self._seen = Activity()

    def look(self, now_s: float, activity: Activity) -> None:
        """Note what the thread shows now."""
        if activity.waits_for_disk or activity != self._seen:
            self._sign_s = now_s
        self._seen = activity

    def is_stuck(self, now_s: float) -> bool:
        """Whether there was no sign of life for STUCK_S."""
        return now_s - self._sign_s > STUCK_S

    def trouble(self, now_s: float) -> str:
        """What to tell of it; "" while it is not slow."""
        took_s = now_s - self._began_s
        if self.is_stuck(now_s):
            return f"a write has been stuck for {took_s:.0f} s; the writer is replaced"
        if took_s > SLOW_S:
            return f"a write has taken more than {SLOW_S:g} s so far: the disk or the database is slow"
        return ""


def activity_of(thread_id: int | None, steps: int) -> Activity:
    """What a thread of this process shows; ``thread_id`` is the kernel's (``threading.get_native_id``)."""
    try:
        stat = Path(f"/proc/{os.getpid()}/task/{thread_id}/stat").read_text("ascii", "replace")
    except OSError:  # not Linux, or not begun
        return Activity(steps=steps)
    fields = stat.rpartition(")")[2].split()
    return Activity(int(fields[11]) + int(fields[12]), fields[0] == "D", steps)
