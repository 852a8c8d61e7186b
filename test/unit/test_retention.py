"""Retention goes by the stored data as well as by the clock; a clock that leaps removes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from ec_server.storage.cassandra_lifetime import Lifetime
from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.merge import batch_of
from ec_server.synchronization.coverage import RoundRules
from ec_server.synchronization.keeper import Keeper
from ec_server.synchronization.retention import SteadyClock, first_kept_day
from ec_server.synchronization.store_threads import StoreThreads
from utilities.errors import PermanentStorageError
from utilities.utc import DAY_S, MINUTE_S, day_of

YEAR_S = 365 * DAY_S
TODAY = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp())
NOON = TODAY + DAY_S // 2


class Machine:
    """A clock that can leap, and the time that really passes."""

    def __init__(self) -> None:
        self.wall_s = float(NOON)
        self.uptime_s = 1000.0

    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.uptime_s += seconds


class KeptStore(MemoryStore):
    """Survives its threads."""

    def close(self) -> None:
        """It is looked at afterwards."""


def stored_days(store: Store) -> list[int]:
    return sorted({day_of(row.batch.second) for row in store.rows("m", 0, 2**40)})


def store_with(*days_ago: float) -> KeptStore:
    store = KeptStore()
    for ago in days_ago:
        store.ingest([batch_of("m", int(NOON - ago * DAY_S), "000000,1")])
    return store


def run_keeper(store: Store, machine: Machine, retention_days: int, *meanwhile: Callable[[], object]) -> None:
    """Let a keeper look once, and once more after each of ``meanwhile``."""

    async def run() -> None:
        rules = RoundRules(10.0, 400.0, retention_days)
        rounds = StoreThreads(lambda: store, 1)
        keeper = Keeper(
            rounds,
            lambda: store,
            rules,
            lambda counts: None,
            lambda: machine.wall_s,
            lambda: machine.uptime_s,
        )
        await keeper.look()
        for happen in meanwhile:
            happen()
            await keeper.look()
        keeper.close()
        rounds.close()

    asyncio.run(run())


# --- the keeper -------------------------------------------------------------------------------


def test_days_older_than_the_retention_are_removed() -> None:
    store = store_with(10, 3, 2, 0)
    run_keeper(store, Machine(), 2)
    assert stored_days(store) == [TODAY - 2 * DAY_S, TODAY]


def test_a_clock_a_year_ahead_at_the_start_removes_nothing_new() -> None:
    store, machine = store_with(10, 2, 0), Machine()
    machine.wall_s += YEAR_S
    run_keeper(store, machine, 3)
    assert stored_days(store) == [TODAY - 2 * DAY_S, TODAY]


def test_a_clock_a_year_back_removes_nothing() -> None:
    store, machine = store_with(10, 0), Machine()
    machine.wall_s -= YEAR_S
    run_keeper(store, machine, 3)
    assert stored_days(store) == [TODAY - 10 * DAY_S, TODAY]


def test_an_hour_of_a_wrong_clock_removes_nothing_even_with_data_of_that_hour() -> None:
    store, machine = store_with(1, 0), Machine()

    def leap() -> None:
        machine.wall_s += YEAR_S
        store.ingest([batch_of("m", int(machine.wall_s), "000000,1")])

    def an_hour_later() -> None:
        machine.pass_time(3600)

    def back() -> None:
        machine.wall_s -= YEAR_S

    run_keeper(store, machine, 3, leap, an_hour_later, back)
    assert stored_days(store)[:2] == [TODAY - DAY_S, TODAY]


def test_data_in_the_future_does_not_make_today_old() -> None:
    store = store_with(2, 0, -YEAR_S / DAY_S)
    run_keeper(store, Machine(), 3)
    assert stored_days(store) == [TODAY - 2 * DAY_S, TODAY, TODAY + YEAR_S]


def test_old_days_go_once_there_is_new_data() -> None:
    store, machine = store_with(10, 9), Machine()
    seen = []
    run_keeper(
        store,
        machine,
        3,
        lambda: (seen.append(stored_days(store)), store.ingest([batch_of("m", NOON, "000000,1")])),
    )
    assert seen == [[TODAY - 10 * DAY_S, TODAY - 9 * DAY_S]]
    assert stored_days(store) == [TODAY]


def test_midnight_removes_a_day() -> None:
    store, machine = store_with(3, 0), Machine()

    def next_day() -> None:
        machine.pass_time(DAY_S)
        store.ingest([batch_of("m", int(machine.wall_s), "000000,1")])

    run_keeper(store, machine, 3, next_day)
    assert stored_days(store) == [TODAY, TODAY + DAY_S]


def test_nothing_is_removed_where_nothing_has_to_be() -> None:
    store = store_with(4000, 0)
    run_keeper(store, Machine(), 0)
    assert len(stored_days(store)) == 2


class _WithBadMinute(KeptStore):
    """One minute's rows cannot be read."""

    asked: list[int]

    def minutes_without_digest(self, before: int) -> list[tuple[str, int]]:
        return [("m", NOON), ("m", NOON + MINUTE_S)]

    def minute_digests(self, device_id, start, stop, *, from_rows=False):  # type: ignore[no-untyped-def]
        self.asked.append(start)
        if start == NOON:
            raise PermanentStorageError("ec-20260301.sqlite: no database")
        return []

    def remove_before(self, day: int) -> list[str]:
        raise PermanentStorageError("ec-20200101.sqlite: no database")


def test_neither_a_bad_minute_nor_a_failed_retention_keeps_other_digests_from_being_cached() -> None:
    store = _WithBadMinute()
    store.asked = []
    store.ingest([batch_of("m", NOON, "000000,1")])
    run_keeper(store, Machine(), 3)
    assert store.asked == [NOON, NOON + MINUTE_S]


# --- the rules by themselves ------------------------------------------------------------------


def test_the_first_kept_day_goes_by_the_earlier_of_clock_and_data() -> None:
    assert first_kept_day(NOON, NOON, 3) == TODAY - 3 * DAY_S
    assert first_kept_day(NOON + YEAR_S, NOON, 3) == TODAY - 2 * DAY_S
    assert first_kept_day(NOON, NOON + YEAR_S, 3) == TODAY - 3 * DAY_S


def test_a_steady_clock_follows_small_corrections_and_steps_back() -> None:
    clock = SteadyClock()
    assert clock.now(1000.0, 10.0) == 1000.0
    assert clock.now(1900.0, 20.0) == 1900.0
    assert clock.now(500.0, 30.0) == 500.0


@pytest.mark.parametrize(("held_s", "counts"), [(DAY_S - 1, False), (DAY_S, True)])
def test_a_leap_counts_once_it_has_held_for_a_day(held_s: int, counts: bool) -> None:
    clock = SteadyClock()
    clock.now(1000.0, 0.0)
    assert clock.now(1010.0 + YEAR_S, 10.0) == 1010.0
    leapt = clock.now(1010.0 + YEAR_S + held_s, 10.0 + held_s)
    assert leapt == 1010.0 + held_s + (YEAR_S if counts else 0)


def test_a_second_leap_begins_its_day_anew() -> None:
    clock = SteadyClock()
    clock.now(0.0, 0.0)
    clock.now(YEAR_S + 10.0, 10.0)
    clock.now(2 * YEAR_S + DAY_S - 10.0, DAY_S - 10.0)
    assert clock.now(2 * YEAR_S + DAY_S + 20.0, DAY_S + 20.0) == DAY_S + 20.0


class TestTheTimeToLive:
    def test_of_a_live_row_ends_with_its_day_that_many_days_later(self) -> None:
        assert Lifetime(3).ttl_s(NOON, NOON + 5) == TODAY + 4 * DAY_S - NOON
        assert Lifetime(0).ttl_s(NOON, NOON) == 0

    def test_is_not_shortened_by_a_clock_that_leaps_forward(self) -> None:
        lifetime = Lifetime(30)
        right = lifetime.ttl_s(NOON, NOON)
        assert lifetime.ttl_s(NOON + 60, NOON + 29 * DAY_S) == right - 60
        assert lifetime.ttl_s(NOON, NOON + YEAR_S) == right - 60

    def test_of_late_data_ends_no_later_than_that_of_newer_data(self) -> None:
        lifetime = Lifetime(30)
        newest = lifetime.ttl_s(NOON, NOON)
        assert lifetime.ttl_s(NOON - 3 * DAY_S, NOON) == newest - 3 * DAY_S
