"""Packing changes nothing that can be read, and nothing of what becomes of a second later."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.packed_suite import (
    AFTER,
    Inside,
    PackedSuite,
    any_course_of_events,
    everything,
    filled,
    pack_all,
)
from contract.store_suite import MIDNIGHT, NOON, batch, check, run_of
from foreign_sqlite import by_hand

from ec_server.packing.block import pack_columns
from ec_server.storage import sqlite_day_packing
from ec_server.storage.contract import Packed
from ec_server.storage.sqlite_day import DayFile
from ec_server.storage.sqlite_files import DayFiles
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import RetryableStorageError
from utilities.model import Batch, MinuteState, StoredRow

Opens = Callable[[], SqliteStore]


@pytest.fixture
def opens(tmp_path: Path) -> Iterator[Opens]:
    opened: list[SqliteStore] = []

    def another() -> SqliteStore:
        opened.append(SqliteStore(tmp_path))
        return opened[-1]

    yield another
    for store in opened:
        store.close()


@pytest.fixture
def store(opens: Opens) -> SqliteStore:
    return opens()


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    return lambda statement: by_hand(tmp_path / "ec-20260301.sqlite", statement)


def day_of(store: SqliteStore) -> DayFile:
    return store._folder.days.open(MIDNIGHT).file


class _Inside:
    """The day's file as another program sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, statement: str) -> list[dict[str, Any]]:
        return by_hand(self._path, statement)

    def count(self, table: str) -> int:
        return int(self(f"SELECT count(*) AS n FROM {table}")[0]["n"])

    def blocks(self) -> list[bytes]:
        found = self("SELECT hex(block) AS block FROM ec_block ORDER BY ec_time")
        return [bytes.fromhex(row["block"]) for row in found]

    def damage_blocks(self) -> None:
        self("UPDATE ec_block SET block = substr(block, 1, 80) || x'ff' || substr(block, 82)")

    def blocks_set_aside(self) -> int:
        return self.count("ec_block_replaced")

    def rest(self) -> None:
        """Nobody is in the middle of a transaction."""


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return _Inside(tmp_path / "ec-20260301.sqlite")


def count(foreign: Callable[[str], list[dict[str, Any]]], table: str) -> int:
    return int(foreign(f"SELECT count(*) AS n FROM {table}")[0]["n"])


class TestPacked(PackedSuite):
    @pytest.fixture
    def opens(self, opens: Opens) -> Opens:
        return opens

    @pytest.fixture
    def inside(self, inside: Inside) -> Inside:
        return inside


class TestProof:
    def test_proof_and_version_are_not_touched(self, store: SqliteStore, foreign) -> None:
        filled(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        before = foreign("SELECT version, state, digest_cached, check_times FROM ec_minute")
        pack_all(store)
        assert foreign("SELECT version, state, digest_cached, check_times FROM ec_minute") == before
        assert store.unproven_ranges("m", NOON, NOON + 60) == []


class TestWhatComesLater:
    def test_a_clock_that_steps_back_does_not_let_packed_rows_win(
        self, store: SqliteStore, opens: Opens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled(store)
        pack_all(store)
        monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000)
        opens().ingest([batch("m", NOON, {10: "9", 15: "9"})])
        assert store.second_text("m", NOON).startswith("000000,1.5;000010,9;000015,9;")


class TestOtherPrograms:
    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM ec_block WHERE ec_time = '120005'",
            "UPDATE ec_block SET ec_time = '120006' WHERE ec_time = '120005'",
            "UPDATE ec_block SET block = x'00' WHERE ec_time = '120005'",
            "INSERT INTO ec_block SELECT device_id, ec_date, '120007', 1, 4, block FROM ec_block LIMIT 1",
        ],
    )
    def test_a_changed_block_removes_proof_and_digests(
        self, store: SqliteStore, foreign, statement: str
    ) -> None:
        filled(store)
        pack_all(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        foreign(statement)
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        found = store.stored_bytes()
        assert found.blocks == foreign("SELECT sum(length(block)) AS n FROM ec_block")[0]["n"]

    def test_a_row_inserted_where_all_is_packed_ranks_last(self, store: SqliteStore, foreign) -> None:
        filled(store)
        pack_all(store)
        text, md5 = "000010,4;000011,4", batch("m", NOON, {10: "4", 11: "4"}).checksum
        foreign(
            "INSERT INTO ec_consumption VALUES ('m', '20260301', '120000', '000010', '000011',"
            f" '{text}', 2, '{md5}', '2026-03-01T12:00:01.000000+00:00')"
        )
        assert store.second_text("m", NOON).startswith("000000,1.5;000010,4;000011,4;000020,1.5;")
        before = everything(store)
        assert pack_all(store).rows == 1
        assert everything(store) == before

    def test_rows_of_another_form_stay_rows(self, store: SqliteStore, foreign) -> None:
        filled(store)
        foreign("UPDATE ec_consumption SET insert_time = '2026-03-01 12:00:01' WHERE ec_time = '120005'")
        foreign("UPDATE ec_consumption SET values_checksum = 'damaged' WHERE start_us = '001000'")
        before = foreign("SELECT * FROM ec_consumption WHERE ec_time = '120005' OR start_us = '001000'")
        assert pack_all(store) == Packed(rows=2, samples=8, left=2)
        assert foreign("SELECT * FROM ec_consumption") == before
        assert store.unpacked_minutes(AFTER, 10) == []

    @pytest.mark.parametrize(
        "change",
        [
            "ec_consumption_values = CAST(ec_consumption_values AS BLOB)",
            "ec_consumption_values = ''",
            "ec_consumption_values = ec_consumption_values || char(228)",
            "values_count = CAST(values_count AS TEXT) || 'x'",
            "values_count = values_count + 1",
            "values_checksum = upper(values_checksum)",
            "values_checksum = values_checksum || '0'",
            "values_checksum = CAST(values_checksum AS BLOB)",
            "insert_time = replace(insert_time, '+00:00', 'Z')",
            "insert_time = replace(insert_time, '+00:00', '-00:00')",
            "insert_time = replace(insert_time, '.', ',')",
            "insert_time = substr(insert_time, 1, 20) || ' 1234' || substr(insert_time, 26)",
            "insert_time = CAST(insert_time AS BLOB)",
            "start_us = '1000'",
            "start_us = CAST('001000' AS BLOB)",
            "start_us = ' 01000'",
            "end_us = '001061'",
        ],
    )
    def test_a_row_of_any_other_form_stays_as_it_is_and_the_others_are_packed(
        self, store: SqliteStore, foreign, change: str
    ) -> None:
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON, 1000), run_of("m", NOON, 2000)])
        foreign(f"UPDATE ec_consumption SET {change} WHERE start_us = '001000'")
        columns = [
            "start_us",
            "end_us",
            "ec_consumption_values",
            "values_count",
            "values_checksum",
            "insert_time",
        ]
        quoted = ", ".join(f"quote({column})" for column in columns)
        statement = f"SELECT {quoted} FROM ec_consumption ORDER BY rowid"
        before = foreign(statement)[1]
        assert pack_all(store) == Packed(rows=2, samples=8, left=1)
        assert foreign(statement) == [before]

    def test_rows_are_packed_to_the_same_block_in_columns_and_one_by_one(
        self, store: SqliteStore, foreign, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches = [run_of("m", NOON, start) for start in (5000, 0, 1000, 3000)]
        store.ingest(batches[:2])
        store.ingest(batches[2:])
        store.replay([StoredRow(run_of("m", NOON, 7000), NOON * 1_000_000, 2**40)])
        columns = sqlite_day_packing.columns_of(day_of(store), "m", "120000")
        assert columns is not None
        in_columns = pack_columns(columns.columns)
        assert in_columns is not None
        monkeypatch.setattr(sqlite_day_packing, "columns_of", lambda *_: None)
        pack_all(store)
        assert foreign("SELECT hex(block) AS block FROM ec_block") == [{"block": in_columns.hex().upper()}]

    def test_rows_inserted_over_many_seconds_keep_their_insert_times(self, store: SqliteStore) -> None:
        moments = [NOON * 1_000_000 + i * 700_001 for i in range(10)]
        rows = [StoredRow(run_of("m", NOON, 100 * i), at, at) for i, at in enumerate(moments)]
        store.replay(rows)
        pack_all(store)
        assert list(store.rows("m", NOON, NOON + 1)) == rows


class TestSpace:
    def test_space_is_used_again_and_returned_when_the_day_is_over(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "ec-20260301.sqlite"

        def size() -> int:
            store.close()
            return path.stat().st_size

        for minute in range(5):
            store.ingest([_full(NOON + 60 * minute, start) for start in range(0, 900_000, 1000)])
        full = size()
        pack_all(store)
        assert size() <= full * 1.1
        for minute in range(5, 9):
            store.ingest([_full(NOON + 60 * minute, start) for start in range(0, 900_000, 1000)])
        assert size() <= full * 1.2
        pack_all(store)
        while store.return_space(AFTER):
            pass
        assert size() < full / 3

    def test_a_day_that_is_over_and_packed_is_not_opened_again_until_it_changes(
        self, store: SqliteStore, opens: Opens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled(store)
        pack_all(store)
        while store.return_space(AFTER):
            pass
        assert store.count_unpacked(AFTER) == 0
        opened: list[int] = []
        open_day = DayFiles.open
        monkeypatch.setattr(DayFiles, "open", lambda self, day: opened.append(day) or open_day(self, day))
        for _ in range(2):
            assert (store.count_unpacked(AFTER), store.unpacked_minutes(AFTER, 10)) == (0, [])
            assert not store.return_space(AFTER)
            store.stored_bytes()
        assert opened.count(MIDNIGHT) <= 1  # for the bytes
        opens().ingest([run_of("m", NOON, 5000)])
        assert store.unpacked_minutes(AFTER, 10) == [("m", NOON)]
        assert pack_all(store).rows == 1

    def test_the_log_of_a_day_that_is_over_is_emptied_once_nobody_reads(
        self, store: SqliteStore, opens: Opens, tmp_path: Path
    ) -> None:
        store.ingest([_full(NOON, start) for start in range(0, 200_000, 1000)])
        pack_all(store)
        log = tmp_path / "ec-20260301.sqlite-wal"
        reader = opens()._folder.days.open(MIDNIGHT).file.db
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ec_block").fetchall()
        while store.return_space(AFTER):
            pass
        assert log.stat().st_size > 0
        reader.execute("COMMIT")
        store.return_space(AFTER)
        assert log.stat().st_size == 0

    def test_packing_works_on_a_disk_that_is_too_full_for_rows(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        filled(store)
        with SqliteStore(tmp_path, min_free_bytes=2**60) as full:
            with pytest.raises(RetryableStorageError):
                full.ingest([run_of("m", NOON, 5000)])
            assert pack_all(full).rows == 4

    def test_bytes_of_rows_and_blocks_are_reported(self, store: SqliteStore) -> None:
        store.ingest([_full(NOON, start) for start in range(0, 900_000, 1000)])
        before = store.stored_bytes()
        pack_all(store)
        after = store.stored_bytes()
        assert before.blocks == 0
        assert 0 < after.blocks < before.rows / 5
        assert after.rows < before.rows / 5


def _full(second: int, start_us: int) -> Batch:
    choose = random.Random(start_us)
    values = [f"{choose.uniform(0, 1000):.3f}" for _ in range(44)]
    return batch("m", second, {start_us + 20 * i: value for i, value in enumerate(values)})


@pytest.mark.parametrize("seed", range(1, 40))
def test_any_sequence_of_events_has_the_same_result_with_packing_as_without(
    opens: Opens, inside: Inside, seed: int
) -> None:
    any_course_of_events(opens(), inside, seed)
