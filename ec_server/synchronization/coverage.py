"""Which minutes a round covers, and what one connection's rounds know of each other; pure.

A round covers the closed minutes since the device was first seen, or since its first stored sample or
the ``oldest`` that it offers, where that is earlier. Asked about are those that are not settled, and:

* minutes on record as empty or not confirmable, once on each connection: the device may have been
  without its store, or one of the clocks wrong. Back to the device's ``oldest`` where it gives one,
  else ``sync.recheck_hours``;
* settled minutes that the device says it has not finished recording (its clock stepped back, and it
  records them again), once it has finished them. They are on record (``DeviceRecord.reopened``), since
  by then the connection or the server's process may be another.

``Heard.rechecked_to`` says how far this connection has asked. It is the end of the last round, so it
goes back with either side's clock, and what was settled beyond it is asked for again. Where the
server's own clock turns out to have been ahead in the last round (a clock that never steps says how
long ago that was), it goes back to what was closed then (``too_early``).

Clocks are not trusted. What the database says was first seen in the future was not; nothing beyond
the last closed minute, or beyond what the device itself has finished, is ever called settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ec_server.storage.ranges import Range
from utilities.model import DeviceRecord
from utilities.utc import DAY_S, HOUR_S, MINUTE_S, day_of, minute_of


@dataclass(frozen=True, slots=True)
class RoundRules:
    """What the configuration says of rounds."""

    grace_s: float
    """A minute is closed so long after its end."""
    back_days: float
    """How far back the receivers take samples."""
    retention_days: int
    """Days that are kept; 0 keeps for ever."""
    recheck_hours: float = 48.0
    """How far back a new connection is asked again about what is on record as empty or not confirmable."""
    most_samples: int = 200_000
    """More in one second is refused."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the rounds of one connection have found out so far."""

    rechecked_to: int | None = None
    """This connection was asked for everything before this; None before its first round."""
    reopened: tuple[Range, ...] = ()
    """Settled minutes that the device records again."""
    through: int | None = None
    """What the device last said that it has not finished; None if it left that out."""

    @property
    def is_new(self) -> bool:
        """Whether the connection has had no round yet."""
        return self.rechecked_to is None


NOTHING_HEARD = Heard()


def closed_before(now_s: float, rules: RoundRules) -> int:
    """The first minute that is not closed yet."""
    return minute_of(int(now_s - rules.grace_s))


@dataclass(frozen=True, slots=True)
class Span:
    """The minutes ``[start, stop)`` that a round covers."""

    start: int
    stop: int
    """The first minute that is not closed."""
    lowest: int
    """No device's ``through`` lowers the coverage further than to here."""


def round_span(
    record: DeviceRecord | None, earliest: int | None, oldest: int | None, now_s: float, rules: RoundRules
) -> Span:
    """What a round covers at this moment.

    ``earliest`` is the device's first stored minute, ``oldest`` what it offers. Never further back
    than the receivers take samples from and retention keeps them. A device that had finished less than
    that when it was first asked has lowered the coverage (``record.covered_from``), by a day at most: a
    device whose clock was reset to 1970 shall not make every later round begin there.
    """
    now = int(now_s)
    known = [minute for minute in (earliest, oldest) if minute is not None]
    if record is not None:
        known.append(minute_of(record.first_seen_us // 1_000_000))
    first = min([*known, closed_before(now_s, rules)]) if known else minute_of(now)
    lowest = first - DAY_S
    if record is not None and record.covered_from is not None:
        first = min(first, max(record.covered_from, lowest))
    bounds = [minute_of(now - int(rules.back_days * DAY_S)) + MINUTE_S]
    if rules.retention_days:
        bounds.append(day_of(now) - rules.retention_days * DAY_S)
    stop = closed_before(now_s, rules)
    return Span(min(max(first, *bounds), stop), stop, lowest)


def too_early(heard: Heard, last_round_s: float, rules: RoundRules) -> Heard:
    """The same, where the clock was right; else with what was settled too early opened again.

    ``last_round_s``: when the last round was, by the wall clock of now.
    """
    closed_then = closed_before(last_round_s, rules)
    if heard.rechecked_to is None or heard.rechecked_to <= closed_then:
        return heard
    reopened = (*heard.reopened, (closed_then, heard.rechecked_to))
    return replace(heard, rechecked_to=closed_then, reopened=reopened)


def recheck_start(heard: Heard, oldest: int | None, now_s: float, rules: RoundRules) -> int:
    """From here on, minutes on record as empty or not confirmable are asked for again."""
    if heard.rechecked_to is not None:
        return heard.rechecked_to
    if oldest is not None:
        return oldest
    return minute_of(int(now_s - rules.recheck_hours * HOUR_S))
