"""Thousands of simulated worlds hold what the server promises; faults on purpose show that they tell."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from simulation.__main__ import run_recoveries, run_seed, run_seeds
from simulation.plan import faults_of, setting_of
from simulation.world import ViolationError

from ec_server.ingest import group_settlement
from ec_server.storage.memory_store import MemoryStore
from ec_server.synchronization import repair_plan, round
from ec_server.synchronization.repair_plan import batch_of
from utilities.model import Batch, MinuteState, Verdict

SEEDS_IN_THE_SUITE = 60


@pytest.mark.thorough
@pytest.mark.thorough
def test_what_a_seed_chooses_holds() -> None:
    ran, meters, _ = run_seeds(0, SEEDS_IN_THE_SUITE)
    assert (ran, meters > ran) == (SEEDS_IN_THE_SUITE, True)


@pytest.mark.soak
@pytest.mark.timeout(20_000)
def test_what_a_hundred_thousand_seeds_choose_holds() -> None:
    """``EC_TEST_SEEDS`` says how many."""
    run_seeds(0, int(os.environ.get("EC_TEST_SEEDS", "100000")))


# --- faults on purpose: one for each thing that is checked ----------------------------------------

Fault = Callable[[pytest.MonkeyPatch], None]


def _always_proven(patch: pytest.MonkeyPatch) -> None:
    conclude = round._conclude

    def lenient(round_: Any, reports: Sequence[Any]) -> Any:
        kept = [replace(r, state=MinuteState.PROVEN) if r.there is not None else r for r in reports]
        return conclude(round_, kept)

    patch.setattr(round, "_conclude", lenient)


def _forgets_what_is_recorded_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "note_reopened", lambda *_: None)


def _never_asks_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(round, "recheck_start", lambda *_: 2**40)


def _adds_a_sample(patch: pytest.MonkeyPatch) -> None:
    def one_more(device_id: str, second: int, values: str) -> Batch:
        return batch_of(device_id, second, f"{values};999999,13" if values[-13:-7] < "999999" else values)

    patch.setattr(repair_plan, "batch_of", one_more)


def _tidies_up(patch: pytest.MonkeyPatch) -> None:
    record = MemoryStore.record_verdicts

    def tidying(
        store: MemoryStore, device_id: str, verdicts: Sequence[Verdict], compared_us: int
    ) -> list[int]:
        for verdict in verdicts:
            if verdict.state is MinuteState.UNCONFIRMABLE:
                for second in range(verdict.minute, verdict.minute + 60):
                    store._rows.get(device_id, {}).pop(second, None)
        return record(store, device_id, verdicts, compared_us)

    patch.setattr(MemoryStore, "record_verdicts", tidying)


def _stays_settled_until_repaired(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(round, "_withdraw", lambda *_: iter(()))


FAULTS: dict[str, tuple[Fault, int, str]] = {
    "a verdict that does not depend on the comparison": (_always_proven, 89, "lacks what was stated"),
    "what is recorded again is known to one connection only": (
        _forgets_what_is_recorded_again,
        49,
        "lacks samples",
    ),
    "a minute that the device contradicts stays settled until it is repaired": (
        _stays_settled_until_repaired,
        300_841,
        "lacks what was stated",
    ),
    "empty minutes are never asked about again": (_never_asks_again, 5, "is not proven"),
    "a repair stores more than was sent": (_adds_a_sample, 0, "stored and never sent"),
    "what the device cannot confirm is removed": (_tidies_up, 22, "was stored and is gone"),
}
"""Each fault, a seed that finds it, or comes before one that does, and what is found."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_purpose_is_found_and_its_replay_finds_it_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, seed, found = FAULTS[name]
    fault(monkeypatch)
    with pytest.raises(ViolationError, match=found) as violation:
        run_seeds(seed, seed + 400)
    replay = re.search(r"FIRST=(\d+) KIND=sync ONLY=([\d,]+|none)", str(violation.value))
    assert replay is not None
    only = [] if replay[2] == "none" else [int(n) for n in replay[2].split(",")]
    assert len(only) <= len(faults_of(setting_of(int(replay[1]))))
    with pytest.raises(ViolationError, match=found):
        run_seed(int(replay[1]), only)


# --- recovery after deaths ------------------------------------------------------------------------


def test_what_a_seed_chooses_of_deaths_costs_no_message_and_no_figure() -> None:
    assert run_recoveries(0, 150) == 150


def test_a_third_death_where_the_devices_file_changed_twice_costs_nothing() -> None:
    """What was to count once was counted twice by the mark of a commit that was done again."""
    run_recoveries(475, 476)


@pytest.mark.soak
@pytest.mark.timeout(20_000)
def test_the_same_for_a_hundred_thousand_seeds() -> None:
    run_recoveries(0, int(os.environ.get("EC_TEST_SEEDS", "100000")))


def _ignores_marks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(group_settlement, "_commit_in_doubt", lambda _: {})


def _ignores_the_spool(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(group_settlement, "spool_agreement", lambda *_: ({}, 0))


def _says_stored_of_what_it_drops(patch: pytest.MonkeyPatch) -> None:
    put = MemoryStore._put
    patch.setattr(
        MemoryStore, "_put", lambda store, row: None if row.batch.start_us == 3 else put(store, row)
    )


RECOVERY_FAULTS: dict[str, tuple[Fault, int, str]] = {
    "the database's mark is not asked for": (_ignores_marks, 33, "counted as stored"),
    "the spool is not looked at": (_ignores_the_spool, 0, "spooled for ever"),
    "a row that is called stored is not there": (_says_stored_of_what_it_drops, 0, "are gone"),
}


@pytest.mark.parametrize("name", RECOVERY_FAULTS)
def test_a_fault_of_recovery_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, seed, found = RECOVERY_FAULTS[name]
    fault(monkeypatch)
    with pytest.raises(ViolationError, match=found):
        run_recoveries(seed, seed + 400)


def test_the_same_seed_does_the_same() -> None:
    first, again = run_seed(3), run_seed(3)
    assert first.timeline.now_s == again.timeline.now_s
    assert [meter.seconds for meter in first.meters] == [meter.seconds for meter in again.meters]
    assert first.stated == again.stated
