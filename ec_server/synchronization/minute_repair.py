"""One minute that differs, made right: second by second, each asked for, written and compared again.

A generator (steps.py), without I/O. Rules:

1. What is proven is proven by digests over stored rows: the expected digest of every second is
   computed from the device's answers, and after the repair the stored one is read again and compared.
2. Each second is one write, which only adds (repair_plan.py). Whatever is cut off in between leaves
   whole seconds; the verdict comes last, so the minute is compared again.
3. What was written to by others in the meantime is repaired again, a few times.
4. A device that contradicts its own digests raises RemoteProtocolError; nothing of that answer is
   stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from ec_server.synchronization.frames import AskSamples, AskSeconds, Samples, Seconds
from ec_server.synchronization.repair_plan import (
    Ranges,
    SecondRepair,
    checked_text,
    digest_of,
    from_ranges,
    from_whole,
    range_requests,
)
from ec_server.synchronization.session import WINDOW
from ec_server.synchronization.steps import Ask, Collect, Note, Steps, use
from utilities.checksum_util import minute_digest
from utilities.errors import RemoteProtocolError
from utilities.model import Digest, MinuteState
from utilities.utc import ec_time, minute_text, second_text

_ATTEMPTS = 3
"""How often seconds are repaired that somebody else writes to in the same moment."""


@dataclass(frozen=True, slots=True)
class MinuteReport:
    """What a round found in one minute and did about it."""

    minute: int
    state: MinuteState | None
    """None: left for a later round, because it was written to meanwhile."""
    here: Digest | None
    """The stored minute digest at the end."""
    there: Digest | None
    """The device's."""
    repaired: int = 0
    """Seconds changed."""
    samples: int = 0
    """Samples written."""
    conflicts: int = 0
    extra: int = 0


@dataclass(slots=True)
class _Done:
    """What a minute's repair has done so far, and what every second must be in the end."""

    expected: dict[int, Digest]
    changed: set[int] = field(default_factory=set)
    samples: int = 0
    conflicts: int = 0
    extra: dict[int, int] = field(default_factory=dict)


def repair_minute(device_id: str, minute: int, theirs: Digest) -> Steps[MinuteReport]:
    """Make the minute hold every sample of the device; ``theirs`` is the device's minute digest."""
    asked = yield Ask(AskSeconds(0, minute))
    here = dict((yield from use(lambda store: store.second_digests(device_id, minute))))
    there = dict(cast(Seconds, (yield Collect(asked))).digests)
    if _minute_digest(there) != theirs:
        raise RemoteProtocolError(
            "digest_mismatch", f"the seconds of {minute_text(minute)} do not make up its minute digest"
        )
    done = _Done(dict(there))
    wrong = _differing(there, here, done.expected)
    for _ in range(_ATTEMPTS):
        yield from _repair_seconds(device_id, wrong, here, done)
        here = dict((yield from use(lambda store: store.second_digests(device_id, minute))))
        wrong = _differing(there, here, done.expected)
        if not wrong:
            break
    alone = {second: here[second].count for second in here.keys() - there.keys()}
    yield from _tell(minute, done.conflicts, bool(wrong))
    return MinuteReport(
        minute,
        MinuteState.UNRESOLVED if wrong else MinuteState.PROVEN,
        _minute_digest(here),
        theirs,
        len(done.changed),
        done.samples,
        done.conflicts,
        sum((done.extra | alone).values()),
    )


def _differing(
    there: Mapping[int, Digest], here: Mapping[int, Digest], expected: Mapping[int, Digest]
) -> list[tuple[int, Digest]]:
    """The device's seconds whose stored digest is not the expected one, with the device's digest."""
    return [(second, there[second]) for second in sorted(there) if here.get(second) != expected[second]]


def _minute_digest(seconds: Mapping[int, Digest]) -> Digest | None:
    digest = minute_digest((ec_time(s), d.count, d.md5) for s, d in sorted(seconds.items()))
    return Digest(*digest) if digest else None


def _tell(minute: int, conflicts: int, unresolved: bool) -> Steps[None]:
    name = minute_text(minute)
    if conflicts:
        line = f"minute {name}: {conflicts} stored values differed; the device's replaced them"
        yield Note({"value_conflicts": conflicts}, "conflict", line)
    if unresolved:
        yield Note({}, "unresolved", f"minute {name} still differs after the repair")


# --- the seconds that differ --------------------------------------------------------------


@dataclass(slots=True)
class _Flight:
    """A second on its way: what is stored of it, what is still to be asked, what was asked."""

    second: int
    wanted: Digest
    stored: str
    unasked: deque[Ranges | None]
    """A request each; None asks for the whole second."""
    asked: deque[tuple[int, Ranges | None]] = field(default_factory=deque)


def _repair_seconds(
    device_id: str,
    wrong: Sequence[tuple[int, Digest]],
    here: Mapping[int, Digest],
    done: _Done,
) -> Steps[None]:
    """Repair each second in turn, with requests for the next ones under way meanwhile."""
    todo, flights = deque(wrong), deque[_Flight]()
    while todo or flights:
        yield from _ask_ahead(device_id, todo, here, flights)
        repair = yield from _land(device_id, flights[0])
        second = flights.popleft().second
        done.expected[second], done.extra[second] = repair.expected, repair.extra
        if repair.batches:
            yield from _write(second, repair, done)


def _write(second: int, repair: SecondRepair, done: _Done) -> Steps[None]:
    changed = (yield from use(lambda store: store.repair(repair.batches))).stored > 0
    first_time = changed and second not in done.changed
    if changed:
        done.changed.add(second)
    done.samples += repair.samples
    done.conflicts += repair.conflicts
    yield Note({"seconds_repaired": int(first_time), "samples_repaired": repair.samples})


def _ask_ahead(
    device_id: str,
    todo: deque[tuple[int, Digest]],
    here: Mapping[int, Digest],
    flights: deque[_Flight],
) -> Steps[None]:
    """Ask for as much as the window allows, one place of it kept for a whole second after ranges."""
    while sum(len(flight.asked) for flight in flights) < WINDOW - 1:
        waiting = next((flight for flight in flights if flight.unasked), None)
        if waiting is None:
            if not todo:
                return
            waiting = yield from _prepare(device_id, *todo.popleft(), here)
            flights.append(waiting)
        wanted = waiting.unasked.popleft()
        number = yield Ask(AskSamples(0, waiting.second, wanted))
        waiting.asked.append((number, wanted))


def _prepare(device_id: str, second: int, wanted: Digest, here: Mapping[int, Digest]) -> Steps[_Flight]:
    stored = ""
    if second in here:
        stored = yield from use(lambda store: store.second_text(device_id, second))
    requests = range_requests(stored, wanted.count)
    return _Flight(second, wanted, stored, deque(requests or (None,)))


def _land(device_id: str, flight: _Flight) -> Steps[SecondRepair]:
    """The repair from what was asked for; where its ranges do not suffice, from the whole second."""
    texts, ranged = list[str](), True
    while flight.asked or flight.unasked:
        if not flight.asked:
            number = yield Ask(AskSamples(0, flight.second, flight.unasked[0]))
            flight.asked.append((number, flight.unasked.popleft()))
        number, wanted = flight.asked.popleft()
        ranged = wanted is not None
        texts.append((yield from _fetched(number, wanted)))
    if ranged:
        repair = from_ranges(device_id, flight.second, flight.stored, texts, flight.wanted)
        if repair is not None:
            return repair
        number = yield Ask(AskSamples(0, flight.second))
        texts = [(yield from _fetched(number, None))]
    if not texts[0] or digest_of(texts[0]) != flight.wanted:
        raise RemoteProtocolError(
            "digest_mismatch", f"the samples of {second_text(flight.second)} do not make up its digest"
        )
    return from_whole(device_id, flight.second, flight.stored, texts[0])


def _fetched(number: int, wanted: Ranges | None) -> Steps[str]:
    answer = cast(Samples, (yield Collect(number)))
    text = checked_text(answer, wanted)
    yield Note({"samples_fetched": answer.count})
    return text
