"""The SQLite engine keeps the storage contract, and the promises of docs/storage.md beyond it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.store_suite import MIDNIGHT, NOON, Opens, StoreSuite, check, expected_second, run_of
from foreign_sqlite import by_hand

from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import PermanentStorageError, RetryableStorageError, StorageError
from utilities.model import CommitMark, MinuteState

Foreign = Callable[[str], list[dict[str, Any]]]


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
def foreign(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The day's file in somebody else's SQLite tool."""
    return lambda statement: by_hand(tmp_path / "ec-20260301.sqlite", statement)


class TestSqliteStore(StoreSuite):
    @pytest.fixture
    def opens(self, opens: Opens) -> Opens:
        return opens


class TestDuplicates:
    def test_a_duplicate_is_told_from_a_stored_batch(self, opens: Opens) -> None:
        store = opens()
        store.write([run_of("m", NOON, 0)])
        result = store.write([run_of("m", NOON, 0), run_of("m", NOON, 1000), run_of("m", NOON, 1000)])
        assert result.changed == (False, True, False)
        assert (result.stored, result.duplicate) == (1, 2)

    def test_two_batches_of_one_key_become_one_row_that_holds_both(self, opens: Opens) -> None:
        from contract.store_suite import batch

        store = opens()
        store.write([batch("m", NOON, {0: "1", 5: "1", 10: "1"})])
        result = store.write([batch("m", NOON, {0: "2", 7: "2", 10: "1"})])
        assert result.changed == (True,)
        assert store.second_text("m", NOON) == "000000,2;000005,1;000007,2;000010,1"
        assert store.row_counts("m", NOON, NOON + 60) == [(NOON, 1, 4)]


class TestChangesByHand:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ec_consumption SET ec_consumption_values = replace(ec_consumption_values, '1.5', '9')",
            "DELETE FROM ec_consumption WHERE ec_time = '120001'",
            "INSERT INTO ec_consumption VALUES ('m', '20260301', '120001', '000500', '000500',"
            " '000500,3', 1, 'x', '2026-03-01T12:00:01.000000+00:00')",
            "INSERT OR REPLACE INTO ec_consumption SELECT device_id, ec_date, ec_time, start_us, end_us,"
            " '000000,7;000030,7', 2, 'x', insert_time FROM ec_consumption WHERE ec_time = '120001'",
        ],
    )
    def test_another_program_s_change_takes_digest_and_proof_away(
        self, opens: Opens, foreign: Foreign, statement: str
    ) -> None:
        store = opens()
        store.note_devices({"m": 1})
        store.write([run_of("m", NOON, 0), run_of("m", NOON + 1, 0), run_of("m", NOON + 60, 0)])
        before = dict(store.minute_digests("m", NOON, NOON + 120))
        for minute in (NOON, NOON + 60):
            check(store, "m", minute, MinuteState.PROVEN)
        store.record_progress("m", NOON, NOON + 120)
        foreign(statement + (" WHERE ec_time < '120100'" if statement.startswith("UPDATE") else ""))
        after = dict(store.minute_digests("m", NOON, NOON + 120))
        assert after[NOON] != before[NOON]
        assert after[NOON + 60] == before[NOON + 60]
        assert after == dict(store.minute_digests("m", NOON, NOON + 120, from_rows=True))
        assert store.unproven_ranges("m", NOON, NOON + 120) == [(NOON, NOON + 60)]
        record = store.device("m")
        assert record is not None
        assert record.verified_through == NOON

    def test_rubbish_in_a_row_is_read_past_and_can_be_repaired(self, opens: Opens, foreign: Foreign) -> None:
        store = opens()
        store.write([run_of("m", NOON, 0)])
        foreign("UPDATE ec_consumption SET ec_consumption_values = 'what?;12,3;000010,1.5;é'")
        assert store.second_text("m", NOON) == "000010,1.5"
        store.write([run_of("m", NOON, 0)])
        assert store.second_text("m", NOON) == run_of("m", NOON, 0).values

    def test_a_day_file_that_was_taken_away_is_unproven_again(self, opens: Opens, tmp_path: Path) -> None:
        store = opens()
        store.note_devices({"m": 1})
        store.write([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        store.record_progress("m", NOON, NOON + 60)
        for name in tmp_path.glob("ec-20260301.sqlite*"):
            name.unlink()
        assert opens().unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]


class TestFiles:
    def test_the_tables_and_columns_are_those_of_the_contract(self, opens: Opens, foreign: Foreign) -> None:
        opens().write([run_of("m", NOON + 3723, 40)])
        (row,) = foreign("SELECT * FROM ec_consumption")
        inserted = row.pop("insert_time")
        assert row == {
            "device_id": "m",
            "ec_date": "20260301",
            "ec_time": "130203",
            "start_us": "000040",
            "end_us": "000070",
            "ec_consumption_values": "000040,1.5;000050,1.5;000060,1.5;000070,1.5",
            "values_count": 4,
            "values_checksum": run_of("m", NOON, 40).checksum,
        }
        assert len(inserted) == len("2026-03-01T12:00:00.000000+00:00")

    def test_cached_digests_stand_in_ec_checksum(self, opens: Opens, foreign: Foreign) -> None:
        store = opens()
        store.write([run_of("m", NOON + 5, 0)])
        (_, minute), *_ = store.minute_digests("m", NOON, NOON + 60)
        second = expected_second(dict.fromkeys((0, 10, 20, 30), "1.5"))
        rows = [tuple(row.values()) for row in foreign("SELECT * FROM ec_checksum ORDER BY ec_type")]
        assert rows == [
            ("m", "20260301", "120000", "P", 4, minute.md5, None, 0),
            ("m", "20260301", "120005", "S", 4, second.md5, None, 0),
        ]
        check(store, "m", NOON, MinuteState.PROVEN)
        checked = foreign("SELECT check_time, check_times FROM ec_checksum")
        assert checked == [{"check_time": "1970-01-01T00:00:05.000000+00:00", "check_times": 1}] * 2

    def test_a_read_only_store_makes_nothing(self, tmp_path: Path) -> None:
        with SqliteStore(tmp_path / "absent", read_only=True) as store:
            assert store.devices() == []
            assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
            assert store.minutes("m", NOON, NOON + 60) == []
        assert list(tmp_path.iterdir()) == []

    def test_a_read_only_store_computes_and_keeps_nothing(
        self, opens: Opens, tmp_path: Path, foreign: Foreign
    ) -> None:
        opens().write([run_of("m", NOON, 0)])
        with SqliteStore(tmp_path, read_only=True) as store:
            assert store.minute_digests("m", NOON, NOON + 60)[0][1].count == 4
        assert foreign("SELECT count(*) AS n FROM ec_checksum") == [{"n": 0}]

    def test_a_closed_file_holds_everything_itself_though_somebody_reads(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        writer, copy = SqliteStore(tmp_path), tmp_path / "copy"
        writer.write([run_of("m", NOON, 0)])
        with SqliteStore(tmp_path, read_only=True) as reader:
            assert reader.second_text("m", NOON)
            writer.close()
            copy.mkdir()
            shutil.copy(tmp_path / "ec-20260301.sqlite", copy)
        with SqliteStore(copy, read_only=True) as moved:
            assert moved.second_text("m", NOON) == run_of("m", NOON, 0).values

    def test_a_commit_mark_goes_with_its_rows(self, opens: Opens) -> None:
        store = opens()
        store.write([run_of("m", NOON, 0)], CommitMark("receiver-0", 7))
        store.write([run_of("m", NOON, 0), run_of("m", NOON, 90)], CommitMark("receiver-0", 8))
        assert opens().committed_mark(MIDNIGHT, "receiver-0") == (8, 1, 1)
        assert opens().committed_mark(MIDNIGHT, "receiver-1") is None


class TestFailures:
    def test_too_little_free_space_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        with SqliteStore(tmp_path, min_free_bytes=2**62) as store:
            with pytest.raises(RetryableStorageError, match="min_free_mb"):
                store.write([run_of("m", NOON, 0)])
            assert not store.health().writable

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "ec-20260301.sqlite").write_bytes(b"not a database" * 1000)
        with SqliteStore(tmp_path) as store, pytest.raises(PermanentStorageError, match="ec-20260301"):
            store.write([run_of("m", NOON, 0)])

    def test_a_failed_write_leaves_nothing(self, opens: Opens, foreign: Foreign) -> None:
        store = opens()
        store.write([run_of("m", NOON, 0)])
        # The last statement of the transaction fails, so everything before it must be undone.
        foreign("DROP TABLE ec_writer")
        with pytest.raises(StorageError):
            store.write([run_of("m", NOON, 1000)], CommitMark("receiver-0", 1))
        assert store.second_text("m", NOON) == run_of("m", NOON, 0).values

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PermanentStorageError, match=r"storage\.path"):
            SqliteStore(tmp_path / "file" / "data")
