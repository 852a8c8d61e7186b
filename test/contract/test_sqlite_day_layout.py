"""A day's file that this server did not leave so: its rows are taken over, or the file is set aside."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from contract.packed_suite import pack_all
from contract.store_suite import NOON, batch, check, run_of
from foreign_sqlite import by_hand

from ec_server.storage.sqlite_store import SqliteStore
from ec_server.storage.unpack import write_day
from utilities.model import MinuteState
from utilities.utc import DAY_S, day_of

NAME = "ec-20260301.sqlite"
OVERLAPPING = [run_of("m", NOON, 0), batch("m", NOON, {10: "2", 15: "2"}), run_of("other", NOON + 61, 0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A day with a proven, packed minute."""
    with SqliteStore(tmp_path / "data") as store:
        store.note_devices({"m": NOON * 1_000_000})
        for one in OVERLAPPING:
            store.ingest([one])
        check(store, "m", NOON, MinuteState.PROVEN)
        pack_all(store)
    return tmp_path / "data"


def is_taken_over(store: SqliteStore) -> None:
    """Everything is there, nothing is proven, and what comes is stored and packed as ever."""
    assert store.second_text("m", NOON) == "000000,1.5;000010,2;000015,2;000020,1.5;000030,1.5"
    assert store.row_counts("m", NOON, NOON + 120) == [(NOON, 2, 6)]
    assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
    store.ingest([run_of("m", NOON, 0), batch("m", NOON, {20: "3"})])
    assert store.row_counts("m", NOON, NOON + 120) == [(NOON, 3, 7)]
    before = store.second_text("m", NOON)
    assert "000020,3" in before
    pack_all(store)
    assert store.second_text("m", NOON) == before
    check(store, "m", NOON, MinuteState.PROVEN)
    assert store.unproven_ranges("m", NOON, NOON + 60) == []
    assert store.health().damage == ()


def test_a_plain_file_of_unpack_in_its_place_is_taken_over(folder: Path, tmp_path: Path) -> None:
    with SqliteStore(folder, read_only=True) as store:
        write_day(store, day_of(NOON), None, tmp_path / "plain")
    (tmp_path / "plain").replace(folder / NAME)
    with SqliteStore(folder) as store:
        is_taken_over(store)


@pytest.mark.parametrize("table", ["ec_minute", "ec_block_total", "ec_settled", "ec_checksum"])
def test_a_table_that_somebody_dropped_is_made_again(folder: Path, table: str) -> None:
    by_hand(folder / NAME, f"DROP TABLE {table}")
    with SqliteStore(folder) as store:
        is_taken_over(store)


def test_a_reader_passes_it_over_until_a_writer_has_taken_it_over(folder: Path) -> None:
    shutil.copy(folder / NAME, folder / "ec-20260302.sqlite")
    by_hand(folder / "ec-20260302.sqlite", "DROP TABLE ec_minute")
    with SqliteStore(folder, read_only=True) as reader:
        assert len(list(reader.rows("m", NOON, NOON + 2 * DAY_S))) == 2
        assert "ec-20260302.sqlite has not all tables" in reader.health().damage[0]


def test_a_file_of_something_else_is_set_aside_and_costs_its_day_only(folder: Path) -> None:
    other = folder / "ec-20260302.sqlite"
    by_hand(other, "CREATE TABLE ec_consumption (something TEXT)")
    with SqliteStore(folder) as store:
        store.ingest([run_of("m", NOON + DAY_S, 0)])
        assert store.second_text("m", NOON + DAY_S) == run_of("m", NOON + DAY_S, 0).values
        assert "ec-20260302.sqlite.damaged-1" in store.health().damage[0]
        assert len(list(store.rows("m", NOON, NOON + 60))) == 2
