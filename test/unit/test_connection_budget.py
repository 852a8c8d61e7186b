"""Which connection goes where they run short: the rules of the module, and an account that never leaks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from utilities.connection_budget import ConnectionBudget


def opened(budget: ConnectionBudget[int], key: int, address: str) -> list[int]:
    return list(budget.opened(key, address))


def test_no_connection_is_closed_while_there_is_room() -> None:
    budget: ConnectionBudget[int] = ConnectionBudget(10, 10)
    assert [opened(budget, key, "a") for key in range(10)] == [[]] * 10


def test_the_oldest_unproven_connection_is_closed_before_any_proven_one() -> None:
    budget: ConnectionBudget[int] = ConnectionBudget(3, 3)
    for key in (1, 2, 3):
        opened(budget, key, "a")
    budget.heard(1, 0.0)
    assert opened(budget, 4, "a") == [2]
    budget.heard(3, 5.0)
    budget.heard(4, 6.0)
    assert opened(budget, 5, "a") == [1], "all others are proven: the longest silent one goes"
    budget.heard(5, 7.0)
    budget.heard(3, 8.0)
    assert opened(budget, 6, "a") == [4]


def test_the_address_with_most_unproven_connections_loses_one_first() -> None:
    budget: ConnectionBudget[int] = ConnectionBudget(4, 4)
    assert opened(budget, 1, "quiet") == []
    for key in (2, 3, 4):
        opened(budget, key, "flood")
    assert opened(budget, 5, "newcomer") == [2]
    assert opened(budget, 6, "flood") == [3]


def test_a_new_connection_stays_if_others_are_unproven_or_silent() -> None:
    budget: ConnectionBudget[int] = ConnectionBudget(2, 2)
    opened(budget, 1, "a")
    budget.heard(1, 0.0)
    opened(budget, 2, "b")
    assert opened(budget, 3, "c") == [2]
    budget.heard(3, 1.0)
    assert opened(budget, 4, "d") == [1]


def test_an_address_has_its_share_of_unproven_ones_and_any_number_of_proven_ones() -> None:
    budget: ConnectionBudget[int] = ConnectionBudget(100, 2)
    assert [opened(budget, key, "a") for key in (1, 2, 3)] == [[], [], [1]]
    for key in (2, 3):
        budget.heard(key, 0.0)
    assert [opened(budget, key, "a") for key in (4, 5, 6)] == [[], [], [4]]
    assert budget.is_proven(2)
    assert not budget.is_proven(5)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["open", "hear", "close"]), st.integers(0, 30), st.sampled_from("abc")),
        max_size=200,
    )
)
def test_what_is_open_is_known_to_the_unit_and_never_too_many(steps: list[tuple[str, int, str]]) -> None:
    budget: ConnectionBudget[int] = ConnectionBudget(5, 3)
    known: set[int] = set()
    for now, (what, key, address) in enumerate(steps):
        if what == "open" and key not in known:
            known.add(key)
            known -= set(budget.opened(key, address))
            assert key in known
        elif what == "hear":
            budget.heard(key, float(now))
        elif what == "close":
            budget.closed(key)
            known.discard(key)
        assert len(budget) == len(known) <= 5
