"""The task of one round, its state, and its result; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ec_server.storage import ranges
from ec_server.storage.ranges import Range
from ec_server.synchronization.coverage import NOTHING_HEARD, Heard
from ec_server.synchronization.frames import Verified
from ec_server.synchronization.minute_repair import MinuteReport
from utilities.errors import PermanentStorageError
from utilities.model import MinuteState
from utilities.utc import day_of


@dataclass(frozen=True, slots=True)
class RoundTask:
    """What a round has to compare: the minutes of ``[start, stop)`` that are not settled."""

    device_id: str
    start: int
    stop: int
    heard: Heard = NOTHING_HEARD
    """What the connection's earlier rounds have learned."""
    recheck_from: int | None = None
    """From here on, empty and unconfirmable minutes are asked for again; None for none."""
    covered_from: int | None = None
    """The recorded first minute of the coverage; None before the first round."""
    lowest: int = 0
    """The earliest minute to which the device's ``through`` may lower the coverage."""
    settled_to: int = 0
    """No minute from here on is recorded as settled, however far ahead a clock was."""
    most_samples: int = 200_000
    """The most samples of one second that are accepted."""
    audit: bool = False
    """Compare every minute of the range, from the stored rows instead of cached digests."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The result of a round."""

    verified: Verified
    heard: Heard
    """For the connection's next round."""
    reports: tuple[MinuteReport, ...]
    """In an audit, the report of each minute; otherwise empty."""
    unreadable: str = ""
    """What the database could not read, if anything; for the log."""


@dataclass(slots=True)
class RoundState:
    """What a round has learned so far."""

    task: RoundTask
    now_us: Callable[[], int]
    stop: int
    """The first minute that the device has not finished, or that is not closed."""
    through: int | None
    """As the device states it; None if it says that everything is final."""
    is_answered: bool = False
    compared: int = 0
    repaired: int = 0
    unresolved: int = 0
    extra: int = 0
    reopened: list[Range] = field(default_factory=list)
    """The recorded minutes that the device is recording again, and that no round has compared since."""
    lost: list[Range] = field(default_factory=list)
    """What the database could not read."""
    unreadable: str = ""
    reports: list[MinuteReport] = field(default_factory=list)

    def hear(self, through: int | None) -> None:
        """Note the ``through`` of an answer."""
        self.is_answered, self.through = True, through
        if through is not None:
            self.stop = min(self.stop, through)

    def add(self, report: MinuteReport) -> None:
        """Count a minute that was compared."""
        self.compared += 1
        self.repaired += report.repaired
        self.unresolved += report.state in (None, MinuteState.UNRESOLVED)
        self.extra += report.extra
        if report.fault is not None and report.fault.code == "storage":
            self.unreadable = self.unreadable or report.fault.text
        if self.task.audit:
            self.reports.append(report)

    def lose(self, lost: Range, error: PermanentStorageError) -> bool:
        """Note that a range of one day cannot be read; True if nothing of that day was noted before."""
        is_new = all(day_of(start) != day_of(lost[0]) for start, _ in self.lost)
        self.lost = ranges.union([*self.lost, lost])
        self.unreadable = self.unreadable or str(error)
        return is_new
