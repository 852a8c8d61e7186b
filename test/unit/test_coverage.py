"""Spans of stored data, their gaps, and the arrays that they are found in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.export import stored_seconds
from ec_server.export.coverage import Coverage, clipped, gaps_between, is_whole
from ec_server.export.power import _Steps, power_steps
from ec_server.export.stored_seconds import (
    Span,
    arrays_of,
    check_span,
    length_text,
    microseconds_of,
    parse_moment,
)
from ec_server.storage.memory_store import MemoryStore
from reference_client.message import MICROSECONDS
from utilities.model import Batch

FULL = MICROSECONDS.astype(np.int64)
S = 1_000_000


def spans_of(*seconds: tuple[int, list[int]]) -> list[tuple[int, int]]:
    coverage, found = Coverage(), []
    for second, microseconds in seconds:
        found += coverage.add(second, np.array(microseconds, np.int64))
    return found + coverage.finish()


def test_seconds_that_touch_are_one_span() -> None:
    assert spans_of((10, FULL.tolist()), (11, FULL.tolist())) == [(10 * S, 12 * S)]


def test_a_missing_message_is_a_gap() -> None:
    kept = [us for us in FULL.tolist() if not 3000 <= us < 4000]
    assert spans_of((10, kept)) == [(10 * S, 10 * S + 3000), (10 * S + 4000, 11 * S)]


def test_one_sample_per_second_is_without_gaps() -> None:
    assert spans_of((10, [0]), (11, [0]), (12, [3])) == [(10 * S, 13 * S + 3)]


def test_a_missing_second_is_a_gap() -> None:
    assert spans_of((10, FULL.tolist()), (12, FULL.tolist())) == [(10 * S, 11 * S), (12 * S, 13 * S)]


def test_nothing_has_no_spans() -> None:
    assert spans_of() == []
    assert spans_of((10, [])) == []


def test_a_second_known_to_be_whole_counts_as_its_samples_would() -> None:
    coverage = Coverage()
    interval_us = is_whole(10, FULL)
    found = [*coverage.add(10, FULL), *coverage.add_whole(11, interval_us), *coverage.add(12, FULL)]
    assert found + coverage.finish() == spans_of(*((s, FULL.tolist()) for s in (10, 11, 12)))


def test_only_a_second_filled_to_both_ends_is_whole() -> None:
    assert is_whole(10, FULL) == 23
    assert not is_whole(10, FULL[44:])
    assert not is_whole(10, FULL[:-44])
    assert not is_whole(10, np.delete(FULL, range(440, 484)))
    assert not is_whole(10, np.array([500_000]))


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), max_size=10))
def test_stored_and_gaps_divide_the_range(pairs: list[tuple[int, int]]) -> None:
    spans, at = [], 0
    for distance, length in pairs:
        spans.append((at + distance + 1, at + distance + 1 + length))
        at = spans[-1][1]
    inside = list(clipped(spans, 50, 150))
    parts = sorted([*inside, *gaps_between(inside, 50, 150)])
    assert parts[0][0] == 50
    assert parts[-1][1] == 150
    assert all(a[1] == b[0] for a, b in zip(parts, parts[1:]))


VALUES = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.from_regex(
    r"\A[+-]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,2})?\Z"
)


@pytest.mark.thorough
@pytest.mark.parametrize("with_arrow", [True, False])
@settings(deadline=None)  # the first call imports pyarrow
@given(samples=st.dictionaries(st.integers(0, 999_999), VALUES, min_size=1, max_size=20))
def test_arrays_hold_the_double_nearest_to_each_text(with_arrow: bool, samples: dict[int, str]) -> None:
    text = ";".join(f"{us:06d},{samples[us]}" for us in sorted(samples))
    with pytest.MonkeyPatch.context() as patch:
        if not with_arrow:
            patch.setattr(stored_seconds, "_arrow", lambda: None)
        microseconds, values = arrays_of(text)
    assert microseconds.tolist() == sorted(samples) == microseconds_of(text).tolist()
    assert values.tolist() == [float(samples[us]) for us in sorted(samples)]


@pytest.mark.parametrize("with_arrow", [True, False])
@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("000000,1;000022,?x;000044,3", {0: 1, 44: 3}),
        ("000000,1;00?022,2;000044,3", {0: 1, 44: 3}),
        ("000000,1;2;000044,3", {0: 1, 44: 3}),
        ("000000,1;000022,;000044,+3", {0: 1, 44: 3}),
        ("000044,3;000000,1", {0: 1, 44: 3}),
        ("000000,nan;000022,1e999;000044,3", {44: 3}),
        ("000044,3;0", {44: 3}),
        ("?", {}),
    ],
)
def test_what_damage_has_made_of_a_sample_is_left_out(
    with_arrow: bool, text: str, left: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_arrow:
        monkeypatch.setattr(stored_seconds, "_arrow", lambda: None)
    microseconds, values = arrays_of(text)
    assert dict(zip(microseconds.tolist(), values.tolist())) == left
    assert set(left) <= set(microseconds_of(text).tolist()) <= {0, 22, 44}
    list(_Steps(Span("m", 0, 1), 10).add(microseconds, values))


def test_a_moment_is_a_minute_or_a_second() -> None:
    assert parse_moment("202603011200") == parse_moment("20260301120000") == 1_772_366_400
    for wrong in ("2026", "20260301120", "202613011200", "2026030112000x", ""):
        with pytest.raises(ValueError, match="not a UTC moment"):
            parse_moment(wrong)


def test_a_span_is_forward_and_bounded() -> None:
    check_span(Span("m", 0, 3600), 3600)
    for span, said in ((Span("m", 5, 5), "earlier"), (Span("m", 0, 3601), "longer than 1 hour")):
        with pytest.raises(ValueError, match=said):
            check_span(span, 3600)
    assert length_text(62 * 86_400) == "62 days"


@pytest.mark.parametrize("has_arrow", [True, False])
@pytest.mark.parametrize(
    ("damaged", "left"),
    [
        ("abc", {}),
        ("000001,1;000002,2;5", {1: 1.0, 2: 2.0}),
        ("000001,1;0000a2,2;000003,3", {1: 1.0, 3: 3.0}),
        ("000001,1;000002,2x;000003,3", {1: 1.0, 3: 3.0}),
        ("000001,1;000002;2;000003,3", {1: 1.0, 3: 3.0}),
    ],
)
def test_of_a_damaged_second_what_can_be_read_is_left(
    damaged: str, left: dict[int, float], has_arrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_arrow:
        monkeypatch.setattr(stored_seconds, "_arrow", lambda: None)
    microseconds, values = arrays_of(damaged)
    assert dict(zip(microseconds.tolist(), values.tolist(), strict=True)) == left
    assert left.keys() <= set(microseconds_of(damaged).tolist())
    with MemoryStore() as store:
        store.ingest([Batch("m", 60, 0, 5, damaged, 1, "")])
        span = Span("m", 60, 61)
        steps = [step for step in power_steps(store, span, 1, 1) if step]
        assert [step.highest for step in steps] == ([max(left.values())] if left else [])
