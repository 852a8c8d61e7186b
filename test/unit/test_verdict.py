"""The answer at a glance, in the words that people read."""

from __future__ import annotations

import pytest

from ec_server.status.live_devices import DeviceStatus
from ec_server.status.verdict import Standing, Tone, judge, lag_s, moment_text, span_text, standing
from utilities.model import DeviceRecord
from utilities.utc import parse_minute

NOW = parse_minute("202603011405") + 30
ALLOWED_S = 2400.0


def device(
    name: str = "meter-a",
    through: str | None = "202603011403",
    *,
    heard_s: float = 1,
    first_s: float = 86_400,
    unresolved: int = 0,
    rate: float = 44_000.0,
) -> DeviceStatus:
    verified = parse_minute(through) if through else None
    first_us, last_us = int((NOW - first_s) * 1e6), int((NOW - heard_s) * 1e6)
    return DeviceStatus(
        DeviceRecord(name, first_us, last_us, first_us // 1_000_000, verified, unresolved), rate
    )


def test_without_devices_there_is_nothing_to_prove() -> None:
    verdict = judge([], NOW, ALLOWED_S)
    assert (verdict.tone, verdict.headline) == (Tone.IDLE, "No device heard yet")


def test_all_proven_is_complete_through_the_earliest_of_them() -> None:
    verdict = judge([device("a", "202603011403"), device("b", "202603011350")], NOW, ALLOWED_S)
    assert verdict.tone is Tone.GOOD
    assert verdict.headline == "Complete through 13:50 UTC"
    assert "all 2 devices" in verdict.explanation


def test_a_silent_device_whose_data_is_all_proven_holds_nothing_back_and_is_named() -> None:
    silent = device("old", "202602281200", heard_s=100_000, first_s=200_000)
    assert lag_s(silent, NOW) == 0
    verdict = judge([device("a"), silent], NOW, ALLOWED_S)
    assert verdict.headline == "Complete through 14:03 UTC"
    assert "Silent, and complete until then: old." in verdict.explanation


def test_a_silent_device_with_an_unproven_tail_is_behind() -> None:
    silent = device("old", "202602281200", heard_s=4000)
    assert standing(silent, NOW, ALLOWED_S) is Standing.BEHIND


def test_a_proof_older_than_a_round_allows_is_behind_and_says_through_when() -> None:
    verdict = judge([device("a"), device("b", "202603011300")], NOW, ALLOWED_S)
    assert verdict.tone is Tone.ATTENTION
    assert verdict.headline == "1 of 2 devices is behind"
    assert "b is proven through 13:00 UTC only" in verdict.explanation
    assert "complete through 14:03 UTC" in verdict.explanation


def test_minutes_that_differ_decide_the_headline() -> None:
    verdict = judge([device("a", unresolved=3), device("b", "202603011300")], NOW, ALLOWED_S)
    assert verdict.headline == "3 minutes could not be proven"
    assert verdict.tone is Tone.ATTENTION


def test_new_devices_wait_for_their_first_round() -> None:
    verdict = judge([device("a", None, first_s=60)], NOW, ALLOWED_S)
    assert (verdict.tone, verdict.headline) == (Tone.WAITING, "Not proven yet")


def test_a_device_never_compared_in_time_is_behind() -> None:
    never = device("a", None, first_s=ALLOWED_S + 60)
    assert standing(never, NOW, ALLOWED_S) is Standing.BEHIND
    assert "never been compared" in judge([never], NOW, ALLOWED_S).explanation


def test_many_names_are_cut() -> None:
    verdict = judge([device(f"m{i}", "202603011200") for i in range(9)], NOW, ALLOWED_S)
    assert "and 6 more" in verdict.explanation


@pytest.mark.parametrize(
    ("moment", "text"),
    [("202603011403", "14:03 UTC"), ("202602282359", "2026-02-28 23:59 UTC")],
)
def test_a_moment_has_its_date_only_if_it_is_not_today(moment: str, text: str) -> None:
    assert moment_text(parse_minute(moment), NOW) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (86_400, "1 d"),
        (187_205, "2 d 4 h"),
    ],
)
def test_a_span_is_printed_in_its_largest_units(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
