"""Power of spans in which more seconds may have samples than are read."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from stored_data import MINUTE, store_second

from ec_server.export import power
from ec_server.export.power import Step, power_steps
from ec_server.export.stored_seconds import Span
from ec_server.storage.memory_store import MemoryStore


def steps_of(seconds: Iterable[int], most_seconds: int, start: int = 0, stop: int = 600) -> list[Step]:
    """Each second has one sample, whose value is its number."""
    store = MemoryStore()
    for second in seconds:
        store_second(store, "m", MINUTE + second, [f"000000,{second}"])
    found = power_steps(store, Span("m", MINUTE + start, MINUTE + stop), 10_000, most_seconds)
    return [step for step in found if step is not None]


def test_a_second_in_each_minute_is_read_wherever_it_is() -> None:
    seconds = [minute * 60 + 17 + minute for minute in range(10)]
    assert [step.mean for step in steps_of(seconds, 60)] == seconds
    assert [step.mean for step in steps_of(seconds, 10)] == seconds


def test_where_minutes_are_more_than_seconds_to_read_some_minutes_are() -> None:
    seconds = [minute * 60 + 31 for minute in range(10)]
    assert [step.mean for step in steps_of(seconds, 4)] == [seconds[0], seconds[3], seconds[6], seconds[9]]


@pytest.mark.parametrize("listed", [0, 6_000])
def test_of_a_full_minute_as_many_seconds_as_may_be_are_read_evenly_spread(
    listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "_LISTED_ROWS", listed)
    found = [step.mean for step in steps_of(range(120), 40)]
    assert found == list(range(0, 120, 3))


def test_in_a_minute_of_many_rows_the_one_second_that_has_samples_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(power, "_LISTED_ROWS", 0)
    assert [step.mean for step in steps_of([31, 95], 2)] == [31, 95]


def test_a_span_that_begins_within_a_minute_is_read_as_a_whole() -> None:
    found = steps_of(range(120), 60, 30, 90)
    assert [step.mean for step in found] == list(range(30, 90))
