"""Whole-system runs under the faults of ten seeds, three servers; many more by `make faults`, and as soak."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from system.faults.__main__ import summary
from system.faults.plan import Plan, in_turn, plan_of
from system.faults.run import run

SHORT_S = 1.6
"""The load of a seed in the usual suite: a server takes the faults of several seeds, one after the other."""
SEEDS = ((1, 2, 3, 4), (5, 6, 7), (8, 9, 10))


def holds(plan: Plan, folder: Path) -> None:
    outcome = run(plan, folder)
    assert outcome.violation is None, f"{summary(outcome)}\n{plan}"
    assert outcome.figures["ec_batches_stored_total"] > 0


@pytest.mark.timeout(400)  # three servers at once: a busy machine takes its time
def test_whatever_ten_seeds_do_nothing_is_lost_and_nothing_false_is_said(tmp_path: Path) -> None:
    plans = [in_turn([plan_of(seed, longest_s=SHORT_S) for seed in seeds]) for seeds in SEEDS]
    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(holds, plans, [tmp_path] * len(plans)))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1, 1 + int(os.environ.get("EC_TEST_FAULT_SEEDS", "30"))))
def test_whatever_a_seed_does_nothing_is_lost_and_nothing_false_is_said(tmp_path: Path, seed: int) -> None:
    holds(plan_of(seed), tmp_path)
