"""Availability from counts of seconds: the same spans that an export finds in the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stored_data import MINUTE, store_second

from ec_server.export import availability
from ec_server.export.availability import Availability, find_availability
from ec_server.export.extract import Notes, Report, extract
from ec_server.export.stored_seconds import Span, microseconds_of
from ec_server.storage.memory_store import MemoryStore

WHOLE = range(0, 1_000_000, 250_000)
CROWDED = range(4)
DENSE = range(0, 1_000_000, 500)


def store_of(seconds: Mapping[int, Sequence[int]]) -> MemoryStore:
    store = MemoryStore()
    for second, microseconds in seconds.items():
        store_second(
            store, "m", MINUTE + second, [";".join(f"{us:06d},1" for us in sorted(set(microseconds)))]
        )
    return store


def found_in(store: MemoryStore, span: Span) -> Availability:
    found = Availability()
    for _ in find_availability(store, span, found):
        pass
    return found


def gaps_of_an_export(store: MemoryStore, span: Span) -> list[tuple[int, int]]:
    gaps: list[tuple[int, int]] = []
    notes = Notes(lambda start, stop: gaps.append((start, stop)), lambda _minute: None)
    list(extract(store, span, notes, Report()))
    return gaps


SECOND = st.one_of(
    st.sampled_from([WHOLE, CROWDED, [0], [999_999], DENSE, [us for us in DENSE if us % 7]]),
    st.lists(st.integers(0, 999_999), min_size=1, max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 130), SECOND, min_size=1, max_size=12),
    st.integers(0, 65),
    st.integers(66, 131),
)
@example({0: WHOLE, 1: WHOLE, 2: CROWDED, 3: WHOLE}, 0, 66)
@example({29: [999_999], 31: WHOLE}, 30, 66)
@example({0: range(400, 1_000_000, 500), 1: range(400, 1_000_000, 500)}, 0, 66)
def test_its_gaps_are_those_of_an_export(seconds: dict[int, Sequence[int]], start: int, stop: int) -> None:
    store, span = store_of(seconds), Span("m", MINUTE + start, MINUTE + stop)
    found = found_in(store, span)
    assert found.exact
    assert found.gaps == gaps_of_an_export(store, span)


def test_of_a_run_of_equal_seconds_only_some_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(dict.fromkeys(range(50), DENSE) | dict.fromkeys(range(60, 90), DENSE))
    read: list[str] = []
    monkeypatch.setattr(
        availability, "microseconds_of", lambda text: read.append(text) or microseconds_of(text)
    )
    found = found_in(store, Span("m", MINUTE, MINUTE + 120))
    assert len(read) == 4
    assert [(a - MINUTE * 10**6, b - MINUTE * 10**6) for a, b in found.stored] == [
        (0, 50_000_000),
        (60_000_000, 90_000_000),
    ]


def test_beyond_the_minutes_it_looks_at_a_minute_is_stored_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(availability, "MOST_MINUTES", 1)
    store = store_of({59: WHOLE, 61: CROWDED, 125: CROWDED, 300: CROWDED})
    found = found_in(store, Span("m", MINUTE, MINUTE + 400))
    assert not found.exact
    spans = [((a // 10**6) - MINUTE, (b // 10**6) - MINUTE) for a, b in found.stored]
    assert spans == [(59, 180), (300, 360)]


def test_beyond_what_it_may_read_it_says_that_it_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "MOST_READ_SECONDS", 2)
    store = store_of(dict.fromkeys(range(4), CROWDED))
    found = found_in(store, Span("m", MINUTE, MINUTE + 60))
    assert not found.exact
    assert len(found.stored) == 3
