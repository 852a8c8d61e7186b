"""The SQLite engine keeps the storage contract, and the promises of docs/storage.md beyond it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from contract.store_suite import (
    MIDNIGHT,
    NOON,
    Opens,
    StoreSuite,
    batch,
    check,
    expected_second,
    run_of,
)
from foreign_sqlite import by_hand

from ec_server.storage.contract import FinishedMinute
from ec_server.storage.sqlite_files import DayFiles
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import DamagedFileError, PermanentStorageError, RetryableStorageError, StorageError
from utilities.model import CommitMark, Digest, MinuteState
from utilities.utc import DAY_S

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


def copy_rows(source: Path, target: Path) -> None:
    """As SQLite's ``.backup`` and ``.restore`` do, from one file that may be in use into another."""
    with (
        closing(apsw.Connection(str(source))) as one,
        closing(apsw.Connection(str(target))) as other,
        other.backup("main", one, "main") as backup,
    ):
        backup.step()


class TestSqliteStore(StoreSuite):
    @pytest.fixture
    def opens(self, opens: Opens) -> Opens:
        return opens


class TestDuplicates:
    def test_a_duplicate_is_distinguished_from_a_stored_batch(self, opens: Opens) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0)])
        result = store.ingest([run_of("m", NOON, 0), run_of("m", NOON, 1000), run_of("m", NOON, 1000)])
        assert result.changed == (False, True, False)
        assert (result.stored, result.duplicate) == (1, 2)

    def test_two_batches_of_one_key_become_one_row_that_holds_both(self, opens: Opens) -> None:
        store = opens()
        store.ingest([batch("m", NOON, {0: "1", 5: "1", 10: "1"})])
        result = store.ingest([batch("m", NOON, {0: "2", 7: "2", 10: "1"})])
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
    def test_another_program_s_change_removes_digest_and_proof(
        self, opens: Opens, foreign: Foreign, statement: str
    ) -> None:
        store = opens()
        store.note_devices({"m": 1})
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON + 1, 0), run_of("m", NOON + 60, 0)])
        before = dict(store.minute_digests("m", NOON, NOON + 120))
        for minute in (NOON, NOON + 60):
            check(store, "m", minute, MinuteState.PROVEN)
        store.note_coverage("m", NOON)
        foreign(statement + (" WHERE ec_time < '120100'" if statement.startswith("UPDATE") else ""))
        after = dict(store.minute_digests("m", NOON, NOON + 120))
        assert after[NOON] != before[NOON]
        assert after[NOON + 60] == before[NOON + 60]
        assert after == dict(store.minute_digests("m", NOON, NOON + 120, from_rows=True))
        assert store.unproven_ranges("m", NOON, NOON + 120) == [(NOON, NOON + 60)]
        record = store.device("m")
        assert record is not None
        assert record.verified_through == NOON

    def test_rubbish_in_a_row_is_skipped_and_can_be_repaired(self, opens: Opens, foreign: Foreign) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0)])
        foreign("UPDATE ec_consumption SET ec_consumption_values = 'what?;12,3;000010,1.5;é'")
        assert store.second_text("m", NOON) == "000010,1.5"
        store.ingest([run_of("m", NOON, 0)])
        assert store.second_text("m", NOON) == run_of("m", NOON, 0).values

    def test_a_day_file_that_was_taken_away_is_unproven_again(self, opens: Opens, tmp_path: Path) -> None:
        store = opens()
        store.note_devices({"m": 1})
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        store.note_coverage("m", NOON)
        for name in tmp_path.glob("ec-20260301.sqlite*"):
            name.unlink()
        assert opens().unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]


class TestFilesThatGoBack:
    """A verdict is worth what the file is: rows that go take it along."""

    @pytest.fixture
    def proven(self, tmp_path: Path) -> Path:
        """A day file with one proven minute, kept as a backup; afterwards more comes, and is proven."""
        path, backup = tmp_path / "ec-20260301.sqlite", tmp_path / "backup"
        with SqliteStore(tmp_path) as store:
            store.note_devices({"m": 1})
            store.note_coverage("m", NOON)
            store.ingest([run_of("m", NOON, 0)])
            check(store, "m", NOON, MinuteState.PROVEN)
            check(store, "m", NOON + 60, MinuteState.EMPTY)
        shutil.copy(path, backup)
        with SqliteStore(tmp_path) as store:
            store.ingest([run_of("m", NOON, 5000)])
            check(store, "m", NOON, MinuteState.PROVEN)
            store.ingest([run_of("m", NOON + 60, 0)])
            check(store, "m", NOON + 60, MinuteState.PROVEN)
            assert store.unproven_ranges("m", NOON, NOON + 120) == []
        return backup

    def test_an_older_file_that_was_restored_proves_nothing(
        self, opens: Opens, tmp_path: Path, proven: Path
    ) -> None:
        shutil.copy(proven, tmp_path / "ec-20260301.sqlite")
        store = opens()
        assert store.unproven_ranges("m", NOON, NOON + 120) == [(NOON, NOON + 120)]
        record = store.device("m")
        assert record is not None
        assert record.verified_through == NOON
        assert [(r.minute, r.state) for r in store.minutes("m", NOON, NOON + 120)] == [(NOON, None)]

    @pytest.mark.parametrize("goes_on", [False, True])
    def test_one_that_was_restored_while_its_writer_was_at_work_has_no_digest_of_rows_that_it_lost(
        self, opens: Opens, tmp_path: Path, goes_on: bool
    ) -> None:
        store, day, copy = opens(), tmp_path / "ec-20260301.sqlite", tmp_path / "copy"
        store.ingest([run_of("m", NOON, 0)])
        copy_rows(day, copy)
        store.ingest([run_of("m", NOON, 1000)])
        copy_rows(copy, day)
        if goes_on:
            store.ingest([run_of("m", NOON, 2000)])
        of_all = Digest(4 * (2 + goes_on), "0" * 32)
        assert store.publish([FinishedMinute("m", NOON, ((NOON, of_all),), complete=True)]) == 0
        assert store.minute_digests("m", NOON, NOON + 60)[0][1].count == 4 * (1 + goes_on)

    @pytest.mark.parametrize("by", ["message", "verdict", "another program"])
    def test_what_is_written_to_it_before_anybody_looks_does_not_make_it_the_newest(
        self, opens: Opens, foreign: Foreign, tmp_path: Path, by: str
    ) -> None:
        path, backup = tmp_path / "ec-20260301.sqlite", tmp_path / "backup"
        with SqliteStore(tmp_path) as store:
            store.ingest([run_of("m", NOON, 0), run_of("m", NOON + 60, 0)])
            check(store, "m", NOON, MinuteState.PROVEN)
            by_hand(path, f"VACUUM INTO '{backup}'")
            store.ingest([run_of("m", NOON, 5000)])
        shutil.copy(backup, path)
        if by == "message":
            opens().ingest([run_of("other", NOON, 0)])
        elif by == "verdict":
            check(opens(), "m", NOON + 60, MinuteState.PROVEN)
        else:
            foreign("DELETE FROM ec_consumption WHERE ec_time = '120100'")
        assert opens().unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_a_read_only_reader_does_not_believe_it_either(self, tmp_path: Path, proven: Path) -> None:
        shutil.copy(proven, tmp_path / "ec-20260301.sqlite")
        with SqliteStore(tmp_path, read_only=True) as reader:
            assert reader.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_it_is_proven_again_after_it_was_compared(
        self, opens: Opens, tmp_path: Path, proven: Path
    ) -> None:
        shutil.copy(proven, tmp_path / "ec-20260301.sqlite")
        store = opens()
        store.unproven_ranges("m", NOON, NOON + 60)
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        assert opens().unproven_ranges("m", NOON, NOON + 60) == []

    def test_empty_minutes_of_a_lost_file_are_lost_with_it(
        self, opens: Opens, tmp_path: Path, proven: Path
    ) -> None:
        store = opens()
        check(store, "m", NOON + 120, MinuteState.EMPTY)
        for name in tmp_path.glob("ec-20260301.sqlite*"):
            name.unlink()
        assert store.unproven_ranges("m", NOON, NOON + 180) == [(NOON, NOON + 180)]

    @pytest.mark.parametrize("by", ["read-only reader", "retention", "another program"])
    def test_minutes_once_empty_do_not_count_as_empty_again_when_their_rows_are_gone(
        self, opens: Opens, tmp_path: Path, foreign: Foreign, by: str
    ) -> None:
        store = opens()
        check(store, "m", NOON, MinuteState.EMPTY)
        store.ingest([run_of("m", NOON, 0)])
        if by == "retention":
            store.remove_before(MIDNIGHT + DAY_S)
        elif by == "another program":
            foreign("DELETE FROM ec_consumption")
        else:
            for name in tmp_path.glob("ec-20260301.sqlite*"):
                name.unlink()
            with SqliteStore(tmp_path, read_only=True) as reader:
                assert reader.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
                assert reader.minutes("m", NOON, NOON + 60) == []
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_what_is_proven_right_after_a_file_was_lost_stays_proven(
        self, opens: Opens, tmp_path: Path, proven: Path
    ) -> None:
        for name in tmp_path.glob("ec-20260301.sqlite*"):
            name.unlink()
        store = opens()
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    def test_a_ledger_of_rows_that_a_restore_took_away_is_not_published(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        path, backup, store = tmp_path / "ec-20260301.sqlite", tmp_path / "backup", opens()
        store.ingest([run_of("m", NOON, 0)])
        by_hand(path, f"VACUUM INTO '{backup}'")
        store.ingest([run_of("m", NOON, 1000)])
        for name in tmp_path.glob("ec-20260301.sqlite*"):
            name.unlink()
        shutil.copy(backup, path)
        seen = expected_second({us + off: "1.5" for us in (0, 1000) for off in (0, 10, 20, 30)})
        store.publish([FinishedMinute("m", NOON, ((NOON, seen),), complete=True)])
        assert store.second_digests("m", NOON)[0][1].count == 4

    def test_a_file_that_another_program_vacuumed_keeps_its_order(
        self, opens: Opens, foreign: Foreign
    ) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON, 1000)])
        before = list(store.rows("m", NOON, NOON + 1))
        foreign("VACUUM")
        assert list(opens().rows("m", NOON, NOON + 1)) == before

    @pytest.mark.parametrize("is_noticed", [True, False])
    def test_an_old_file_restored_after_its_day_was_lost_and_created_again_proves_nothing(
        self, opens: Opens, tmp_path: Path, is_noticed: bool
    ) -> None:
        path, backup, store = tmp_path / "ec-20260301.sqlite", tmp_path / "backup", opens()
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        by_hand(path, f"VACUUM INTO '{backup}'")
        for late in (None, run_of("m", NOON, 5000)):
            if late is not None:
                store.ingest([late])
            for name in tmp_path.glob("ec-20260301.sqlite*"):
                name.unlink()
            if is_noticed:
                assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        shutil.copy(backup, path)
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_a_lost_file_that_a_commit_creates_again_proves_nothing(
        self, opens: Opens, tmp_path: Path, proven: Path
    ) -> None:
        for name in tmp_path.glob("ec-20260301.sqlite*"):
            name.unlink()
        opens().ingest([run_of("m", NOON + 600, 0)])
        assert opens().unproven_ranges("m", NOON, NOON + 120) == [(NOON, NOON + 120)]

    def test_a_truncated_file_proves_nothing(self, opens: Opens, tmp_path: Path, proven: Path) -> None:
        path = tmp_path / "ec-20260301.sqlite"
        path.write_bytes(path.read_bytes()[:5000])
        assert opens().unproven_ranges("m", NOON, NOON + 120) == [(NOON, NOON + 120)]

    def test_a_folder_that_was_copied_whole_keeps_its_proof(
        self, tmp_path: Path, proven: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        moved = tmp_path_factory.mktemp("moved")
        for name in ("ec-20260301.sqlite", "progress.db"):
            shutil.copy(tmp_path / name, moved)
        with SqliteStore(moved) as store:
            assert store.unproven_ranges("m", NOON, NOON + 120) == []

    def test_a_lost_progress_file_proves_nothing(self, opens: Opens, tmp_path: Path, proven: Path) -> None:
        for name in tmp_path.glob("progress.db*"):
            name.unlink()
        assert opens().unproven_ranges("m", NOON, NOON + 120) == [(NOON, NOON + 120)]


class TestReplacedRows:
    def test_a_repaired_and_a_merged_row_are_kept_with_their_reason(
        self, opens: Opens, foreign: Foreign
    ) -> None:
        store = opens()
        one, two = batch("m", NOON, {0: "1", 10: "1"}), batch("m", NOON, {0: "2", 10: "1"})
        store.ingest([one])
        store.ingest([two])
        store.repair([batch("m", NOON, {0: "3", 10: "1"})])
        kept = store.replaced_rows("m", NOON, NOON + 1)
        assert [(r.row.batch, r.reason) for r in kept] == [(one, "message"), (two, "repair")]
        (columns,) = foreign("SELECT group_concat(name) AS names FROM pragma_table_info('ec_replaced')")
        assert columns["names"] == (
            "device_id,ec_date,ec_time,start_us,end_us,ec_consumption_values,values_count,values_checksum,"
            "insert_time,replaced_time,reason"
        )

    def test_a_message_that_comes_again_after_its_repair_is_a_duplicate(self, opens: Opens) -> None:
        store = opens()
        store.ingest([batch("m", NOON, {0: "9", 10: "1"})])
        store.repair([batch("m", NOON, {0: "1", 10: "1"})])
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.ingest([batch("m", NOON, {0: "9", 10: "1"})]).changed == (False,)
        assert store.unproven_ranges("m", NOON, NOON + 60) == []


class TestTheClock:
    def test_a_clock_that_steps_back_does_not_change_which_row_wins(
        self, opens: Opens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opens().ingest([batch("m", NOON, {0: "1", 10: "1"})])
        monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
        opens().ingest([batch("m", NOON, {0: "2", 20: "2"})])
        assert opens().second_text("m", NOON) == "000000,2;000010,1;000020,2"
        ranks = [row.rank for row in opens().rows("m", NOON, NOON + 1)]
        assert ranks == sorted(ranks)

    def test_another_tool_s_row_ranks_last(self, opens: Opens, foreign: Foreign) -> None:
        store = opens()
        store.ingest([batch("m", NOON, {0: "1", 10: "1"})])
        foreign(
            "INSERT INTO ec_consumption VALUES ('m', '20260301', '120000', '000000', '000000', '000000,7', 1,"
            f" '{batch('m', NOON, {0: '7'}).checksum}', '2026-03-01T12:00:00.000000+00:00')"
        )
        assert store.second_text("m", NOON) == "000000,7;000010,1"
        store.ingest([batch("m", NOON, {0: "8", 5: "8"})])
        assert store.second_text("m", NOON) == "000000,8;000005,8;000010,1"


class TestFiles:
    def test_the_tables_and_columns_are_those_of_the_contract(self, opens: Opens, foreign: Foreign) -> None:
        opens().ingest([run_of("m", NOON + 3723, 40)])
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

    def test_cached_digests_are_stored_in_ec_checksum(self, opens: Opens, foreign: Foreign) -> None:
        store = opens()
        store.ingest([run_of("m", NOON + 5, 0)])
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
        store.ingest([run_of("m", NOON + 5, 1000)])
        store.minute_digests("m", NOON, NOON + 60)
        assert foreign("SELECT check_time, check_times FROM ec_checksum") == checked

    def test_a_read_only_store_creates_nothing(self, tmp_path: Path) -> None:
        with SqliteStore(tmp_path / "absent", read_only=True) as store:
            assert store.devices() == []
            assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
            assert store.minutes("m", NOON, NOON + 60) == []
        assert list(tmp_path.iterdir()) == []

    def test_a_read_only_store_computes_and_keeps_nothing(
        self, opens: Opens, tmp_path: Path, foreign: Foreign
    ) -> None:
        opens().ingest([run_of("m", NOON, 0)])
        with SqliteStore(tmp_path, read_only=True) as store:
            assert store.minute_digests("m", NOON, NOON + 60)[0][1].count == 4
        assert foreign("SELECT count(*) AS n FROM ec_checksum") == [{"n": 0}]

    def test_a_closed_file_holds_everything_itself_though_somebody_reads(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        writer, copy = SqliteStore(tmp_path), tmp_path / "copy"
        writer.ingest([run_of("m", NOON, 0)])
        with SqliteStore(tmp_path, read_only=True) as reader:
            assert reader.second_text("m", NOON)
            writer.close()
            copy.mkdir()
            shutil.copy(tmp_path / "ec-20260301.sqlite", copy)
        with SqliteStore(copy, read_only=True) as moved:
            assert moved.second_text("m", NOON) == run_of("m", NOON, 0).values

    def test_a_commit_mark_is_committed_with_its_rows(self, opens: Opens) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0)], CommitMark("receiver-0", 7))
        store.ingest([run_of("m", NOON, 0), run_of("m", NOON, 90)], CommitMark("receiver-0", 8))
        assert opens().committed_mark(MIDNIGHT, "receiver-0") == (8, 1, 1)
        assert opens().committed_mark(MIDNIGHT, "receiver-1") is None


class TestFailures:
    def test_too_little_free_space_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        with SqliteStore(tmp_path, min_free_bytes=2**62) as store:
            with pytest.raises(RetryableStorageError, match="min_free_mb"):
                store.ingest([run_of("m", NOON, 0)])
            assert not store.health().writable

    def test_a_damaged_file_is_set_aside_and_reported_and_costs_only_its_day(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        store = opens()
        store.note_devices({"m": 1})
        store.ingest([run_of("m", NOON - DAY_S, 0)])
        check(store, "m", NOON - DAY_S, MinuteState.PROVEN)
        store.close()
        (tmp_path / "ec-20260301.sqlite").write_bytes(b"not a database" * 1000)
        store = opens()
        assert [record.device_id for record in store.devices()] == ["m"]
        store.ingest([run_of("m", NOON, 0)])
        assert store.second_text("m", NOON) == run_of("m", NOON, 0).values
        assert store.unproven_ranges("m", NOON - DAY_S, NOON - DAY_S + 60) == []
        (damage,) = store.health().damage
        assert "ec-20260301.sqlite.damaged-1" in damage
        assert (tmp_path / "ec-20260301.sqlite.damaged-1").read_bytes().startswith(b"not a database")

    def test_a_damaged_file_is_reported_until_every_device_s_minutes_in_it_are_settled_again(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        store = opens()
        for device in ("m", "n"):
            store.note_devices({device: NOON * 1_000_000})
            store.note_coverage(device, NOON)
            store.ingest([run_of(device, NOON, 0)])
            check(store, device, NOON, MinuteState.PROVEN)
        store.close()
        (tmp_path / "ec-20260301.sqlite").write_bytes(b"not a database" * 1000)
        store = opens()
        for device in ("m", "n"):
            store.ingest([run_of(device, NOON, 0)])
            assert "damaged-1" in store.health().damage[0]
            for minute in range(NOON, NOON - NOON % DAY_S + DAY_S, 60):
                check(store, device, minute, MinuteState.PROVEN if minute == NOON else MinuteState.EMPTY)
        assert store.health().damage == ()

    def test_a_file_that_another_process_created_meanwhile_is_not_set_aside(
        self, opens: Opens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "ec-20260301.sqlite").write_bytes(b"not a database" * 1000)
        store = opens()
        rename_aside = DayFiles.rename_aside

        def after_another(files: DayFiles, path: Path, inode: int) -> Path | None:
            monkeypatch.setattr(DayFiles, "rename_aside", rename_aside)
            with SqliteStore(tmp_path) as another:
                another.ingest([run_of("m", NOON, 0)])
            return rename_aside(files, path, inode)

        monkeypatch.setattr(DayFiles, "rename_aside", after_another)
        store.ingest([run_of("m", NOON, 500)])
        assert len(list(store.rows("m", NOON, NOON + 1))) == 2
        assert [path.name for path in tmp_path.glob("*.damaged-?")] == ["ec-20260301.sqlite.damaged-1"]

    def test_a_damaged_file_that_somebody_removed_is_no_longer_reported(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        (tmp_path / "ec-20260301.sqlite").write_bytes(b"not a database" * 1000)
        store = opens()
        store.ingest([run_of("m", NOON, 0)])
        assert store.health().damage
        (tmp_path / "ec-20260301.sqlite.damaged-1").unlink()
        assert store.health().damage == ()

    def test_a_damaged_progress_file_is_set_aside_and_costs_no_row(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        store = opens()
        store.note_devices({"m": 1})
        store.ingest([run_of("m", NOON, 0)])
        store.close()
        (tmp_path / "progress.db").write_bytes(b"not a database" * 1000)
        store = opens()
        store.note_devices({"m": 2})
        store.ingest([run_of("m", NOON + 60, 0)])
        assert [record.device_id for record in store.devices()] == ["m"]
        assert len(list(store.rows("m", NOON, NOON + 120))) == 2
        assert store.health().damage == ()
        assert (tmp_path / "progress.db.damaged-1").read_bytes().startswith(b"not a database")
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    def test_a_removed_progress_file_is_created_again_by_a_process_that_has_it_open(
        self, opens: Opens, tmp_path: Path
    ) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0)])
        for end in ("", "-wal", "-shm"):
            (tmp_path / f"progress.db{end}").unlink(missing_ok=True)
        store.note_devices({"m": 2})
        store.ingest([run_of("m", NOON, 500)])
        (tmp_path / "ec-20260301.sqlite").unlink()  # its loss is noticed though the file before knew of it
        with SqliteStore(tmp_path) as another:
            assert another.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
            assert [record.device_id for record in another.devices()] == ["m"]

    def test_a_damaged_file_does_not_keep_readers_from_other_days(self, tmp_path: Path) -> None:
        with SqliteStore(tmp_path) as store:
            store.note_devices({"m": 1})
            store.ingest([run_of("m", NOON - DAY_S, 0)])
        (tmp_path / "ec-20260301.sqlite").write_bytes(b"not a database" * 1000)
        with SqliteStore(tmp_path, read_only=True) as reader:
            assert [record.device_id for record in reader.devices()] == ["m"]
            assert len(list(reader.rows("m", NOON - DAY_S, NOON))) == 1
            assert "ec-20260301.sqlite" in reader.health().damage[0]
            with pytest.raises(DamagedFileError, match="ec-20260301"):
                reader.second_text("m", NOON)

    def test_retention_removes_a_damaged_file_too(self, opens: Opens, tmp_path: Path) -> None:
        (tmp_path / "ec-20260301.sqlite").write_bytes(b"not a database" * 1000)
        assert opens().remove_before(NOON + DAY_S) == ["20260301"]

    def test_a_flipped_byte_in_a_row_costs_nothing_but_its_minute(
        self, opens: Opens, foreign: Foreign, tmp_path: Path
    ) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0, value="1.2345678"), run_of("m", NOON + 60, 0)])
        for minute in (NOON, NOON + 60):
            check(store, "m", minute, MinuteState.PROVEN)
        store.close()
        path = tmp_path / "ec-20260301.sqlite"
        path.write_bytes(path.read_bytes().replace(b"1.2345678", b"1.2345\xff78", 1))
        store = opens()
        before = dict(store.minute_digests("m", NOON, NOON + 120))
        after = dict(store.minute_digests("m", NOON, NOON + 120, from_rows=True))
        assert after[NOON] != before[NOON]
        assert after[NOON + 60] == before[NOON + 60]
        assert "ec-20260301.sqlite, device m, minute 202603011200" in store.health().damage[0]
        assert len(list(store.rows("m", NOON, NOON + 60))) == 1
        store.repair([run_of("m", NOON, 0, value="1.2345678")])
        assert store.second_text("m", NOON) == run_of("m", NOON, 0, value="1.2345678").values
        assert [one.reason for one in store.replaced_rows("m", NOON, NOON + 1)] == ["repair"]
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.health().damage == ()

    def test_a_failed_write_leaves_nothing(self, opens: Opens, foreign: Foreign) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0)])
        # The last statement of the transaction fails, so everything before it must be undone.
        foreign("ALTER TABLE ec_writer ADD COLUMN other")
        with pytest.raises(StorageError):
            store.ingest([run_of("m", NOON, 1000)], CommitMark("receiver-0", 1))
        assert store.second_text("m", NOON) == run_of("m", NOON, 0).values

    def test_a_folder_that_cannot_be_created_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(PermanentStorageError, match=r"storage\.path"):
            SqliteStore(tmp_path / "file" / "data")
