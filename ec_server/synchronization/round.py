"""One round of one device: which minutes it asks for, which verdicts it records, what is settled.

A generator (steps.py), without I/O or a clock of its own. Rules:

1. Oldest minutes first, at most an hour per request. What the device has not finished recording has to wait.
2. A verdict contains the minute digest that was compared. The store accepts it only while that digest still
   holds, so a minute that is written to meanwhile is left for the next round.
3. A minute whose digests are equal costs one line of an answer, and no row is read. For other minutes, the
   digest is first computed again from the rows, before anything else is requested (minute_repair.py).
4. A minute in which the device contradicts itself, or that the database cannot read, is unresolved; so are
   the minutes of an unreadable day. Everything else is compared and repaired.
5. coverage.py decides what a round asks about.
6. If the device states other samples for a settled minute, the minute is unresolved before its repair
   begins, as the connection may end first.
7. If the device says that it is recording a settled minute again, this is stored at once, as the connection
   may have ended by the time the minute is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar, cast

from ec_server.storage import ranges
from ec_server.storage.contract import Store
from ec_server.storage.ranges import Range
from ec_server.synchronization.coverage import Heard, RoundRules, recheck_start, round_span, too_early
from ec_server.synchronization.frames import MAX_PIECE_S, AskMinutes, Minutes, Verified
from ec_server.synchronization.minute_repair import MinuteReport, repair_minute
from ec_server.synchronization.repair_plan import Fault
from ec_server.synchronization.round_state import RoundResult, RoundState, RoundTask
from ec_server.synchronization.steps import Ask, Collect, Note, Pause, Steps, use
from utilities.errors import PermanentStorageError
from utilities.model import SETTLED, Digest, MinuteState, Verdict
from utilities.utc import DAY_S, MINUTE_S, day_of, ec_date, minute_text

_REPAIRED_AT_ONCE = 5
"""Repaired minutes whose verdicts are recorded together, as a record costs as much as a short repair. What is
not recorded when a connection ends is compared again."""
_SETTLED_WITHOUT_PROOF = frozenset({MinuteState.EMPTY, MinuteState.UNCONFIRMABLE})

_Result = TypeVar("_Result")


def whole_round(
    device_id: str,
    oldest: int | None,
    rules: RoundRules,
    heard: Heard,
    clock: Callable[[], float],
    since_last_s: float = 0.0,
) -> Steps[RoundResult]:
    """Record the device if it is new, then compare what a round that begins now covers.

    ``oldest``: the first minute that the device offers; ``clock`` gives UTC epoch seconds;
    ``since_last_s``: how long ago the connection's last round was, by a monotonic clock.
    """

    def task(store: Store) -> RoundTask:
        now_s = clock()
        record = store.device(device_id)
        if record is None:
            store.note_devices({device_id: int(now_s * 1e6)})
        span = round_span(record, _earliest(store, device_id), oldest, now_s, rules)
        settled_to = max((record and record.verified_through) or 0, heard.rechecked_to or 0)
        on_record = record.reopened if record is not None else ()
        known = replace(heard, reopened=tuple(ranges.union([*heard.reopened, *on_record])))
        checked = too_early(known, now_s - since_last_s, rules)
        recheck = recheck_start(checked, oldest, now_s, rules)
        covered = (record.covered_from if record else None, span.lowest)
        return RoundTask(
            device_id, span.start, span.stop, checked, recheck, *covered, settled_to, rules.most_samples
        )

    return (yield from compare((yield from use(task)), lambda: int(clock() * 1e6)))


def _earliest(store: Store, device_id: str) -> int | None:
    try:
        return store.earliest_minute(device_id)
    except PermanentStorageError:
        return None  # the device's record suffices; an unreadable day is reported when it is compared


def compare(task: RoundTask, now_us: Callable[[], int]) -> Steps[RoundResult]:
    """The whole round; see the module's rules. ``now_us`` returns the check time, epoch microseconds."""
    round_ = RoundState(task, now_us, task.stop, task.heard.through, reopened=list(task.heard.reopened))
    asked = yield from _to_ask(round_)
    if not asked and task.heard.is_new:
        asked = yield from _last_minute(round_)
    for start, stop in _windows(asked):
        if start < round_.stop:
            yield from _compare_window(round_, start, stop)
    settled_to, heard = yield from _settled(round_)
    covered_from = max(min(task.start, settled_to), task.lowest)
    if not task.audit and covered_from != task.covered_from:
        yield from use(lambda store: store.note_coverage(task.device_id, covered_from))
    counts = (round_.compared, round_.repaired, round_.unresolved, round_.extra)
    verified = Verified(min(task.start, settled_to), settled_to, *counts)
    return RoundResult(verified, heard, tuple(round_.reports), round_.unreadable)


# --- what to ask for -------------------------------------------------------------------------


def _to_ask(round_: RoundState) -> Steps[list[Range]]:
    """The ranges of minutes to ask the device about, ascending."""
    task = round_.task
    span = (task.start, task.stop)
    if task.audit:
        return [span]
    asked = yield from _unproven(round_, *span)
    if task.recheck_from is not None:
        start = max(task.start, task.recheck_from)
        asked += yield from _readable(
            round_,
            start,
            task.stop,
            lambda store, a, b: store.ranges_in(task.device_id, a, b, _SETTLED_WITHOUT_PROOF),
        )
    asked += ranges.clip(task.heard.reopened, *span)
    return ranges.union(asked)


def _unproven(round_: RoundState, start: int, stop: int) -> Steps[list[Range]]:
    device_id = round_.task.device_id
    return (
        yield from _readable(round_, start, stop, lambda store, a, b: store.unproven_ranges(device_id, a, b))
    )


def _readable(
    round_: RoundState,
    start: int,
    stop: int,
    call: Callable[[Store, int, int], Sequence[_Result]],
    finest_s: int = DAY_S,
) -> Steps[list[_Result]]:
    """What a call returns for ``[start, stop)``, without the days (or minutes) that cannot be read."""
    if start >= stop:
        return []
    try:
        return list((yield from use(lambda store: call(store, start, stop))))
    except PermanentStorageError as error:
        step_s = DAY_S if day_of(start) != day_of(stop - 1) else finest_s
        if start - start % step_s == stop - 1 - (stop - 1) % step_s:
            yield from _lose(round_, (start, stop), error)
            return []
    found = list[_Result]()
    for part in range(start - start % step_s, stop, step_s):
        found += yield from _readable(round_, max(part, start), min(part + step_s, stop), call, finest_s)
    return found


def _lose(round_: RoundState, lost: Range, error: PermanentStorageError) -> Steps[None]:
    if round_.lose(lost, error):
        line = f"some of day {ec_date(lost[0])} cannot be read; its minutes stay unresolved: {error}"
        yield Note({}, "unreadable", line)


def _windows(asked: Sequence[Range]) -> Iterator[Range]:
    """Spans that contain all the ranges, each short enough for one request.

    Minutes between two ranges are requested and compared, too: no minute that a device reports is ignored.
    """
    at = stop = 0
    for first, last in asked:
        if stop and first < at + MAX_PIECE_S:
            stop = min(last, at + MAX_PIECE_S)
        while max(first, stop) < last:
            if stop:
                yield at, stop
            at = max(first, stop)
            stop = min(last, at + MAX_PIECE_S)
    if stop:
        yield at, stop


# --- what is settled ------------------------------------------------------------------------


def _settled(round_: RoundState) -> Steps[tuple[int, Heard]]:
    """Up to which minute everything is settled, and what the next round must know."""
    task, heard = round_.task, round_.task.heard
    if not round_.is_answered and heard.through is not None:
        round_.stop = min(round_.stop, heard.through)
    stop = round_.stop
    still_open = yield from _unproven(round_, task.start, stop)
    lost = ranges.clip(round_.lost, task.start, stop)
    unreadable = sum((b - a) // MINUTE_S for a, b in lost)
    round_.unresolved += unreadable
    yield Note({"minutes_unreadable": unreadable})
    settled_to = min([stop, *(start for start, _ in [*still_open, *lost])])
    compared = ranges.subtract([(0, stop)], round_.lost)
    yield from _reopen(
        round_, [*ranges.subtract(heard.reopened, compared), *(yield from _recorded_again(round_))]
    )
    return settled_to, Heard(stop, tuple(round_.reopened), round_.through)


def _recorded_again(round_: RoundState) -> Steps[list[Range]]:
    """The settled minutes that the device has not finished: it is recording them again.

    A device whose clock was reset to 1970 has finished nothing since, but no round covers what is more than a
    day before this one's beginning (coverage.py): the days before it are not worth reading.
    """
    task = round_.task
    span = (max(round_.stop, task.start - DAY_S), max(task.stop, task.settled_to))
    if span[0] >= span[1]:
        return []
    return ranges.subtract([span], (yield from _unproven(round_, *span)))


def _reopen(round_: RoundState, reopened: Sequence[Range]) -> Steps[None]:
    """Store which minutes the device is recording again, if that has changed."""
    after = ranges.union(reopened)
    if after != round_.reopened and not round_.task.audit:
        yield from use(lambda store: store.note_reopened(round_.task.device_id, after))
    round_.reopened = after


# --- the minutes of one request -------------------------------------------------------------


def _last_minute(round_: RoundState) -> Steps[list[Range]]:
    """What to ask for if there is nothing else, to learn how far the device has finished."""
    last = (round_.task.stop - MINUTE_S, round_.task.stop)
    if round_.task.start < round_.task.stop:
        return [last]
    asked = yield Ask(AskMinutes(0, *last))  # before the coverage: nothing to compare
    round_.hear(cast(Minutes, (yield Collect(asked))).through)
    return []


def _compare_window(round_: RoundState, start: int, stop: int) -> Steps[None]:
    """Request ``[start, stop)``, and compare the minutes that the device has finished."""
    asked = yield Ask(AskMinutes(0, start, stop))
    here, once_settled = yield from _own_minutes(round_, start, stop)
    answer = cast(Minutes, (yield Collect(asked)))
    stop_before = round_.stop
    round_.hear(answer.through)
    if round_.stop < stop_before:
        yield from _reopen(round_, [*round_.reopened, *(yield from _recorded_again(round_))])
    there = dict(answer.digests)
    finished = list(ranges.minutes_in(ranges.subtract([(start, min(stop, round_.stop))], round_.lost)))
    differ = {minute for minute in finished if minute in there and here.get(minute) != there[minute]}
    yield from _withdraw(round_, [(minute, here.get(minute)) for minute in sorted(differ & once_settled)])
    settled: list[MinuteReport] = []
    differing = 0
    for minute in finished:
        if minute not in differ:
            settled.append(_report_without_repair(minute, here.get(minute), there.get(minute)))
        else:
            if differing % _REPAIRED_AT_ONCE == 0:
                yield from _conclude(round_, settled)
                settled = []
            differing += 1
            settled.append((yield from _differing_minute(round_.task, minute, there[minute])))
    yield from _conclude(round_, settled)


def _withdraw(round_: RoundState, minutes: Sequence[tuple[int, Digest | None]]) -> Steps[None]:
    """Record that these minutes are not settled any more.

    If the database cannot, it cannot read or repair them either, which is reported then.
    """
    if not minutes:
        return
    device_id = round_.task.device_id
    verdicts = [Verdict(minute, MinuteState.UNRESOLVED, mine) for minute, mine in minutes]
    with suppress(PermanentStorageError):
        yield from use(lambda store: store.record_verdicts(device_id, verdicts, compared_us=round_.now_us()))


def _report_without_repair(minute: int, mine: Digest | None, theirs: Digest | None) -> MinuteReport:
    """Of a minute whose digests are equal, or of which the device has nothing and so lacks all."""
    if theirs is not None:
        return MinuteReport(minute, MinuteState.PROVEN, mine, theirs)
    if mine is None:
        return MinuteReport(minute, MinuteState.EMPTY, mine, theirs)
    return MinuteReport(minute, MinuteState.UNCONFIRMABLE, mine, theirs, extra=mine.count)


def _own_minutes(
    round_: RoundState, start: int, stop: int
) -> Steps[tuple[dict[int, Digest], frozenset[int]]]:
    """The stored minute digests, and which minutes are settled.

    Digests that are not cached are computed, with a pause after each.
    """
    task = round_.task
    records = yield from _readable(
        round_, start, stop, lambda store, a, b: store.minutes(task.device_id, a, b), MINUTE_S
    )
    found = {} if task.audit else {r.minute: r.digest for r in records if r.digest is not None}
    for minute in [record.minute for record in records if record.minute not in found]:
        computed = yield from _readable(
            round_,
            minute,
            minute + MINUTE_S,
            lambda store, a, b: store.minute_digests(task.device_id, a, b, from_rows=task.audit),
        )
        found |= dict(computed)
        yield Pause()
    return found, frozenset(record.minute for record in records if record.state in SETTLED)


def _conclude(round_: RoundState, reports: Sequence[MinuteReport]) -> Steps[None]:
    """Record verdicts; a minute that was written to meanwhile is left for a later round."""
    if not reports:
        return
    device_id = round_.task.device_id
    verdicts = [
        Verdict(r.minute, r.state or MinuteState.UNRESOLVED, r.here, r.extra, r.conflicts) for r in reports
    ]
    try:
        moved = yield from use(
            lambda store: store.record_verdicts(device_id, verdicts, compared_us=round_.now_us())
        )
    except PermanentStorageError as error:
        yield from _conclude_one_by_one(round_, reports, error)
        return
    for report in reports:
        round_.add(replace(report, state=None) if report.minute in moved else report)
    yield Note({"minutes_compared": len(reports)})


def _conclude_one_by_one(
    round_: RoundState, reports: Sequence[MinuteReport], error: PermanentStorageError
) -> Steps[None]:
    """Record verdicts singly: one that the database cannot store leaves only its own minute unresolved."""
    if len(reports) > 1:
        for report in reports:
            yield from _conclude(round_, [report])
        return
    fault = Fault("storage", str(error))
    round_.add(replace(reports[0], state=None, fault=fault))
    name = minute_text(reports[0].minute)
    yield Note({"minutes_compared": 1, "minutes_unreadable": 1}, "storage", f"minute {name}: {error}")


# --- a minute that differs ----------------------------------------------------------------


def _differing_minute(task: RoundTask, minute: int, theirs: Digest) -> Steps[MinuteReport]:
    """Compute the stored digest again from the rows; if it still differs, repair the minute."""
    device_id = task.device_id
    yield Pause()
    try:
        digests = yield from use(partial(_from_rows, device_id=device_id, minute=minute))
    except PermanentStorageError as error:
        line = f"minute {minute_text(minute)} cannot be read: {error}"
        yield Note({"minutes_unreadable": 1}, "storage", line)
        return MinuteReport(minute, None, None, theirs, fault=Fault("storage", str(error)))
    if digests.get(minute) == theirs:
        return MinuteReport(minute, MinuteState.PROVEN, theirs, theirs)
    return (yield from repair_minute(device_id, minute, theirs, task.most_samples))


def _from_rows(store: Store, device_id: str, minute: int) -> dict[int, Digest]:
    return dict(store.minute_digests(device_id, minute, minute + MINUTE_S, from_rows=True))
