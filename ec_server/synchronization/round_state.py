"""What one round is to compare, what it has found out so far, and its result; pure."""

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
    """What one round is to compare: the minutes of ``[start, stop)`` that are not settled."""

    device_id: str
    start: int
    stop: int
    heard: Heard = NOTHING_HEARD
    """What the connection's earlier rounds have found out."""
    recheck_from: int | None = None
    """From here on, minutes on record as empty or not confirmable are asked for again; None: none."""
    covered_from: int | None = None
    """Where the coverage begins on record; None before the first round."""
    lowest: int = 0
    """How far the device's ``through`` may lower it."""
    settled_to: int = 0
    """No minute from here on is on record as settled, however far ahead a clock was."""
    most_samples: int = 200_000
    """More in one second is refused."""
    audit: bool = False
    """Compare every minute of the range, from the stored rows instead of cached digests."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A round's end."""

    verified: Verified
    heard: Heard
    """For the connection's next round."""
    reports: tuple[MinuteReport, ...]
    """Of an audit: a report for each minute; otherwise empty."""
    unreadable: str = ""
    """What the database could not read, where there was anything; for the log."""


@dataclass(slots=True)
class RoundState:
    """What a round has found out so far."""

    task: RoundTask
    now_us: Callable[[], int]
    stop: int
    """The first minute that the device has not finished, or that is not closed."""
    through: int | None
    """As the device says it; None if it says that all is final."""
    is_answered: bool = False
    compared: int = 0
    repaired: int = 0
    unresolved: int = 0
    extra: int = 0
    reopened: list[Range] = field(default_factory=list)
    """As it is on record: what the device records again and no round has compared since."""
    lost: list[Range] = field(default_factory=list)
    """What the database could not read."""
    unreadable: str = ""
    reports: list[MinuteReport] = field(default_factory=list)

    def hear(self, through: int | None) -> None:
        """Take note of an answer's ``through``."""
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
        """Take note that a range of one day cannot be read; whether that day is new."""
        is_new = all(day_of(start) != day_of(lost[0]) for start, _ in self.lost)
        self.lost = ranges.union([*self.lost, lost])
        self.unreadable = self.unreadable or str(error)
        return is_new
