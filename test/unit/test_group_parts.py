"""A group is committed by day, and what was settled before counts once."""

from __future__ import annotations

from contract.store_suite import NOON, run_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.ingest.group_parts import Group, by_day, counted_once, days_to_commit
from ec_server.ingest.group_settlement import Place
from utilities.utc import DAY_S, day_of

DAY = day_of(NOON)
YESTERDAY = [run_of("m", NOON - DAY_S, us) for us in (0, 1000)]
TODAY = [run_of("m", NOON, us) for us in (0, 1000, 2000)]


def group(settled_before: int = 0, settled_days_end: int = 0) -> Group:
    return Group([TODAY[0], *YESTERDAY, *TODAY[1:]], {}, Place(1, 5), 0.0, settled_before, settled_days_end)


def test_days_are_committed_in_order_each_with_its_batches_in_theirs() -> None:
    assert by_day(group().batches) == [(DAY - DAY_S, YESTERDAY), (DAY, TODAY)]


def test_days_that_were_settled_before_are_left_out() -> None:
    assert days_to_commit(group()) == ([(DAY - DAY_S, YESTERDAY), (DAY, TODAY)], 0)
    assert days_to_commit(group(2, DAY)) == ([(DAY, TODAY)], 0)
    assert days_to_commit(group(5, DAY + DAY_S)) == ([], 0)


def test_every_day_is_committed_again_where_the_settled_ones_are_not_what_they_were() -> None:
    assert days_to_commit(group(1, DAY)) == ([(DAY - DAY_S, YESTERDAY), (DAY, TODAY)], 1)
    assert days_to_commit(group(3, DAY)) == ([(DAY - DAY_S, YESTERDAY), (DAY, TODAY)], 3)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(0, 90),
)
def test_what_counts_twice_is_taken_off_once(steps: list[tuple[int, int]], rejected: int, twice: int) -> None:
    settled, left = -twice, twice  # booked as taken over before the first step
    for number, (stored, duplicate) in enumerate(steps):
        is_last = number == len(steps) - 1
        changes = {
            "stored": stored,
            "duplicate": duplicate,
            **({"rejected_empty": rejected} if is_last else {}),
        }
        once, left = counted_once(changes, left)
        taken_over = once.pop("taken_over", 0)
        assert all(value >= 0 for value in once.values())
        settled += sum(once.values()) - taken_over
        assert sum(once.values()) - taken_over == sum(changes.values()), "each step settles what it commits"
    assert settled == sum(stored + duplicate for stored, duplicate in steps) + rejected - twice
