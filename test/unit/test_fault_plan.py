"""The plans of the fault runs; the runs themselves are in test/system/faults."""

from __future__ import annotations

import pytest
from system.faults.__main__ import replay
from system.faults.actions import ACTIONS
from system.faults.plan import ENGINES, KINDS, in_turn, plan_of, simpler


def test_a_seed_always_gives_the_same_plan_and_another_seed_another() -> None:
    plans = [plan_of(seed) for seed in range(50)]
    assert plans == [plan_of(seed) for seed in range(50)]
    assert len({plan.faults for plan in plans}) > 40


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_of_fault_and_each_target_occurs(engine: str) -> None:
    faults = [fault for seed in range(3000) for fault in plan_of(seed, engine).faults]
    wanted = {(n, t) for n, k in KINDS.items() if engine in k.engines for t in k.targets or ("",)}
    assert {(fault.kind, fault.target) for fault in faults} == wanted


def test_every_kind_has_its_action() -> None:
    assert ACTIONS.keys() == KINDS.keys()


def test_a_load_goes_on_after_the_last_fault_and_is_as_long_as_asked_at_most() -> None:
    for seed in range(300):
        plan = plan_of(seed, longest_s=5.0)
        ends = [fault.end_s for fault in plan.faults]
        assert plan.load_s > max(ends, default=0.0)
        assert max(ends, default=0.0) <= 5.0


def test_a_failing_plan_is_tried_without_each_of_its_faults() -> None:
    plan = next(plan for plan in map(plan_of, range(100)) if len(plan.faults) == 3)
    assert list(simpler(plan)) == [(1, 2), (0, 2), (0, 1)]
    assert plan.only((0, 2)).faults == (plan.faults[0], plan.faults[2])


def test_a_plan_says_how_it_is_replayed() -> None:
    plan = next(plan for plan in map(plan_of, range(100)) if len(plan.faults) == 3)
    assert replay(plan, range(3)) == f"make faults SEEDS=1 FIRST={plan.seed}"
    assert replay(plan, [0, 2]) == f"make faults SEEDS=1 FIRST={plan.seed} ONLY=0,2"
    assert "ENGINE=cassandra" in replay(plan_of(1, "cassandra"), [])


def test_several_plans_in_turn_are_one_with_the_faults_of_all() -> None:
    plans = [plan_of(seed, longest_s=2.0) for seed in range(1, 5)]
    together = in_turn(plans)
    assert [f.kind for f in together.faults] == [f.kind for plan in plans for f in plan.faults]
    assert sorted(f.at_s for f in together.faults) == [f.at_s for f in together.faults]
