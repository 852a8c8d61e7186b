"""Data that version 1.0.0 wrote is opened, migrated in place, and neither loses nor gains proof."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from contract.store_suite import NOON, batch, run_of
from foreign_sqlite import by_hand

from ec_server.storage.contract import Packed, Store
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import MinuteState
from utilities.utc import DAY_S

DATA = Path(__file__).parents[1] / "data"
_MAKE = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())"


def make(path: Path, script: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", _MAKE, path], input=script.read_text("utf-8"), text=True, check=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Minute by minute from noon: proven, unresolved, empty, proven."""
    make(tmp_path / "ec-20260301.sqlite", DATA / "layout_1_ec.sql")
    make(tmp_path / "progress.db", DATA / "layout_1_progress.sql")
    return tmp_path


def is_as_it_was(store: Store) -> None:
    assert [row.batch for row in store.rows("m", NOON, NOON + 60)] == [
        run_of("m", NOON, 0),
        batch("m", NOON, {10: "2", 15: "2"}),
    ]
    assert store.second_text("m", NOON) == "000000,1.5;000010,2;000015,2;000020,1.5;000030,1.5"
    assert store.unproven_ranges("m", NOON, NOON + 300) == [
        (NOON + 60, NOON + 120),
        (NOON + 240, NOON + 300),
    ]
    states = [(r.minute - NOON, r.state, r.extra) for r in store.minutes("m", NOON, NOON + 300)]
    assert states == [
        (0, MinuteState.PROVEN, 1),
        (60, MinuteState.UNRESOLVED, 0),
        (120, MinuteState.EMPTY, 0),
        (180, MinuteState.PROVEN, 0),
    ]
    record = store.device("m")
    assert record is not None
    assert (record.covered_from, record.verified_through) == (NOON, NOON + 60)
    assert (record.unresolved_minutes, record.empty_minutes, record.extra) == (1, 1, 1)


def test_it_is_read_as_it_is(folder: Path) -> None:
    with SqliteStore(folder, read_only=True) as store:
        is_as_it_was(store)
    assert by_hand(folder / "ec-20260301.sqlite", "PRAGMA user_version") == [{"user_version": 1}]


def test_it_is_migrated_in_place_with_its_proof(folder: Path) -> None:
    with SqliteStore(folder) as store:
        is_as_it_was(store)
    with SqliteStore(folder, read_only=True) as store:
        is_as_it_was(store)


def test_new_rows_rank_above_those_of_the_old_layout(folder: Path) -> None:
    with SqliteStore(folder) as store:
        store.ingest([batch("m", NOON, {15: "3"})])
        store.repair([batch("m", NOON, {10: "4", 15: "4"})])
        assert store.second_text("m", NOON) == "000000,1.5;000010,4;000015,4;000020,1.5;000030,1.5"
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]


def test_an_old_file_restored_after_the_migration_proves_nothing(folder: Path) -> None:
    with SqliteStore(folder) as store:
        store.ingest([run_of("m", NOON + 600, 0)])
    path = folder / "ec-20260301.sqlite"
    path.unlink()
    make(path, DATA / "layout_1_ec.sql")
    for read_only in (True, False):
        with SqliteStore(folder, read_only=read_only) as store:
            assert store.unproven_ranges("m", NOON, NOON + 300) == [(NOON, NOON + 300)]


AFTER = NOON + 3 * DAY_S


def pack_all(store: SqliteStore) -> Packed:
    total = Packed()
    for device_id, minute in store.unpacked_minutes(AFTER, 1000):
        total += store.pack_minute(device_id, minute)
    while store.return_space(AFTER):
        pass
    return total


def test_it_is_packed_in_place_with_its_proof_and_order(folder: Path) -> None:
    path = folder / "ec-20260301.sqlite"
    with SqliteStore(folder) as store:
        before = [list(store.rows("m", NOON, NOON + 300)), store.minute_digests("m", NOON, NOON + 300)]
        assert pack_all(store).left == 0
        is_as_it_was(store)
        assert [
            list(store.rows("m", NOON, NOON + 300)),
            store.minute_digests("m", NOON, NOON + 300, from_rows=True),
        ] == before
    assert by_hand(path, "SELECT count(*) AS n FROM ec_consumption") == [{"n": 0}]
    with SqliteStore(folder) as store:
        is_as_it_was(store)
        store.ingest([batch("m", NOON, {15: "3"})])
        store.repair([batch("m", NOON, {10: "4", 15: "4"})])
        assert store.second_text("m", NOON) == "000000,1.5;000010,4;000015,4;000020,1.5;000030,1.5"
        pack_all(store)
        assert store.second_text("m", NOON) == "000000,1.5;000010,4;000015,4;000020,1.5;000030,1.5"


def test_its_space_is_returned_and_rows_that_stay_keep_their_rank(folder: Path) -> None:
    path = folder / "ec-20260301.sqlite"
    with SqliteStore(folder) as store:
        store.ingest([run_of("m", NOON + 600, 1000 * i, value="7.25") for i in range(900)])
    by_hand(path, "UPDATE ec_consumption SET insert_time = 'then' WHERE start_us IN ('000000', '005000')")
    statement = "SELECT rowid AS rank, ec_time, start_us FROM ec_consumption WHERE insert_time = 'then'"
    before, size = by_hand(path, statement), path.stat().st_size
    with SqliteStore(folder) as store:
        pack_all(store)
    assert len(before) >= 2
    assert by_hand(path, statement) == before
    assert path.stat().st_size < size / 2
    assert by_hand(path, "PRAGMA auto_vacuum") == [{"auto_vacuum": 2}]
    assert by_hand(path, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
