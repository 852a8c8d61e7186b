"""Restart and stop decisions, with the time as an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ec_server.supervision.restart_policy import (
    LONGEST_PAUSE_AFTER_READY_S,
    LONGEST_PAUSE_S,
    RESTARTS_AT_ONCE,
    STABLE_S,
    Life,
    Limits,
    RestartHistory,
    cannot_boot,
    why_hung,
)
from ec_server.supervision.stop_plan import StopPlan

FAILED_BOOT = Life(started_s=0.0, ready_s=None, ended_s=0.3)
SHORT = Life(started_s=0.0, ready_s=0.3, ended_s=0.3 + STABLE_S / 2)
STABLE = Life(started_s=0.0, ready_s=0.3, ended_s=0.3 + STABLE_S)
LIMITS = Limits()


def history_of(*lives: Life) -> RestartHistory:
    history = RestartHistory()
    for life in lives:
        history = history.after(life)
    return history


def test_a_process_that_was_ready_is_started_again_at_once():
    assert history_of(SHORT).pause_s() == 0
    assert history_of(STABLE).pause_s() == 0


def test_failed_boots_double_the_pause_from_a_fifth_of_a_second_to_half_a_minute():
    pauses = [history_of(*[FAILED_BOOT] * n).pause_s() for n in range(1, 11)]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_a_thousand_failed_boots_still_have_the_longest_pause():
    assert RestartHistory(failed_boots=1_000_000).pause_s() == LONGEST_PAUSE_S


def test_the_fiftieth_short_life_in_a_row_delays_the_restart_by_a_fraction_of_a_second():
    pauses = [history_of(*[SHORT] * n).pause_s() for n in range(1, 51)]
    assert pauses[:RESTARTS_AT_ONCE] == [0.0] * RESTARTS_AT_ONCE
    assert pauses[RESTARTS_AT_ONCE] > 0
    assert max(pauses) == LONGEST_PAUSE_AFTER_READY_S < 1


def test_being_ready_resets_the_count_of_failed_boots():
    assert history_of(FAILED_BOOT, FAILED_BOOT, SHORT).failed_boots == 0


def test_a_stable_life_resets_all_counts_of_failures():
    assert history_of(*[SHORT] * 40, FAILED_BOOT, STABLE) == RestartHistory()


@given(st.lists(st.sampled_from([FAILED_BOOT, SHORT, STABLE]), max_size=60))
def test_no_history_makes_a_worker_that_was_just_ready_wait_long(lives):
    assert 0 <= history_of(*lives).pause_s() <= LONGEST_PAUSE_S
    assert history_of(*lives, SHORT).pause_s() <= LONGEST_PAUSE_AFTER_READY_S


def test_the_exit_codes_2_and_78_end_the_start_at_the_first_failed_boot():
    once = history_of(FAILED_BOOT)
    assert cannot_boot(once, 2)
    assert cannot_boot(once, 78)
    assert not cannot_boot(once, 1)
    assert not cannot_boot(once, -9)


def test_five_failed_boots_of_any_kind_end_the_start():
    assert cannot_boot(history_of(*[FAILED_BOOT] * 5), 1)


def hung(state: str, alive_s: float, silent_s: float, reason: str = "") -> str:
    return why_hung(state, reason, alive_s, silent_s, LIMITS) or ""


def test_a_starting_process_is_judged_by_its_age_and_not_by_its_silence():
    assert hung("starting", alive_s=29.0, silent_s=29.0) == ""
    assert "not ready" in hung("starting", alive_s=31.0, silent_s=0.0)


def test_a_starting_process_that_says_what_it_waits_for_may_wait_while_it_answers():
    assert hung("starting", alive_s=3600.0, silent_s=1.0, reason="the database is away") == ""
    assert "not ready" in hung("starting", alive_s=3600.0, silent_s=11.0, reason="the database is away")


def test_a_process_that_was_ready_hangs_after_ten_silent_seconds_whatever_its_state():
    for state in ("ready", "degraded", "stopping"):
        assert hung(state, alive_s=1000.0, silent_s=9.9) == ""
        assert "10.1 s" in hung(state, alive_s=1000.0, silent_s=10.1)


def test_the_others_are_told_when_no_receiver_is_left():
    stop = StopPlan(LIMITS, asked_s=100.0)
    assert not stop.tells_others(101.0, receivers_left=1)
    assert stop.tells_others(101.0, receivers_left=0)


def test_the_others_are_told_at_the_receivers_deadline_and_all_are_killed_at_the_last_one():
    stop = StopPlan(LIMITS, asked_s=100.0)
    assert stop.tells_others(100.0 + LIMITS.receivers_stop_s, receivers_left=1)
    assert not stop.kills(100.0 + LIMITS.stop_s - 0.1)
    assert stop.kills(100.0 + LIMITS.stop_s)


def test_a_hurried_stop_tells_everybody_now_and_kills_soon_but_never_later_than_before():
    stop = StopPlan(LIMITS, asked_s=100.0).hurried(101.0)
    assert stop.tells_others(101.0, receivers_left=3)
    assert stop.kill_s() == 101.0 + LIMITS.hurried_stop_s
    assert stop.hurried(102.0) == stop
    assert StopPlan(LIMITS, asked_s=100.0).hurried(124.9).kill_s() == 100.0 + LIMITS.stop_s
