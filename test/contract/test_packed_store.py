"""Packing changes nothing that can be read, and nothing of what becomes of a second later."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.store_suite import NOON, batch, check, run_of
from foreign_sqlite import by_hand
from independent_block import decode

from ec_server.storage.contract import Packed, Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import RetryableStorageError
from utilities.model import Batch, MinuteState, StoredRow
from utilities.utc import DAY_S

AFTER = NOON + 3 * DAY_S
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


def filled(store: Store) -> list[Batch]:
    """Two seconds of a minute, one of them with an overlap."""
    batches = [
        run_of("m", NOON, 0),
        run_of("m", NOON, 1000),
        run_of("m", NOON, 1020, value="7.25"),
        run_of("m", NOON + 5, 0, value="-0.0"),
    ]
    store.ingest(batches)
    return batches


def pack_all(store: Store) -> Packed:
    total = Packed()
    for device_id, minute in store.unpacked_minutes(AFTER, 1000):
        total += store.pack_minute(device_id, minute)
    return total


def everything(store: Store, device_id: str = "m", start: int = NOON, stop: int = NOON + 60) -> list[Any]:
    """All that the contract lets one read of a span, digests from the cache and from the rows."""
    return [
        list(store.rows(device_id, start, stop)),
        [store.second_text(device_id, second) for second in range(start, stop)],
        store.second_digests(device_id, start, from_rows=True),
        store.second_digests(device_id, start),
        store.minute_digests(device_id, start, stop),
        store.row_counts(device_id, start, stop),
        [(kept.row, kept.reason) for kept in store.replaced_rows(device_id, start, stop)],
    ]


def count(foreign: Callable[[str], list[dict[str, Any]]], table: str) -> int:
    return int(foreign(f"SELECT count(*) AS n FROM {table}")[0]["n"])


class TestNothingChanges:
    def test_what_can_be_read_is_the_same_and_the_rows_are_gone(self, store: SqliteStore, foreign) -> None:
        filled(store)
        before = everything(store)
        assert pack_all(store) == Packed(rows=4, samples=16)
        assert everything(store) == before
        assert (count(foreign, "ec_consumption"), count(foreign, "ec_block")) == (0, 2)
        assert store.unpacked_minutes(AFTER, 10) == []
        assert store.minutes("m", NOON, NOON + 60)[0].packed

    def test_proof_and_version_are_not_touched(self, store: SqliteStore, foreign) -> None:
        filled(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        before = foreign("SELECT version, state, digest_cached, check_times FROM ec_minute")
        pack_all(store)
        assert foreign("SELECT version, state, digest_cached, check_times FROM ec_minute") == before
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    def test_blocks_are_what_their_documentation_says(self, store: SqliteStore, foreign) -> None:
        batches = filled(store)
        rows = list(store.rows("m", NOON, NOON + 1))
        pack_all(store)
        data = bytes.fromhex(foreign("SELECT hex(block) AS block FROM ec_block ORDER BY ec_time")[0]["block"])
        device_id, second, found = decode(data)
        assert (device_id, second) == ("m", NOON)
        assert [(text, inserted, rank) for _, _, text, _, _, inserted, rank, _ in found] == [
            (row.batch.values, row.inserted_us, row.rank) for row in rows
        ]
        assert [text for _, _, text, *_ in found] == [b.values for b in batches[:3]]

    def test_only_minutes_that_ended_are_packed(self, store: SqliteStore) -> None:
        filled(store)
        assert store.unpacked_minutes(NOON + 59, 10) == []
        assert store.unpacked_minutes(NOON + 60, 10) == [("m", NOON)]
        assert store.count_unpacked(NOON + 60) == 1

    def test_a_store_that_is_open_elsewhere_sees_packed_rows(self, opens: Opens) -> None:
        one, other = opens(), opens()
        filled(one)
        before = everything(other)
        pack_all(one)
        assert everything(other) == before


class TestWhatComesLater:
    def test_a_late_row_stands_beside_the_block_wins_and_is_packed_in_its_turn(
        self, store: SqliteStore, foreign
    ) -> None:
        filled(store)
        pack_all(store)
        late = batch("m", NOON, {10: "9", 15: "9"})
        assert store.ingest([late]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,1.5;000010,9;000015,9;000020,1.5;")
        assert count(foreign, "ec_consumption") == 1
        before = everything(store)
        assert pack_all(store) == Packed(rows=1, samples=2)
        assert everything(store) == before
        assert (count(foreign, "ec_consumption"), count(foreign, "ec_block")) == (0, 2)

    def test_a_clock_that_steps_back_does_not_let_packed_rows_win(
        self, store: SqliteStore, opens: Opens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled(store)
        pack_all(store)
        monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000)
        opens().ingest([batch("m", NOON, {10: "9", 15: "9"})])
        assert store.second_text("m", NOON).startswith("000000,1.5;000010,9;000015,9;")

    def test_a_duplicate_of_a_packed_row_changes_nothing(self, store: SqliteStore, foreign) -> None:
        batches = filled(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        pack_all(store)
        before = everything(store)
        assert store.ingest([*batches, batches[0]]).changed == (False,) * 5
        assert store.replay(list(before[0])).changed == (False,) * 4
        assert everything(store) == before
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        assert count(foreign, "ec_consumption") == 0

    def test_a_message_of_a_packed_rows_key_is_merged_and_the_packed_row_kept(
        self, store: SqliteStore, foreign
    ) -> None:
        first, *_ = filled(store)
        pack_all(store)
        other = batch("m", NOON, {0: "8", 5: "8", 30: "1.5"})
        assert store.ingest([other]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,8;000005,8;000010,1.5;000020,1.5;000030,1.5;")
        ((kept, reason),) = everything(store)[-1]
        assert (kept.batch, reason) == (first, "message")
        assert store.ingest([first, other]).changed == (False, False)
        before = everything(store)
        pack_all(store)
        assert everything(store) == before
        assert store.ingest([first, other]).changed == (False, False)

    def test_a_repair_of_a_packed_row_wins_and_the_packed_row_is_kept(self, store: SqliteStore) -> None:
        first, *_ = filled(store)
        pack_all(store)
        repair = batch("m", NOON, {0: "3", 10: "3", 20: "3", 30: "3"})
        assert store.repair([repair]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,3;000010,3;000020,3;000030,3;")
        ((kept, reason),) = everything(store)[-1]
        assert (kept.batch, reason) == (first, "repair")
        before = everything(store)
        pack_all(store)
        assert everything(store) == before
        assert store.repair([repair]).changed == (False,)

    def test_a_replayed_row_of_an_older_rank_does_not_win_over_the_block(self, store: SqliteStore) -> None:
        filled(store)
        pack_all(store)
        old = StoredRow(batch("m", NOON, {10: "9", 15: "9"}), 10**15, 10**15)
        assert store.replay([old]).changed == (True,)
        assert store.second_text("m", NOON).startswith("000000,1.5;000010,1.5;000015,9;")
        before = everything(store)
        pack_all(store)
        assert everything(store) == before

    @pytest.mark.parametrize("same_key", [True, False])
    def test_a_replayed_row_of_a_packed_rows_rank_is_stored_and_counted_once(
        self, store: SqliteStore, same_key: bool
    ) -> None:
        """Ranks of two servers may meet when their data is moved into one."""
        memory = MemoryStore()
        packed = StoredRow(run_of("m", NOON, 0), NOON * 10**6, NOON * 10**6)
        late = [
            packed._replace(batch=run_of("m", NOON, 0, value="9.75")),
            packed._replace(batch=run_of("m", NOON, 500, value="1.5")),
        ]
        for one in (store, memory):
            one.replay([packed])
        pack_all(store)
        rows = late if same_key else late[1:]
        assert [store.replay([row]).changed for row in rows] == [memory.replay([row]).changed for row in rows]
        for _ in range(2):
            assert store.second_text("m", NOON) == memory.second_text("m", NOON)
            assert store.row_counts("m", NOON, NOON + 60) == memory.row_counts("m", NOON, NOON + 60)
            assert len(list(store.rows("m", NOON, NOON + 1))) == 2
            pack_all(store)


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
    def test_a_change_of_a_block_takes_proof_and_digests_away(
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


class TestDamage:
    def test_a_damaged_block_costs_its_second_is_named_and_heals_by_repair(
        self, store: SqliteStore, opens: Opens, foreign
    ) -> None:
        batches = filled(store)
        pack_all(store)
        text = store.second_text("m", NOON)
        foreign("UPDATE ec_block SET block = substr(block, 1, 80) || x'ff' || substr(block, 82)")
        store = opens()
        assert store.second_text("m", NOON) == ""
        assert store.second_digests("m", NOON) == []
        (damage,) = store.health().damage
        assert "ec-20260301.sqlite" in damage
        assert "packed second 12000" in damage
        pack_all(store)
        assert store.repair([batch("m", NOON, dict(_samples(text)))]).changed == (True,)
        assert store.repair([batches[-1]]).changed == (True,)
        assert store.second_text("m", NOON) == text
        check(store, "m", NOON, MinuteState.PROVEN)
        assert store.health().damage == ()
        assert count(foreign, "ec_block_replaced") == 2
        assert pack_all(store).rows == 2
        assert store.unproven_ranges("m", NOON, NOON + 60) == []


def _samples(text: str) -> Iterator[tuple[int, str]]:
    for sample in text.split(";"):
        yield int(sample[:6]), sample[7:]


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

    def test_a_disk_too_full_for_rows_is_packed_all_the_same(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        filled(store)
        with SqliteStore(tmp_path, min_free_bytes=2**60) as full:
            with pytest.raises(RetryableStorageError):
                full.ingest([run_of("m", NOON, 5000)])
            assert pack_all(full).rows == 4

    def test_bytes_of_rows_and_blocks_are_told(self, store: SqliteStore) -> None:
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


@pytest.mark.parametrize("seed", range(40))
def test_any_course_of_events_with_packing_is_the_one_without(opens: Opens, seed: int) -> None:
    """The memory engine, which packs nothing, is the measure."""
    choose, packs, model = random.Random(seed), opens(), MemoryStore()
    sent: list[Batch] = [run_of("m", NOON, 0)]
    for _ in range(60):
        event = choose.choice(("ingest", "ingest", "again", "repair", "pack", "check"))
        if event == "pack":
            pack_all(packs)
            continue
        if event == "check":
            for one in (packs, model):
                check(one, "m", NOON, MinuteState.PROVEN)
            continue
        second = NOON + choose.choice((0, 0, 1, 59))
        us = sorted(choose.sample((0, 10, 20, 30, 999_999), choose.randint(1, 4)))
        new = batch("m", second, {at: choose.choice(("1", "2", "-0", "3.50")) for at in us})
        batches = [choose.choice(sent)] if event == "again" else [new]
        sent += batches
        results = [(one.repair if event == "repair" else one.ingest)(batches) for one in (packs, model)]
        assert results[0].changed == results[1].changed
        assert packs.unproven_ranges("m", NOON, NOON + 60) == model.unproven_ranges("m", NOON, NOON + 60)
        assert comparable(packs) == comparable(model)


def comparable(store: Store) -> list[Any]:
    rows, texts, from_rows, digests, minutes, counts, replaced = everything(store)
    return [
        [row.batch for row in rows],
        texts,
        from_rows,
        digests,
        minutes,
        counts,
        [(row.batch, reason) for row, reason in replaced],
    ]
