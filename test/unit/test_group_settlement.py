"""What the next writer makes of each point at which the one before can have died."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.ingest.group_settlement import Death, Evidence, GroupSettlement, Place, settle, spool_agreement
from utilities.utc import DAY_S

DAY = 20_000 * DAY_S
CLEAN = Evidence(
    settled=10,
    ring=Place(100, 10),
    ring_base=0,
    group_end=Place(100, 10),
    settled_sequence=4,
    intended_sequence=4,
    intended_day=DAY,
    spooled=0,
    in_spool=0,
)
IN_HAND = replace(CLEAN, group_end=Place(150, 15))
INTENDED = replace(IN_HAND, intended_sequence=5)
ON = {"ring_position": 50, "ring_count": 5}

CASES = {
    "nothing was in hand": (CLEAN, GroupSettlement(Death.NOTHING_IN_HAND, CLEAN.ring)),
    "before the first commit": (IN_HAND, GroupSettlement(Death.BEFORE_COMMIT, CLEAN.ring)),
    "within the first commit": (
        replace(INTENDED, mark=(4, 9, 9)),
        GroupSettlement(Death.BEFORE_COMMIT, CLEAN.ring),
    ),
    "no mark is kept": (INTENDED, GroupSettlement(Death.BEFORE_COMMIT, CLEAN.ring)),
    "after the only commit": (
        replace(INTENDED, mark=(5, 3, 2)),
        GroupSettlement(
            Death.AFTER_COMMIT,
            Place(150, 15),
            {"stored": 3, "duplicate": 2, "settled_sequence": 1, **ON},
        ),
    ),
    "after the first of two days": (
        replace(INTENDED, mark=(5, 3, 0)),
        GroupSettlement(
            Death.AFTER_COMMIT,
            CLEAN.ring,
            {"stored": 3, "settled_sequence": 1},
            group_size=5,
            settled_before=3,
            settled_days_end=DAY + DAY_S,
        ),
    ),
    "the first of two days is in the account": (
        replace(IN_HAND, settled=13, settled_sequence=5, intended_sequence=5),
        GroupSettlement(Death.BEFORE_COMMIT, CLEAN.ring, {}, 5, 3, DAY + DAY_S),
    ),
    "within the second of two days": (
        replace(IN_HAND, settled=13, settled_sequence=5, intended_sequence=6, intended_day=DAY + DAY_S),
        GroupSettlement(Death.BEFORE_COMMIT, CLEAN.ring, {}, 5, 3, DAY + DAY_S),
    ),
    "after the spool took it all": (
        replace(INTENDED, spooled=7, in_spool=12),
        GroupSettlement(Death.AFTER_SPOOLING, Place(150, 15), {"spooled": 5, "settled_sequence": 1, **ON}),
    ),
    "after the spool took one of two days": (
        replace(INTENDED, in_spool=2),
        GroupSettlement(
            Death.AFTER_SPOOLING,
            CLEAN.ring,
            {"spooled": 2, "settled_sequence": 1},
            group_size=5,
            settled_before=2,
            settled_days_end=DAY + DAY_S,
        ),
    ),
    "after a drained group left the spool": (
        replace(CLEAN, settled=10, spooled=6, in_spool=2),
        GroupSettlement(Death.NOTHING_IN_HAND, CLEAN.ring, {"spooled": -4, "stored": 4}),
    ),
    "after a drained group left the spool that notes what became of it": (
        replace(CLEAN, spooled=6, in_spool=2, drained={"spooled": -4, "stored": 1, "duplicate": 1, "x": 2}),
        GroupSettlement(
            Death.NOTHING_IN_HAND, CLEAN.ring, {"spooled": -4, "stored": 1, "duplicate": 1, "x": 2}
        ),
    ),
    "after a drained group left the spool and another came": (
        replace(INTENDED, spooled=6, in_spool=8, drained={"spooled": -3, "stored": 3}),
        GroupSettlement(
            Death.AFTER_SPOOLING,
            Place(150, 15),
            {"spooled": 2, "stored": 3, "settled_sequence": 1, **ON},
        ),
    ),
    "the spool is older than the page": (
        replace(CLEAN, in_spool=3),
        GroupSettlement(Death.NOTHING_IN_HAND, CLEAN.ring, {"spooled": 3, "taken_over": 3}),
    ),
    "the ring is gone": (
        replace(CLEAN, ring_base=15, group_end=Place(0, 0)),
        GroupSettlement(Death.RING_GONE, Place(0, 15), {"lost": 5, "ring_position": -100, "ring_count": 5}),
    ),
    "the ring is gone after the commit": (
        replace(INTENDED, ring_base=15, group_end=Place(0, 0), mark=(5, 3, 1)),
        GroupSettlement(
            Death.RING_GONE,
            Place(0, 15),
            {
                "stored": 3,
                "duplicate": 1,
                "lost": 1,
                "settled_sequence": 1,
                "ring_position": -100,
                "ring_count": 5,
            },
        ),
    ),
    "a new ring after an ordered end": (
        replace(CLEAN, ring_base=10, group_end=Place(0, 0)),
        GroupSettlement(Death.NOTHING_IN_HAND, Place(0, 10), {"ring_position": -100}),
    ),
}


@pytest.mark.parametrize(("evidence", "expected"), CASES.values(), ids=list(CASES))
def test_each_point_of_death_has_its_settlement(evidence: Evidence, expected: GroupSettlement) -> None:
    assert settle(evidence) == expected


@pytest.mark.parametrize(
    ("evidence", "asks"),
    [(CLEAN, False), (IN_HAND, False), (INTENDED, True), (replace(CLEAN, intended_sequence=5), False)],
)
def test_the_database_is_asked_only_where_a_commit_is_in_doubt(evidence: Evidence, asks: bool) -> None:
    assert evidence.asks_for_mark is asks


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 20))
def test_the_account_always_agrees_with_the_spool_and_still_sums_up(
    spooled: int, in_spool: int, group_lacks: int
) -> None:
    changes, of_group = spool_agreement(spooled, in_spool, group_lacks)
    assert spooled + changes.get("spooled", 0) == in_spool
    settled = changes.get("spooled", 0) + changes.get("stored", 0) - changes.get("taken_over", 0)
    assert settled == of_group <= group_lacks
