"""One round of one device: which minutes differ, what is put on record, how far everything is proven.

A generator (steps.py): no I/O and no clock of its own. Rules:

1. Oldest first, in pieces of at most an hour; what the device has not finished recording waits.
2. A verdict carries the minute digest that was proven. The store takes it only while that digest
   still holds, so ingest that goes on meanwhile leaves the minute for the next round.
3. Minutes whose digests are equal cost a line of an answer and no row; the others are recomputed from
   the rows before anything more is asked for (minute_repair.py).
4. A device that contradicts its own digests ends the round by Contradiction, its minute on record as
   unresolved. The next round leaves such minutes to the end, so that they hold up no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from ec_server.storage import ranges
from ec_server.storage.contract import Store
from ec_server.synchronization.frames import MAX_PIECE_S, AskMinutes, Minutes, Verified
from ec_server.synchronization.minute_repair import MinuteReport, repair_minute
from ec_server.synchronization.steps import Ask, Collect, Note, Pause, Steps, use
from utilities.errors import RemoteProtocolError
from utilities.model import DeviceRecord, Digest, MinuteState, Verdict
from utilities.utc import DAY_S, MINUTE_S, day_of, minute_of


class Contradiction(RemoteProtocolError):  # noqa: N818 -- named for what the device did
    """The device's answers do not agree with each other; ``minute`` is where."""

    def __init__(self, minute: int, code: str, message: str) -> None:
        super().__init__(code, message)
        self.minute = minute


@dataclass(frozen=True, slots=True)
class RoundTask:
    """What one round is to compare: the minutes of ``[start, stop)`` that are not proven yet."""

    device_id: str
    start: int
    stop: int
    last: frozenset[int] = frozenset()
    """Minutes to leave to the end: in them the device contradicted itself before."""
    audit: bool = False
    """Compare every minute of the range, from the stored rows instead of cached digests."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """A round's end."""

    verified: Verified
    stop: int
    """The end of what the device has finished recording, at most the task's ``stop``."""
    reports: tuple[MinuteReport, ...]
    """Of an audit: a report a minute; otherwise empty."""


@dataclass(slots=True)
class _Tally:
    compared: int = 0
    repaired: int = 0
    unresolved: int = 0
    extra: int = 0
    reports: list[MinuteReport] = field(default_factory=list)

    def add(self, report: MinuteReport, keep: bool) -> None:
        self.compared += 1
        self.repaired += report.repaired
        self.unresolved += report.state in (None, MinuteState.UNRESOLVED)
        self.extra += report.extra
        if keep:
            self.reports.append(report)


@dataclass(frozen=True, slots=True)
class RoundRules:
    """What the configuration says of rounds."""

    grace_s: float
    """A minute is closed so long after its end."""
    back_days: float
    """How far back the receivers take samples."""
    retention_days: int
    """Days that are kept; 0 keeps for ever."""


def closed_before(now_s: float, rules: RoundRules) -> int:
    """The first minute that is not closed yet."""
    return minute_of(int(now_s - rules.grace_s))


def round_span(
    record: DeviceRecord | None, earliest: int | None, oldest: int | None, now_s: float, rules: RoundRules
) -> tuple[int, int]:
    """``[start, stop)`` of a round's minutes: from when the device was first seen to the last closed one.

    ``earliest`` is its first stored minute, ``oldest`` what it offers. Never further back than the
    receivers take samples from and retention keeps them. Where nothing is closed yet, stop is start.
    """
    now = int(now_s)
    known = [minute for minute in (earliest, oldest) if minute is not None]
    if record is not None:
        known.append(minute_of(record.first_seen_us // 1_000_000))
    bounds = [minute_of(now - int(rules.back_days * DAY_S)) + MINUTE_S]
    if rules.retention_days:
        bounds.append(day_of(now) - rules.retention_days * DAY_S)
    start = max(min(known, default=minute_of(now)), *bounds)
    return start, max(start, closed_before(now_s, rules))


def whole_round(
    device_id: str,
    oldest: int | None,
    rules: RoundRules,
    last: frozenset[int],
    clock: Callable[[], float],
) -> Steps[RoundResult]:
    """Put a device that is new on record, then compare what a round covers at this moment.

    ``oldest`` and ``last`` as in ``round_span`` and RoundTask; ``clock`` gives UTC epoch seconds.
    """

    def task(store: Store) -> RoundTask:
        now_s = clock()
        record = store.device(device_id)
        if record is None:
            store.note_devices({device_id: int(now_s * 1e6)})
        earliest = store.earliest_minute(device_id)
        return RoundTask(device_id, *round_span(record, earliest, oldest, now_s, rules), last)

    return (yield from compare((yield from use(task)), lambda: int(clock() * 1e6)))


def compare(task: RoundTask, now_us: Callable[[], int]) -> Steps[RoundResult]:
    """The whole round; see the module's rules. ``now_us`` gives the check times, epoch microseconds."""
    tally, stop = _Tally(), task.stop
    span = (task.start, task.stop)
    unproven = [span]
    if not task.audit:
        unproven = yield from use(lambda store: store.unproven_ranges(task.device_id, *span))
    try:
        for first, last in _pieces(unproven, task.last):
            if first < stop:
                through = yield from _piece(task, tally, now_us, first, min(last, stop))
                stop = stop if through is None else min(stop, max(through, task.start))
    except Contradiction:
        yield from _progress(task, stop)
        raise
    verified_through = yield from _progress(task, stop)
    verified = Verified(verified_through, tally.compared, tally.repaired, tally.unresolved, tally.extra)
    return RoundResult(verified, stop, tuple(tally.reports))


def _pieces(unproven: Iterable[tuple[int, int]], last: frozenset[int]) -> Iterator[tuple[int, int]]:
    """The ranges, oldest first, in pieces of one request each; the minutes in ``last`` after all others."""
    put_off = ranges.of_minutes(last)
    listed = list(unproven)
    for part in (ranges.subtract(listed, put_off), _common(listed, put_off)):
        for start, stop in part:
            for first in range(start, stop, MAX_PIECE_S):
                yield first, min(first + MAX_PIECE_S, stop)


def _common(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return ranges.subtract(some, ranges.subtract(some, others))


def _progress(task: RoundTask, stop: int) -> Steps[int]:
    """How far everything is proven now; put on record, except by an audit, which has another start."""

    def measure(store: Store) -> int:
        open_ranges = store.unproven_ranges(task.device_id, task.start, stop)
        through = open_ranges[0][0] if open_ranges else stop
        if not task.audit:
            store.note_coverage(task.device_id, task.start)
        return through

    return (yield from use(measure))


# --- a piece of minutes -------------------------------------------------------------------


def _piece(
    task: RoundTask, tally: _Tally, now_us: Callable[[], int], start: int, stop: int
) -> Steps[int | None]:
    """Compare ``[start, stop)``; the result is the answer's ``through``."""
    asked = yield Ask(AskMinutes(0, start, stop))
    here = yield from _own_minutes(task, start, stop)
    answer = cast(Minutes, (yield Collect(asked)))
    there = dict(answer.digests)
    stop = stop if answer.through is None else min(stop, answer.through)
    settled: list[MinuteReport] = []
    for minute in range(start, stop, MINUTE_S):
        mine, theirs = here.get(minute), there.get(minute)
        if theirs is None or mine == theirs:
            settled.append(MinuteReport(minute, _state_without_repair(mine, theirs), mine, theirs))
        else:
            yield from _conclude(task, tally, now_us, settled)
            report = yield from _differing_minute(task, now_us, minute, theirs)
            settled = [report]
    yield from _conclude(task, tally, now_us, settled)
    return answer.through


def _state_without_repair(mine: Digest | None, theirs: Digest | None) -> MinuteState:
    if theirs is not None:
        return MinuteState.PROVEN
    return MinuteState.UNCONFIRMABLE if mine is not None else MinuteState.EMPTY


def _own_minutes(task: RoundTask, start: int, stop: int) -> Steps[dict[int, Digest]]:
    """The stored minute digests; those that are not cached are computed with a pause after each."""
    device = task.device_id
    records = yield from use(lambda store: store.minutes(device, start, stop))
    found = {} if task.audit else {r.minute: r.digest for r in records if r.digest is not None}
    for minute in [record.minute for record in records if record.minute not in found]:
        compute = partial(_digest_of, device_id=device, minute=minute, from_rows=task.audit)
        found |= yield from use(compute)
        yield Pause()
    return found


def _digest_of(store: Store, device_id: str, minute: int, from_rows: bool) -> dict[int, Digest]:
    return dict(store.minute_digests(device_id, minute, minute + MINUTE_S, from_rows=from_rows))


def _conclude(
    task: RoundTask, tally: _Tally, now_us: Callable[[], int], reports: Sequence[MinuteReport]
) -> Steps[None]:
    """Put verdicts on record; a minute that was written to meanwhile is left for a later round."""
    if not reports:
        return
    verdicts = [Verdict(r.minute, _state(r), r.here, r.extra, r.conflicts) for r in reports]
    moved = yield from use(
        lambda store: store.record_verdicts(task.device_id, verdicts, compared_us=now_us())
    )
    for report in reports:
        final = _left(report) if report.minute in moved else report
        tally.add(final, keep=task.audit)
    yield Note({"minutes_compared": len(reports)})


def _state(report: MinuteReport) -> MinuteState:
    return report.state or MinuteState.UNRESOLVED


def _left(r: MinuteReport) -> MinuteReport:
    return MinuteReport(r.minute, None, r.here, r.there, r.repaired, r.samples, r.conflicts, r.extra)


# --- a minute that differs ----------------------------------------------------------------


def _differing_minute(
    task: RoundTask, now_us: Callable[[], int], minute: int, theirs: Digest
) -> Steps[MinuteReport]:
    """Recompute the own digest from the rows; where it still differs, repair."""
    device = task.device_id
    yield Pause()
    mine = (yield from use(lambda store: _digest_of(store, device, minute, from_rows=True))).get(minute)
    if mine == theirs:
        return MinuteReport(minute, MinuteState.PROVEN, mine, theirs)
    try:
        return (yield from repair_minute(device, minute, theirs))
    except RemoteProtocolError as error:
        unresolved = Verdict(minute, MinuteState.UNRESOLVED, mine)
        yield from use(lambda store: store.record_verdicts(device, [unresolved], compared_us=now_us()))
        raise Contradiction(minute, error.code, str(error)) from error
