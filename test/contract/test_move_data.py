"""What moves between engines: everything, in the same order, with the same proof; what does not is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.store_suite import MIDNIGHT, NOON, batch, check, run_of
from foreign_sqlite import by_hand

from ec_server.storage import move_data
from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.move_data import _move
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import MinuteState, StoredRow
from utilities.utc import DAY_S

YEAR_S = 365 * DAY_S
Moves = Callable[..., tuple[int, str]]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "here") as store:
        yield store


@pytest.fixture(params=["memory", "sqlite"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "there") as store:
        yield store


@pytest.fixture
def moves(source: SqliteStore, target: Store, capsys: pytest.CaptureFixture[str]) -> Moves:
    def move(*devices: str, first: int = 0, last: int = move_data._END) -> tuple[int, str]:
        code = _move(source, target, list(devices) or None, first, last)
        return code, capsys.readouterr().err

    return move


def rows_of(store: Store) -> list[StoredRow]:
    return list(store.rows("m", 0, NOON + 2 * YEAR_S))


def test_rows_keep_their_order_where_the_clock_stepped_back(
    source: SqliteStore, target: Store, moves: Moves
) -> None:
    early, late = batch("m", NOON, {0: "1", 9: "1"}), batch("m", NOON, {0: "2", 8: "2"})
    source.replay([StoredRow(early, 9_000_000, 1), StoredRow(late, 1_000_000, 2)])
    code, said = moves()
    assert (code, "0 minutes differ" in said) == (0, True), said
    assert rows_of(target) == rows_of(source) == [(early, 9_000_000, 1), (late, 1_000_000, 2)]
    assert target.second_text("m", NOON) == "000000,2;000008,2;000009,1"


def test_a_repeated_run_moves_nothing(source: SqliteStore, moves: Moves) -> None:
    source.ingest([run_of("m", NOON, 0), run_of("m", NOON + 60, 0)])
    source.ingest([run_of("m", NOON, 0, value="2")])
    assert "2 rows moved" in moves()[1]
    code, said = moves()
    assert (code, "0 rows moved" in said) == (0, True), said


def test_what_was_replaced_moves_along(source: SqliteStore, target: Store, moves: Moves) -> None:
    source.ingest([run_of("m", NOON, 0)])
    source.ingest([run_of("m", NOON, 0, value="2")])
    source.repair([run_of("m", NOON, 0, value="3")])
    assert moves()[0] == 0
    assert moves()[0] == 0
    kept = target.replaced_rows("m", NOON, NOON + 60)
    assert [(one.row.batch, one.reason) for one in kept] == [
        (run_of("m", NOON, 0), "message"),
        (run_of("m", NOON, 0, value="2"), "repair"),
    ]
    assert kept == source.replaced_rows("m", NOON, NOON + 60)
    assert target.ingest([run_of("m", NOON, 0, value="2")]).changed == (False,)
    assert target.second_text("m", NOON) == run_of("m", NOON, 0, value="3").values


def test_days_in_the_future_move_too(source: SqliteStore, target: Store, moves: Moves) -> None:
    source.note_devices({"m": NOON * 1_000_000})
    source.ingest([run_of("m", NOON, 0)])
    source.ingest([run_of("m", NOON + YEAR_S, 0)])
    assert moves()[0] == 0
    assert target.second_text("m", NOON + YEAR_S) == run_of("m", NOON, 0).values


def test_a_device_that_is_not_on_record_moves_too(source: SqliteStore, target: Store, moves: Moves) -> None:
    source.ingest([run_of("m", NOON, 0)])
    assert source.devices() == []
    assert moves()[0] == 0
    assert target.second_text("m", NOON) == run_of("m", NOON, 0).values


def test_proof_coverage_and_empty_minutes_move_along(
    source: SqliteStore, target: Store, moves: Moves
) -> None:
    source.note_devices({"m": NOON * 1_000_000})
    source.ingest([run_of("m", NOON, 0)])
    check(source, "m", NOON, MinuteState.PROVEN, extra=3)
    for minute in (NOON - 60, NOON + 60, NOON + 2 * DAY_S):
        check(source, "m", minute, MinuteState.EMPTY)
    source.note_coverage("m", NOON - 60)
    assert moves()[0] == 0
    span = ("m", NOON - 60, NOON + 3 * DAY_S)
    assert target.unproven_ranges(*span) == source.unproven_ranges(*span)
    assert target.unproven_ranges("m", NOON - 60, NOON + 120) == []
    assert target.ranges_in(*span, [MinuteState.EMPTY]) == source.ranges_in(*span, [MinuteState.EMPTY])
    for mine, theirs in zip(source.devices(), target.devices(), strict=True):
        assert mine == theirs


def test_a_minute_that_differs_is_reported_and_not_proven(
    source: SqliteStore, target: Store, moves: Moves
) -> None:
    source.ingest([run_of("m", NOON, 0)])
    check(source, "m", NOON, MinuteState.PROVEN)
    target.ingest([run_of("m", NOON, 5000)])
    code, said = moves()
    assert code == 1
    assert "m 202603011200: source 4 samples" in said
    assert target.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]


def test_an_unknown_device_is_reported(source: SqliteStore, moves: Moves) -> None:
    source.ingest([run_of("m", NOON, 0)])
    code, said = moves("m", "n")
    assert code == 1
    assert "left out: device n: the source has no data of it" in said


def test_days_outside_the_chosen_ones_are_counted(source: SqliteStore, target: Store, moves: Moves) -> None:
    for day in range(3):
        source.ingest([run_of("m", NOON + day * DAY_S, 0)])
    code, said = moves(first=MIDNIGHT + DAY_S, last=MIDNIGHT + DAY_S)
    assert code == 0
    assert "left out: 2 days outside --since and --until" in said
    assert target.stored_days() == [("m", MIDNIGHT + DAY_S)]


def test_a_damaged_file_is_reported_and_costs_only_its_day(tmp_path: Path, target: Store, capsys) -> None:
    folder = tmp_path / "here"
    with SqliteStore(folder) as store:
        store.ingest([run_of("m", NOON, 0)])
        store.ingest([run_of("m", NOON + DAY_S, 0)])
    (folder / "ec-20260302.sqlite").write_bytes(b"not a database" * 1000)
    with SqliteStore(folder, read_only=True) as source:
        assert _move(source, target, None, 0, move_data._END) == 1
    assert "left out because of damage: ec-20260302.sqlite" in capsys.readouterr().err
    assert target.stored_days() == [("m", MIDNIGHT)]


def test_a_damaged_row_is_reported_and_left_out(
    source: SqliteStore, target: Store, tmp_path: Path, moves: Moves
) -> None:
    source.ingest([run_of("m", NOON, 0), run_of("m", NOON + 60, 0)])
    by_hand(
        tmp_path / "here" / "ec-20260301.sqlite",
        "UPDATE ec_consumption SET ec_consumption_values = 'what?;12,3' WHERE ec_time = '120000'",
    )
    code, said = moves()
    assert code == 1
    assert "left out because of damage: ec-20260301.sqlite" in said
    assert [row.batch for row in rows_of(target)] == [run_of("m", NOON + 60, 0)]
