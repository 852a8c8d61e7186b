"""Which minutes a round covers, and what the rounds of one connection pass on to the next; pure.

A round covers the closed minutes since the device was first seen, or since its first stored sample or the
``oldest`` minute that it offers, if that is earlier. It asks about those that are not settled, and about:

* minutes that are recorded as empty or unconfirmable, once on each connection, as the device may have been
  without its store, or a clock may have been wrong. It goes back to the device's ``oldest`` if given, else
  ``sync.recheck_hours``;
* settled minutes that the device says it has not finished recording (its clock was set back, and it records
  them again), once it has finished them. They are stored (``DeviceRecord.reopened``), as the connection may
  have ended or the server been restarted by then.

``Heard.rechecked_to`` says up to where this connection has asked. It is the end of the last round, so that it
moves back if either side's clock does, and what was settled after it is asked for again. If the monotonic
clock shows that the server's wall clock was ahead in the last round, it moves back to what was really closed
at that time (``too_early``).

Clocks are not trusted. A first-seen time in the future is ignored. Nothing after the last closed minute, or
after what the device has finished, is ever considered settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ec_server.storage.ranges import Range
from utilities.model import DeviceRecord
from utilities.utc import DAY_S, HOUR_S, MINUTE_S, day_of, minute_of


@dataclass(frozen=True, slots=True)
class RoundRules:
    """The options for rounds."""

    grace_s: float
    """A minute is closed this long after its end."""
    back_days: float
    """How far back receivers accept samples."""
    retention_days: int
    """Days that are kept; 0 keeps them forever."""
    recheck_hours: float = 48.0
    """How far back a new connection is asked again about empty and unconfirmable minutes."""
    most_samples: int = 200_000
    """The most samples of one second that are accepted."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the rounds of one connection have learned so far."""

    rechecked_to: int | None = None
    """This connection was asked about everything before this minute; None before its first round."""
    reopened: tuple[Range, ...] = ()
    """Settled minutes that the device is recording again."""
    through: int | None = None
    """From where on the device last said that it has not finished; None if it did not say."""

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
    """The earliest minute to which a device's ``through`` can lower the coverage."""


def round_span(
    record: DeviceRecord | None, earliest: int | None, oldest: int | None, now_s: float, rules: RoundRules
) -> Span:
    """What a round that begins now covers.

    ``earliest`` is the device's first stored minute, ``oldest`` the first one that it offers. Never further
    back than receivers accept samples and retention keeps them. A device that had finished less than that
    when it was first asked has lowered the coverage (``record.covered_from``), by at most a day, so that a
    device whose clock was reset to 1970 does not make every later round begin there.
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
    """``heard`` unchanged if the clock was right; else with minutes that were settled too early reopened.

    ``last_round_s``: when the last round was, according to the present wall clock.
    """
    closed_then = closed_before(last_round_s, rules)
    if heard.rechecked_to is None or heard.rechecked_to <= closed_then:
        return heard
    reopened = (*heard.reopened, (closed_then, heard.rechecked_to))
    return replace(heard, rechecked_to=closed_then, reopened=reopened)


def recheck_start(heard: Heard, oldest: int | None, now_s: float, rules: RoundRules) -> int:
    """The minute from which on empty and unconfirmable minutes are asked for again."""
    if heard.rechecked_to is not None:
        return heard.rechecked_to
    if oldest is not None:
        return oldest
    return minute_of(int(now_s - rules.recheck_hours * HOUR_S))
