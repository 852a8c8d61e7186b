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


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ec_minute SET state = 'none' WHERE device_id = 'other'",
        "UPDATE ec_checksum SET ec_time = '12000x'",
        "UPDATE ec_settled SET start = 'x'",
        "UPDATE ec_block_total SET last_rowid = 'x'",
        "DELETE FROM ec_block_total",
        "DELETE FROM ec_file",
    ],
)
def test_what_is_kept_of_rows_and_makes_no_sense_is_made_again_from_them(
    folder: Path, statement: str
) -> None:
    by_hand(folder / NAME, statement)
    with SqliteStore(folder) as store:
        assert [record.device_id for record in store.devices()] == ["m"]
        store.ingest([run_of("another", NOON, 0)])
        for device_id in ("m", "other", "another"):
            assert store.earliest_minute(device_id)
            assert store.checks(device_id, NOON)
            for minute, _, _ in store.row_counts(device_id, NOON, NOON + 120):
                check(store, device_id, minute, MinuteState.PROVEN)  # makes it again, at the latest
                check(store, device_id, minute, MinuteState.PROVEN)
                assert store.unproven_ranges(device_id, minute, minute + 60) == []
        assert store.row_counts("other", NOON, NOON + 120) == [(NOON + 60, 1, 4)]
        pack_all(store)


@pytest.mark.parametrize("table", ["ec_consumption", "ec_block"])
def test_a_row_whose_time_is_none_costs_no_other(folder: Path, table: str) -> None:
    with SqliteStore(folder) as store:
        store.ingest([run_of("m", NOON + 5, 0), run_of("m", NOON + 6, 0)])
        if table == "ec_block":
            pack_all(store)
    by_hand(folder / NAME, f"UPDATE {table} SET ec_time = '12000x' WHERE ec_time = '120005'")
    with SqliteStore(folder) as store:
        assert [second for second, _ in store.second_digests("m", NOON)] == [NOON, NOON + 6]
        assert store.second_text("m", NOON + 6) == run_of("m", NOON + 6, 0).values
        assert {row.batch.second for row in store.rows("m", NOON, NOON + 60)} == {NOON, NOON + 6}
        store.repair([run_of("m", NOON + 5, 0)])
        pack_all(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        assert len(store.second_digests("m", NOON, from_rows=True)) == 3
