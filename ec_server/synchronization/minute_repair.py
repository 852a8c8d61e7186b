"""Repairs one minute that differs, second by second: ask, write, compare again.

A generator (steps.py), without I/O. Rules:

1. Proof rests on digests of stored rows: the expected digest of every second is computed from the device's
   answers, and after the repair the stored digest is read again and compared.
2. Each second is repaired by one write, which only adds (repair_plan.py). An interruption leaves complete
   seconds; as the verdict comes last, the minute is compared again.
3. Seconds that others write to meanwhile are repaired again, a few times.
4. If the device contradicts its own digests in a second, or the database cannot read a second, the minute
   stays unresolved, and nothing of such an answer is stored. The other seconds are repaired, and other
   minutes are not affected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from ec_server.storage.digests import digest_of_minute
from ec_server.synchronization.frames import Answer, AskSamples, AskSeconds, Request, Samples, Seconds
from ec_server.synchronization.repair_plan import (
    Fault,
    Ranges,
    SecondRepair,
    checked_text,
    digest_of,
    from_ranges,
    from_whole,
    range_requests,
)
from ec_server.synchronization.session import WINDOW
from ec_server.synchronization.steps import Ask, Collect, Note, Pause, Steps, use
from utilities.errors import PermanentStorageError
from utilities.model import Digest, MinuteState
from utilities.utc import minute_text, second_text

_ATTEMPTS = 3
"""How often the repair of a second is repeated if others write to it at the same time."""


@dataclass(frozen=True, slots=True)
class MinuteReport:
    """What a round found in one minute, and what it repaired."""

    minute: int
    state: MinuteState | None
    """None if it is left for a later round, because it was written to meanwhile."""
    here: Digest | None
    """The stored minute digest afterwards."""
    there: Digest | None
    """The device's minute digest."""
    repaired: int = 0
    """Number of seconds changed."""
    samples: int = 0
    """Number of samples written."""
    conflicts: int = 0
    extra: int = 0
    fault: Fault | None = None
    """Why it could not be repaired, if it could not."""


@dataclass(slots=True)
class _Repair:
    """The state of a minute's repair: what was done so far, and the expected digest of every second."""

    device_id: str
    minute: int
    there: dict[int, Digest]
    most_samples: int
    expected: dict[int, Digest]
    changed: set[int] = field(default_factory=set)
    samples: int = 0
    conflicts: int = 0
    extra: dict[int, int] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)
    """Faults by second."""
    open: set[int] = field(default_factory=set)
    """Requests that were sent and whose answers were not collected yet."""


def repair_minute(device_id: str, minute: int, theirs: Digest, most_samples: int) -> Steps[MinuteReport]:
    """Repair the minute so that it holds every sample of the device.

    ``theirs`` is the device's minute digest, ``most_samples`` how many a second may hold.
    """
    repair = _Repair(device_id, minute, {}, most_samples, {})
    here: dict[int, Digest] = {}
    try:
        asked = yield from _ask(repair, AskSeconds(0, minute))
        here = yield from _stored(repair)
        answer = cast(Seconds, (yield from _collect(repair, asked)))
        repair.there = dict(answer.digests)
        repair.expected = dict(repair.there)
        if digest_of_minute(sorted(repair.there.items())) != theirs:
            repair.faults[minute] = Fault("digest_mismatch", "the seconds' digests do not match the minute's")
        else:
            here = yield from _repair_seconds_until_equal(repair, here)
    except PermanentStorageError as error:
        repair.faults[minute] = Fault("storage", str(error))
        for number in list(repair.open):
            yield from _collect(repair, number)
    return (yield from _report(repair, here, theirs))


def _repair_seconds_until_equal(repair: _Repair, here: dict[int, Digest]) -> Steps[dict[int, Digest]]:
    """Repair what differs and read again, repeatedly; returns the digests stored in the end."""
    _refuse_long_seconds(repair)
    for _ in range(_ATTEMPTS):
        wrong = [entry for entry in _differing(repair, here) if entry[0] not in repair.faults]
        if not wrong:
            break
        yield from _repair_seconds(repair, wrong, here)
        here = yield from _stored(repair)
    return here


def _refuse_long_seconds(repair: _Repair) -> None:
    for second, digest in repair.there.items():
        if digest.count > repair.most_samples:
            text = f"{second_text(second)}: {digest.count} samples; sync.max_second_samples is "
            repair.faults[second] = Fault("too_many_samples", f"{text}{repair.most_samples}")


def _stored(repair: _Repair) -> Steps[dict[int, Digest]]:
    return dict((yield from use(lambda store: store.second_digests(repair.device_id, repair.minute))))


def _differing(repair: _Repair, here: Mapping[int, Digest]) -> list[tuple[int, Digest]]:
    """The device's seconds whose stored digest is not the expected one, with the device's digests."""
    there = repair.there
    return [
        (second, there[second]) for second in sorted(there) if here.get(second) != repair.expected[second]
    ]


def _report(repair: _Repair, here: Mapping[int, Digest], theirs: Digest) -> Steps[MinuteReport]:
    fault = next(iter(repair.faults.values()), None)
    unresolved = bool(repair.faults) or bool(_differing(repair, here))
    alone = (
        {second: here[second].count for second in here.keys() - repair.there.keys()} if repair.there else {}
    )
    yield from _tell(repair, fault, unresolved)
    return MinuteReport(
        repair.minute,
        MinuteState.UNRESOLVED if unresolved else MinuteState.PROVEN,
        digest_of_minute(sorted(here.items())),
        theirs,
        len(repair.changed),
        repair.samples,
        repair.conflicts,
        sum((repair.extra | alone).values()),
        fault,
    )


def _tell(repair: _Repair, fault: Fault | None, unresolved: bool) -> Steps[None]:
    name = minute_text(repair.minute)
    if repair.conflicts:
        line = f"minute {name}: {repair.conflicts} stored values differed; the device's replaced them"
        yield Note({"value_conflicts": repair.conflicts}, "conflict", line)
    if fault is not None:
        line = f"minute {name} stays unresolved: {fault.code}: {fault.text}"
        figure = "minutes_unreadable" if fault.code == "storage" else "contradictions"
        yield Note({figure: 1}, fault.code, line)
    elif unresolved:
        yield Note({}, "unresolved", f"minute {name} still differs after the repair")


# --- requests -----------------------------------------------------------------------------


def _ask(repair: _Repair, question: Request) -> Steps[int]:
    number = cast(int, (yield Ask(question)))
    repair.open.add(number)
    return number


def _collect(repair: _Repair, number: int) -> Steps[Answer]:
    answer = cast(Answer, (yield Collect(number)))
    repair.open.discard(number)
    return answer


# --- the seconds that differ --------------------------------------------------------------


@dataclass(slots=True)
class _Flight:
    """A second under repair: what is stored of it, what is still to be requested, what was requested."""

    second: int
    wanted: Digest
    stored: str
    unasked: deque[Ranges | None]
    """One request for each; None requests the whole second."""
    asked: deque[tuple[int, Ranges | None]] = field(default_factory=deque)
    whole: str | Fault | None = None
    """The whole second's text, once it has arrived."""


def _repair_seconds(
    repair: _Repair, wrong: Sequence[tuple[int, Digest]], here: Mapping[int, Digest]
) -> Steps[None]:
    """Repair each second in turn, while requests for the next ones are already in flight."""
    todo, flights = deque(wrong), deque[_Flight]()
    while todo or flights:
        yield from _ask_ahead(repair, todo, here, flights)
        landed = yield from _land(repair, flights[0])
        second = flights.popleft().second
        if isinstance(landed, Fault):
            repair.faults[second] = landed
        else:
            repair.expected[second], repair.extra[second] = landed.expected, landed.extra
            if landed.batches:
                yield from _write(repair, second, landed)
        yield Pause()


def _write(repair: _Repair, second: int, change: SecondRepair) -> Steps[None]:
    changed = (yield from use(lambda store: store.repair(change.batches))).stored > 0
    first_time = changed and second not in repair.changed
    if changed:
        repair.changed.add(second)
    repair.samples += change.samples
    repair.conflicts += change.conflicts
    yield Note({"seconds_repaired": int(first_time), "samples_repaired": change.samples})


def _ask_ahead(
    repair: _Repair,
    todo: deque[tuple[int, Digest]],
    here: Mapping[int, Digest],
    flights: deque[_Flight],
) -> Steps[None]:
    """Send as many requests as the window allows, keeping one place for a whole second after ranges."""
    while sum(len(flight.asked) for flight in flights) < WINDOW - 1:
        waiting = next((flight for flight in flights if flight.unasked), None)
        if waiting is None:
            if not todo:
                return
            waiting = yield from _prepare(repair.device_id, *todo.popleft(), here)
            flights.append(waiting)
        wanted = waiting.unasked.popleft()
        number = yield from _ask(repair, AskSamples(0, waiting.second, wanted))
        waiting.asked.append((number, wanted))


def _prepare(device_id: str, second: int, wanted: Digest, here: Mapping[int, Digest]) -> Steps[_Flight]:
    stored = ""
    if second in here:
        stored = yield from use(lambda store: store.second_text(device_id, second))
    requests = range_requests(stored, wanted.count)
    return _Flight(second, wanted, stored, deque(requests or (None,)))


def _land(repair: _Repair, flight: _Flight) -> Steps[SecondRepair | Fault]:
    """The repair from the requested ranges or, if they do not suffice, from the whole second."""
    texts = list[str | Fault]()
    while flight.asked or (flight.unasked and flight.whole is None):
        if not flight.asked:
            number = yield from _ask(repair, AskSamples(0, flight.second, flight.unasked[0]))
            flight.asked.append((number, flight.unasked.popleft()))
        texts.append((yield from _fetched(repair, flight, *flight.asked.popleft())))
    if flight.whole is None:
        change = _from_ranges(repair.device_id, flight, texts)
        if change is not None:
            return change
        number = yield from _ask(repair, AskSamples(0, flight.second))
        yield from _fetched(repair, flight, number, None)
    return _from_whole(repair, flight, flight.whole)


def _from_ranges(device_id: str, flight: _Flight, texts: Sequence[str | Fault]) -> SecondRepair | None:
    good = [text for text in texts if isinstance(text, str)]
    if len(good) < len(texts):
        return None
    return from_ranges(device_id, flight.second, flight.stored, good, flight.wanted)


def _from_whole(repair: _Repair, flight: _Flight, text: str | Fault | None) -> SecondRepair | Fault:
    if isinstance(text, Fault):
        return text
    where = second_text(flight.second)
    if not text:
        return Fault("digest_mismatch", f"the device lists {where}, but has no samples of it")
    if digest_of(text) != flight.wanted:
        return Fault("digest_mismatch", f"the samples of {where} do not match its digest")
    change = from_whole(repair.device_id, flight.second, flight.stored, text)
    if change.expected.count > repair.most_samples:
        line = f"{where}: with what is stored {change.expected.count} samples; sync.max_second_samples is "
        return Fault("too_many_samples", f"{line}{repair.most_samples}")
    return change


def _fetched(repair: _Repair, flight: _Flight, number: int, wanted: Ranges | None) -> Steps[str | Fault]:
    """The answer's text. A request for ranges may be answered with the whole second."""
    answer = cast(Samples, (yield from _collect(repair, number)))
    yield Note({"samples_fetched": answer.count})
    whole = wanted is None or (answer.count, answer.md5) == (flight.wanted.count, flight.wanted.md5)
    text = checked_text(answer, None if whole else wanted, repair.most_samples)
    if whole:
        flight.whole = text
    return text
