"""The order and deadlines for stopping the server's processes; pure, with the time as an argument.

The receivers are stopped first: they accept no more messages, drain their queues and commit. The others are
stopped when no receiver is left, so that rounds and the status page still work while the receivers drain.
Each step has a deadline; whatever is still running after the last one is killed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ec_server.supervision.restart_policy import Limits


@dataclass(frozen=True, slots=True)
class StopPlan:
    """A stop that was requested at ``asked_s``, and a second time at ``hurried_s``."""

    limits: Limits
    asked_s: float
    hurried_s: float | None = None

    def hurried(self, now_s: float) -> StopPlan:
        """The same stop, requested once more."""
        return self if self.hurried_s is not None else replace(self, hurried_s=now_s)

    def kill_s(self) -> float:
        """When the remaining processes are killed."""
        last = self.asked_s + self.limits.stop_s
        return last if self.hurried_s is None else min(last, self.hurried_s + self.limits.hurried_stop_s)

    def tells_others(self, now_s: float, receivers_left: int) -> bool:
        """Whether the other processes than receivers are to be stopped now."""
        late = now_s >= self.asked_s + self.limits.receivers_stop_s
        return receivers_left == 0 or late or self.hurried_s is not None

    def kills(self, now_s: float) -> bool:
        """Whether the last deadline has passed."""
        return now_s >= self.kill_s()
