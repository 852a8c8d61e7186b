"""Something happens while a minute is packed: between its rows being read and their exchange for blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.packed_suite import AFTER, everything, pack_all
from contract.store_suite import MIDNIGHT, NOON, batch, check, run_of
from foreign_sqlite import by_hand

from ec_server.storage import sqlite_day_packing
from ec_server.storage.contract import Packed
from ec_server.storage.sqlite_store import SqliteStore
from utilities.errors import RetryableStorageError
from utilities.model import MinuteState
from utilities.utc import DAY_S

SECONDS = 4
Meanwhile = Callable[[Callable[[], Any]], None]


@pytest.fixture
def day_file(tmp_path: Path) -> Path:
    return tmp_path / "ec-20260301.sqlite"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path) as store:
        for second in range(NOON, NOON + SECONDS):
            store.ingest([run_of("m", second, 1000 * i) for i in range(10)])
        yield store


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Lets something happen once, after the second second's block is made and before it is written."""

    def arrange(happens: Callable[[], Any]) -> None:
        made, pack = [], sqlite_day_packing.pack_columns

        def watched(columns: Any) -> bytes | None:
            block = pack(columns)
            made.append(block)
            if len(made) == 2:
                happens()
            return block

        monkeypatch.setattr(sqlite_day_packing, "pack_columns", watched)

    return arrange


def loose_rows(day_file: Path) -> int:
    count: int = by_hand(day_file, "SELECT count(*) AS n FROM ec_consumption")[0]["n"]
    return count


def test_a_row_that_another_tool_changes_is_packed_as_it_is_then(
    store: SqliteStore, meanwhile: Meanwhile, day_file: Path
) -> None:
    changed = batch("m", NOON + 1, {3000: "8", 3001: "9"})
    key = "ec_time = '120001' AND start_us = '003000'"
    meanwhile(
        lambda: by_hand(
            day_file,
            f"UPDATE ec_consumption SET ec_consumption_values = '{changed.values}', values_count = 2,"
            f" values_checksum = '{changed.checksum}', end_us = '003001' WHERE {key}",
        )
    )
    assert store.pack_minute("m", NOON) == Packed()
    assert loose_rows(day_file) == 10 * SECONDS
    before = everything(store)
    assert changed in [row.batch for row in before[0]]
    assert pack_all(store) == Packed(10 * SECONDS, 4 * 10 * SECONDS - 2)
    assert everything(store) == before


def test_a_message_that_arrives_is_packed_with_the_others(
    store: SqliteStore, meanwhile: Meanwhile, tmp_path: Path, day_file: Path
) -> None:
    with SqliteStore(tmp_path) as other:
        meanwhile(lambda: other.ingest([run_of("m", NOON + 1, 50_000)]))
        store.pack_minute("m", NOON)
        assert store.unpacked_minutes(AFTER, 10) == [("m", NOON)]
        before = everything(other)
        assert pack_all(store).rows == 10 * SECONDS + 1
        assert everything(other) == before


def test_a_device_that_is_written_to_is_left_out_and_the_others_are_packed(
    store: SqliteStore, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    devices = ("a", "m", "z")
    store.ingest([run_of(device, NOON + at, 0) for at in range(SECONDS) for device in ("a", "z")])
    with SqliteStore(tmp_path) as other:
        meanwhile(lambda: other.ingest([run_of("m", NOON + 3, 50_000)]))
        steps = list(store.pack_minutes([(device, NOON) for device in devices]))
        assert sum(steps, Packed()) == Packed(2 * SECONDS, 4 * 2 * SECONDS)
        assert store.unpacked_minutes(AFTER, 10) == [("m", NOON)]
        before = [everything(other, device) for device in devices]
        assert pack_all(store).rows == 10 * SECONDS + 1
        assert [everything(other, device) for device in devices] == before


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_day_packing, "_SECONDS_AT_ONCE", 3)


@pytest.mark.usefixtures("short_steps")
def test_steps_are_bounded_and_may_be_abandoned(store: SqliteStore) -> None:
    store.ingest([run_of("z", NOON + at, 0) for at in range(SECONDS)])
    before = [everything(store, device) for device in ("m", "z")]
    steps = store.pack_minutes([("m", NOON), ("z", NOON)])
    assert next(steps) == Packed(21, 84)  # both devices' first second, and m's next one
    steps.close()
    assert store.unpacked_minutes(AFTER, 10) == [("m", NOON), ("z", NOON)]
    found = [step.rows for step in store.pack_minutes([("m", NOON), ("z", NOON)])]
    assert found == [1 + 10 + 1, 10 + 1]
    assert store.unpacked_minutes(AFTER, 10) == []
    assert [everything(store, device) for device in ("m", "z")] == before


@pytest.mark.usefixtures("short_steps")
def test_a_file_put_in_place_between_two_steps_is_not_taken_for_packed(
    store: SqliteStore, tmp_path: Path, day_file: Path
) -> None:
    for process in (store, SqliteStore(tmp_path)):
        process.close()
    copy = day_file.read_bytes()
    steps = store.pack_minutes([("m", NOON)])
    assert next(steps).rows == 30
    day_file.unlink()
    day_file.with_name(f"{day_file.name}-wal").unlink()
    day_file.write_bytes(copy)
    assert sum(steps, Packed()) == Packed()
    assert store.unpacked_minutes(AFTER, 10) == [("m", NOON)]
    assert pack_all(store).rows == 10 * SECONDS


@pytest.mark.usefixtures("short_steps")
def test_a_step_that_fails_leaves_its_minutes_to_be_packed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ValueError: what comes of a damaged page; the day is then made again from its rows, and tried again."""
    before = everything(store)
    day = store._folder.days.open(MIDNIGHT)
    monkeypatch.setattr(day.file, "remake", lambda: None)
    failed: list[Any] = []
    pack = sqlite_day_packing.pack_columns

    def fails_once(columns: Any) -> bytes | None:
        if columns.second == NOON + 3 and not failed:
            failed.append(columns)
            raise ValueError("not understood")
        return pack(columns)

    monkeypatch.setattr(sqlite_day_packing, "pack_columns", fails_once)
    assert [step.rows for step in store.pack_minutes([("m", NOON)])] == [30, 0]
    assert failed
    assert store.unpacked_minutes(AFTER, 10) == [("m", NOON)]
    assert pack_all(store).rows == 10
    assert everything(store) == before


def test_a_repair_wins_over_what_was_read_before_it(
    store: SqliteStore, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    with SqliteStore(tmp_path) as other:
        meanwhile(lambda: other.repair([batch("m", NOON + 1, {3000: "8", 3010: "8"})]))
        store.pack_minute("m", NOON)
        before = everything(other)
        pack_all(store)
        assert everything(store) == everything(other) == before
        assert "003000,8;003010,8;" in store.second_text("m", NOON + 1)


def test_a_second_that_a_duplicate_unpacked_meanwhile_has_each_row_once(
    store: SqliteStore, tmp_path: Path, day_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = run_of("m", NOON + 1, 3000)
    store.ingest([batch("m", NOON + 1, {3000: "8", 3030: "8"})])
    pack_all(store)
    store.ingest([run_of("m", NOON + 1, 50_000), run_of("m", NOON + 1, 60_000)])
    by_hand(day_file, "UPDATE ec_consumption SET values_checksum = 'damaged' WHERE start_us = '050000'")
    pack = sqlite_day_packing.pack
    with SqliteStore(tmp_path) as other:

        def disturbed(rows: Any) -> Any:
            assert other.ingest([replaced]).duplicate == 1
            return pack(rows)

        monkeypatch.setattr(sqlite_day_packing, "pack", disturbed)
        before = everything(store)
        store.pack_minute("m", NOON)
        assert everything(store) == before


def test_two_packers_at_once_pack_each_row_once(
    store: SqliteStore, meanwhile: Meanwhile, tmp_path: Path, day_file: Path
) -> None:
    check(store, "m", NOON, MinuteState.PROVEN)
    before = everything(store)
    with SqliteStore(tmp_path) as other:
        others: list[Packed] = []
        meanwhile(lambda: others.append(other.pack_minute("m", NOON)))
        assert store.pack_minute("m", NOON) == Packed()
        assert others == [Packed(10 * SECONDS, 4 * 10 * SECONDS)]
        assert everything(store) == everything(other) == before
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
    (total,) = by_hand(day_file, "SELECT sum(row_count) AS n, count(*) AS blocks FROM ec_block")
    assert total == {"n": 10 * SECONDS, "blocks": SECONDS}


def test_packers_of_several_processes_and_writers_disturb_nobody(tmp_path: Path) -> None:
    """Three packers as fast as they can, while rows arrive, some of them twice."""
    sent = [run_of("m", NOON + i % 7, 1000 * i) for i in range(300)]
    done, troubles = threading.Event(), []

    def packs() -> None:
        try:
            with SqliteStore(tmp_path) as packer:
                while not done.is_set():
                    pack_all(packer)
        except Exception as error:
            troubles.append(error)

    packers = [threading.Thread(target=packs) for _ in range(3)]
    for packer in packers:
        packer.start()
    with SqliteStore(tmp_path) as writer:
        for i in range(0, 300, 10):
            writer.ingest(sent[i : i + 10])
            writer.ingest(sent[max(0, i - 20) : i + 5])
        done.set()
        for packer in packers:
            packer.join()
        assert troubles == []
        pack_all(writer)
        stored = [row.batch for row in writer.rows("m", NOON, NOON + 60)]
        assert sorted(stored) == sorted(sent)
        assert writer.row_counts("m", NOON, NOON + 60) == [(NOON, 300, 1200)]


def test_a_disk_that_fills_up_costs_nothing_and_packing_goes_on(store: SqliteStore, day_file: Path) -> None:
    wide = ";".join(f"{us:06d},{us * 7919 % 100_003 / 7:.17g}" for us in range(0, 400_000, 20))
    samples = {int(one[:6]): one[7:] for one in wide.split(";")}
    store.ingest([batch("m", NOON + 9, samples)])
    before = everything(store)
    db = store._folder.days.open(MIDNIGHT).file.db
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RetryableStorageError, match="tried again"):
        pack_all(store)
    assert everything(store) == before
    db.execute("PRAGMA max_page_count = 1073741823")
    assert pack_all(store).rows == 10 * SECONDS + 1
    assert everything(store) == before


def test_a_day_that_retention_removes_meanwhile_stays_removed(
    store: SqliteStore, meanwhile: Meanwhile, tmp_path: Path, day_file: Path
) -> None:
    with SqliteStore(tmp_path) as keeper:
        meanwhile(lambda: keeper.remove_before(MIDNIGHT + DAY_S))
        assert store.pack_minute("m", NOON) == Packed()
    assert not day_file.exists()
    assert store.unpacked_minutes(AFTER, 10) == []
    assert list(store.rows("m", NOON, NOON + 60)) == []
    assert not store.return_space(AFTER)
    assert not day_file.exists()
