"""Which minutes a round covers and how far it calls them settled, whatever the clocks of both sides do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sync_meter import NOON, Connection, MemoryMeter, batch, stored_samples, waveform

from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from ec_server.synchronization.coverage import Heard, RoundRules, recheck_start, round_span
from ec_server.synchronization.frames import AskMinutes, AskSeconds
from ec_server.synchronization.steps import Ask
from utilities.model import DeviceRecord, MinuteState
from utilities.utc import DAY_S, HOUR_S, MINUTE_S

DEVICE = "meter-7"
RULES = RoundRules(grace_s=10.0, back_days=400.0, retention_days=0)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with MemoryStore() if request.param == "memory" else SqliteStore(tmp_path) as opened:
        yield opened


def minutes(first: int, count: int, base: int = NOON) -> MemoryMeter:
    """A meter with a few samples in each of some minutes; ``first`` counts from ``base``."""
    starts = [base + MINUTE_S * (first + i) for i in range(count)]
    return MemoryMeter({start: waveform(start, 4) for start in starts})


def at(minute: float) -> float:
    """A moment so many minutes after noon, with ten seconds of grace behind it."""
    return NOON + minute * MINUTE_S + 10


def offset(minute: int) -> int:
    return (minute - NOON) // MINUTE_S


def states(store: Store, first: int, count: int) -> list[str]:
    """What is on record of some minutes after noon."""
    start, stop = NOON + first * MINUTE_S, NOON + (first + count) * MINUTE_S
    found = dict.fromkeys(range(start, stop, MINUTE_S), "-")
    for state in MinuteState:
        for a, b in store.ranges_in(DEVICE, start, stop, frozenset([state])):
            found |= dict.fromkeys(range(a, b, MINUTE_S), state.value)
    return list(found.values())


def _cut_before_a_repair(command: object) -> None:
    if isinstance(command, Ask) and isinstance(command.request, AskSeconds):
        raise ConnectionResetError


class TestTheSpanOfARound:
    @staticmethod
    def span(record: DeviceRecord | None, earliest: int | None, oldest: int | None, now_s: float) -> Any:
        found = round_span(record, earliest, oldest, now_s, RULES)
        return found.start, found.stop

    def test_begins_where_the_device_was_first_seen_or_earlier_and_ends_with_the_last_closed_minute(
        self,
    ) -> None:
        record = DeviceRecord(DEVICE, (NOON + 65) * 1_000_000, (NOON + 65) * 1_000_000)
        now = NOON + 600
        assert self.span(record, None, None, now + 9.9) == (NOON + 60, NOON + 540)
        assert self.span(record, None, None, now + 10) == (NOON + 60, NOON + 600)
        assert self.span(record, NOON, None, now + 10)[0] == NOON
        assert self.span(record, NOON, NOON - 60, now + 10)[0] == NOON - 60
        assert self.span(record, NOON, NOON + 600, now + 10)[0] == NOON
        assert self.span(replace(record, covered_from=NOON - 120), None, None, now)[0] == NOON - 120

    def test_ends_with_the_last_closed_minute_also_where_nothing_lies_before_it(self) -> None:
        assert self.span(None, None, None, NOON + 5) == (NOON - 60, NOON - 60)

    def test_is_not_moved_into_the_future_by_a_first_contact_under_a_fast_clock(self) -> None:
        record = DeviceRecord(DEVICE, (NOON + DAY_S) * 1_000_000, (NOON + DAY_S) * 1_000_000)
        assert self.span(record, None, None, NOON + 610) == (NOON + 600, NOON + 600)

    def test_never_reaches_back_beyond_what_is_taken_or_kept(self) -> None:
        start = round_span(None, None, 0, NOON + 600, RULES).start
        assert NOON - 400 * DAY_S <= start <= NOON - 400 * DAY_S + 660
        start = round_span(None, None, 0, NOON + 600, replace(RULES, retention_days=2)).start
        assert start == NOON - DAY_S // 2 - 2 * DAY_S

    def test_rechecks_back_to_what_the_device_offers_else_some_hours_then_from_the_last_round(
        self,
    ) -> None:
        assert recheck_start(Heard(), NOON - 7200, NOON, RULES) == NOON - 7200
        assert recheck_start(Heard(), None, NOON, RULES) == NOON - 48 * HOUR_S
        assert recheck_start(Heard(), None, NOON, replace(RULES, recheck_hours=1)) == NOON - HOUR_S
        assert recheck_start(Heard(NOON - 60), NOON - 7200, NOON, RULES) == NOON - 60


class TestVerified:
    def test_says_where_the_coverage_begins_and_before_which_minute_all_is_settled(
        self, store: Store
    ) -> None:
        verified, _ = Connection(store, minutes(0, 5), RULES).round(at(10))
        assert (offset(verified.start), offset(verified.through), verified.compared) == (0, 10, 10)

    @pytest.mark.parametrize("told", [None, 20, 7])
    def test_is_never_later_than_the_last_closed_minute(self, store: Store, told: int | None) -> None:
        meter = minutes(0, 5)
        meter.unfinished = None if told is None else NOON + told * MINUTE_S
        verified, _ = Connection(store, meter, RULES).round(at(10))
        assert offset(verified.through) == min(10, 10 if told is None else told)

    def test_is_not_ahead_of_the_device_because_the_server_s_clock_is_fast(self, store: Store) -> None:
        meter = minutes(0, 5)
        meter.unfinished = NOON + 5 * MINUTE_S
        connection = Connection(store, meter, RULES)
        verified, _ = connection.round(at(65))
        assert (offset(verified.start), offset(verified.through)) == (0, 5)
        assert states(store, 0, 7) == ["proven"] * 5 + ["-"] * 2

    def test_is_not_ahead_of_a_new_device_that_has_finished_nothing_since_it_was_first_seen(
        self, store: Store
    ) -> None:
        meter = MemoryMeter()
        meter.unfinished = NOON
        verified, _ = Connection(store, meter, RULES).round(at(60))
        assert (offset(verified.start), offset(verified.through)) == (0, 0)

    def test_of_a_device_whose_clock_was_reset_does_not_move_the_coverage_to_1970(self, store: Store) -> None:
        meter = minutes(0, 5)
        connection = Connection(store, meter, RULES)
        connection.round(at(5))
        meter.unfinished = 0
        for now in (6, 7):
            verified, _ = connection.round(at(now))
            assert (verified.start, verified.through) == (0, 0)
        meter.unfinished = None
        verified, crossed = connection.round(at(8))
        assert (offset(verified.start), offset(verified.through)) == (-DAY_S // MINUTE_S, 8)
        assert len(crossed.requests) == 25

    def test_of_a_device_whose_clock_was_reset_has_no_day_read_in_which_nothing_can_be_settled(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meter = minutes(0, 5)
        connection = Connection(store, meter, RULES)
        connection.round(at(5))
        meter.unfinished = 0
        asked: list[int] = []
        real = store.unproven_ranges
        monkeypatch.setattr(store, "unproven_ranges", lambda d, a, b: asked.append(a) or real(d, a, b))
        connection.round(at(6))
        assert asked
        assert min(asked) >= NOON - 2 * DAY_S

    def test_of_the_next_round_on_a_connection_follows_the_device(self, store: Store) -> None:
        meter = minutes(0, 30)
        connection = Connection(store, meter, RULES)
        seen = []
        for now, told in ((10, 9), (10.5, 10), (12, 12), (20, 15), (21, 25), (25, None)):
            meter.unfinished = None if told is None else NOON + told * MINUTE_S
            verified, _ = connection.round(at(now))
            seen.append(offset(verified.through))
        assert seen == [9, 10, 12, 15, 21, 25]

    def test_follows_a_device_whose_clock_stepped_back_and_the_record_keeps_what_was_proven(
        self, store: Store
    ) -> None:
        meter = minutes(0, 10)
        connection = Connection(store, meter, RULES)
        assert offset(connection.round(at(10))[0].through) == 10
        meter.unfinished = NOON + 4 * MINUTE_S
        assert offset(connection.round(at(11))[0].through) == 4
        record = store.device(DEVICE)
        assert record is not None
        assert offset(record.verified_through or 0) == 10
        assert states(store, 0, 10) == ["proven"] * 10

    def test_on_a_new_connection_with_nothing_left_to_ask_still_hears_the_device_first(
        self, store: Store
    ) -> None:
        meter = minutes(0, 10)
        Connection(store, meter, RULES).round(at(10))
        meter.unfinished = NOON + 4 * MINUTE_S
        verified, crossed = Connection(store, meter, RULES).round(at(10))
        assert offset(verified.through) == 4
        assert len(crossed.requests) == 1


class TestMinutesRecordedAgain:
    def test_are_compared_again_once_the_device_has_finished_them(self, store: Store) -> None:
        meter = minutes(0, 10)
        connection = Connection(store, meter, RULES)
        connection.round(at(10))
        meter.unfinished = NOON + 4 * MINUTE_S
        connection.round(at(11))
        meter.seconds[NOON + 6 * MINUTE_S] = {5: "77"}
        meter.unfinished = NOON + 8 * MINUTE_S
        verified, _ = connection.round(at(12))
        assert (offset(verified.through), verified.compared, verified.repaired) == (8, 4, 1)
        assert stored_samples(store, DEVICE, NOON + 360, NOON + 420)[NOON + 360][5] == "77"
        meter.unfinished = None
        verified, _ = connection.round(at(13))
        assert (offset(verified.through), verified.compared) == (13, 5)

    def test_are_compared_again_though_the_connection_was_cut_meanwhile(self, store: Store) -> None:
        meter = minutes(0, 10)
        connection = Connection(store, meter, RULES)
        connection.round(at(10))
        meter.unfinished = NOON + 4 * MINUTE_S
        connection.round(at(11))
        meter.seconds[NOON + 6 * MINUTE_S] = {5: "77"}
        meter.unfinished = None
        connection = Connection(store, meter, RULES)
        verified, _ = connection.round(at(13))
        assert (offset(verified.through), verified.compared, verified.repaired) == (13, 9, 1)
        assert connection.round(at(13))[0].compared == 0
        record = store.device(DEVICE)
        assert record is not None
        assert record.reopened == ()

    def test_are_known_by_a_new_connection_too(self, store: Store) -> None:
        meter = minutes(0, 10)
        Connection(store, meter, RULES).round(at(10))
        connection = Connection(store, meter, RULES)
        meter.unfinished = NOON + 4 * MINUTE_S
        connection.round(at(11))
        meter.seconds[NOON + 6 * MINUTE_S] = {5: "77"}
        meter.unfinished = None
        assert connection.round(at(12))[0].repaired == 1

    @pytest.mark.parametrize("before", ["proven", "empty", "unconfirmable"])
    def test_are_not_settled_once_the_device_states_other_samples_though_no_repair_follows(
        self, store: Store, before: str
    ) -> None:
        meter = minutes(0, 10)
        if before == "empty":
            del meter.seconds[NOON + 6 * MINUTE_S]
        connection = Connection(store, meter, RULES)
        if before == "unconfirmable":
            store.ingest([batch(DEVICE, NOON + 6 * MINUTE_S, meter.seconds.pop(NOON + 6 * MINUTE_S))])
        connection.round(at(10))
        assert states(store, 5, 3) == ["proven", before, "proven"]
        meter.unfinished = NOON + 4 * MINUTE_S
        connection.round(at(11))
        meter.seconds[NOON + 6 * MINUTE_S] = {5: "77"}
        meter.unfinished = None
        with pytest.raises(ConnectionResetError):
            connection.round(at(12), meanwhile=_cut_before_a_repair)
        assert states(store, 5, 3) == ["proven", "unresolved", "proven"]
        assert Connection(store, meter, RULES).round(at(13))[0].repaired == 1
        assert states(store, 5, 3) == ["proven"] * 3


class TestMinutesWithoutProof:
    def test_of_which_neither_side_has_anything_are_empty_and_settled(self, store: Store) -> None:
        store.ingest([batch(DEVICE, NOON, {1: "1"})])
        store.note_devices({DEVICE: NOON * 1_000_000})
        verified, _ = Connection(store, minutes(1, 1), RULES).round(at(3))
        assert states(store, 0, 3) == ["unconfirmable", "proven", "empty"]
        assert (offset(verified.through), verified.unresolved) == (3, 0)

    def test_are_not_asked_for_again_on_the_same_connection(self, store: Store) -> None:
        connection = Connection(store, minutes(0, 1), RULES)
        connection.round(at(5))
        verified, crossed = connection.round(at(6))
        assert [(offset(r.start), offset(r.stop)) for r in crossed.requests if isinstance(r, AskMinutes)] == [
            (5, 6)
        ]
        assert verified.compared == 1

    def test_are_asked_for_again_on_a_new_one_together_in_one_question_an_hour(self, store: Store) -> None:
        meter = minutes(0, 120)
        for minute in (3, 5, 50, 70):
            del meter.seconds[NOON + minute * MINUTE_S]
        Connection(store, meter, RULES).round(at(120))
        assert states(store, 3, 3) == ["empty", "proven", "empty"]
        verified, crossed = Connection(store, meter, RULES).round(at(120))
        asked = [(offset(r.start), offset(r.stop)) for r in crossed.requests if isinstance(r, AskMinutes)]
        assert asked == [(3, 51), (70, 71)]
        assert (verified.compared, offset(verified.through)) == (48 + 1, 120)

    def test_of_a_meter_that_had_lost_its_store_are_repaired_when_it_is_back(self, store: Store) -> None:
        whole = minutes(0, 10)
        for minute in (2, 5):
            store.ingest([batch(DEVICE, NOON + minute * MINUTE_S, {9: "1"})])
        store.note_devices({DEVICE: NOON * 1_000_000})
        verified, _ = Connection(store, MemoryMeter(), RULES).round(at(10))
        assert offset(verified.through) == 10
        assert sorted(set(states(store, 0, 10))) == ["empty", "unconfirmable"]
        verified, _ = Connection(store, whole, RULES).round(at(10))
        assert (offset(verified.through), verified.repaired) == (10, 10)
        assert states(store, 0, 10) == ["proven"] * 10

    def test_are_asked_for_no_further_back_than_the_device_offers_or_the_option_says(
        self, store: Store
    ) -> None:
        store.note_devices({DEVICE: (NOON - 10 * HOUR_S) * 1_000_000})
        Connection(store, MemoryMeter(), RULES).round(at(0))
        rules = replace(RULES, recheck_hours=2)
        _, crossed = Connection(store, MemoryMeter(), rules).round(at(0))
        asked = [r for r in crossed.requests if isinstance(r, AskMinutes)]
        assert (asked[0].start, asked[-1].stop) == (NOON - 2 * HOUR_S, NOON)
        _, crossed = Connection(store, minutes(-5, 1), rules).round(at(0))
        asked = [r for r in crossed.requests if isinstance(r, AskMinutes)]
        assert (asked[0].start, asked[-1].stop) == (NOON - 5 * MINUTE_S, NOON)


class TestAServerWhoseClockWasFast:
    """The device leaves out ``through``, so the server settles minutes that have not been yet."""

    def settled_too_early(self, store: Store) -> tuple[MemoryMeter, Connection]:
        meter = minutes(0, 5)
        connection = Connection(store, meter, RULES)
        connection.round(at(30), true_s=at(5))
        assert states(store, 4, 3) == ["proven", "empty", "empty"]
        meter.seconds |= minutes(5, 25).seconds
        return meter, connection

    def test_asks_again_on_the_same_connection_when_the_minutes_have_come(self, store: Store) -> None:
        _, connection = self.settled_too_early(store)
        verified, _ = connection.round(at(6))
        assert offset(verified.through) == 6
        for now in range(7, 31):
            connection.round(at(now))
        assert states(store, 0, 30) == ["proven"] * 30

    def test_asks_again_on_a_new_connection_when_the_minutes_have_come(self, store: Store) -> None:
        meter, _ = self.settled_too_early(store)
        connection = Connection(store, meter, RULES)
        connection.round(at(6))
        connection.round(at(30))
        assert states(store, 0, 30) == ["proven"] * 30

    def test_does_not_say_so_for_longer_than_its_clock_was_wrong(self, store: Store) -> None:
        meter, _ = self.settled_too_early(store)
        verified, _ = Connection(store, meter, RULES).round(at(6))
        assert offset(verified.through) == 6
