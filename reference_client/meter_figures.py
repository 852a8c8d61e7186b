"""The figures that processes of meters report, their sums, and their text; pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

from utilities.utc import minute_text


@dataclass(frozen=True, slots=True)
class Figures:
    """What a process of meters has done so far; counts are of messages unless stated otherwise."""

    seconds_recorded: int = 0
    seconds_refused: int = 0
    """Seconds that could not be recorded."""
    sent: int = 0
    acknowledged: int = 0
    failed: Counter[int] = field(default_factory=Counter)
    """Answers other than 200, by status."""
    skipped: int = 0
    waiting: int = 0
    behind_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    """Completed rounds of the synchronization."""
    verified_through: tuple[int | None, ...] = ()
    """For each meter, the minute before which everything is proven; None before its first round."""
    finished: bool = False


def total(figures: Iterable[Figures]) -> Figures:
    """The sums of the figures of several processes."""
    return reduce(_add, figures, Figures())


def line(meters: int, before: Figures, now: Figures) -> str:
    """A line of text about what happened since ``before``."""
    failed = (now.failed - before.failed).total()
    through = [minute for minute in now.verified_through if minute is not None]
    verified = f", verified through {minute_text(min(through))}" if through else ""
    return (
        f"{time.strftime('%H:%M:%SZ', time.gmtime())} {meters} meters: sent {now.sent - before.sent}, "
        f"acknowledged {now.acknowledged - before.acknowledged}, failed {failed}, "
        f"skipped {now.skipped - before.skipped}, waiting {now.waiting}, "
        f"behind {now.behind_s:.1f} s{verified}"
    )


def _add(one: Figures, other: Figures) -> Figures:
    return Figures(
        seconds_recorded=one.seconds_recorded + other.seconds_recorded,
        seconds_refused=one.seconds_refused + other.seconds_refused,
        sent=one.sent + other.sent,
        acknowledged=one.acknowledged + other.acknowledged,
        failed=one.failed + other.failed,
        skipped=one.skipped + other.skipped,
        waiting=one.waiting + other.waiting,
        behind_s=max(one.behind_s, other.behind_s),
        faults=one.faults + other.faults,
        rounds=one.rounds + other.rounds,
        verified_through=one.verified_through + other.verified_through,
        finished=one.finished and other.finished,
    )


def all_in_vain(figures: Figures) -> bool:
    """Whether messages were due and none was acknowledged."""
    due = figures.sent + figures.failed.total() + figures.skipped + figures.waiting
    return due > 0 and not figures.acknowledged


def describe(figures: Figures) -> str:
    """The totals as a line of text."""
    failed = ", ".join(f"{count} x {status}" for status, count in sorted(figures.failed.items())) or "0"
    faults = "".join(f", {count} {name}" for name, count in sorted(figures.faults.items()) if count)
    through = [minute for minute in figures.verified_through if minute is not None]
    verified = f"; verified through {minute_text(min(through))} ({len(through)} meters)" if through else ""
    return (
        f"seconds recorded {figures.seconds_recorded}, sent {figures.sent}, acknowledged "
        f"{figures.acknowledged}, failed {failed}, skipped {figures.skipped}{faults}{verified}"
    )
