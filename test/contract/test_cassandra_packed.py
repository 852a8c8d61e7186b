"""Packed storage on a real Cassandra: the suite of every engine, and what only a cluster can do to blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

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
from real_cassandra import TABLES, RealCassandra, forget_everything
from reaper import DiedError

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.contract import Packed, StoredBytes
from utilities.errors import RetryableStorageError
from utilities.model import MinuteState, StoredRow
from utilities.utc import DAY_S

pytestmark = pytest.mark.cassandra
KEYSPACE = "ec_packed"
WHERE = "device_id = 'm' AND ec_date = '20260301' AND ec_minute = '1200'"
Opens = Callable[[], CassandraStore]


class _Inside:
    """The keyspace as cqlsh sees it."""

    def __init__(self, keeper: CassandraStore, opened: list[CassandraStore]) -> None:
        self._keeper = keeper
        self._opened = opened

    def __call__(self, cql: str, *values: object) -> list:
        return list(self._keeper._db._session.execute(cql, values, timeout=30))

    def count(self, table: str) -> int:
        (found,) = self(f"SELECT count(ec_time) AS n FROM {KEYSPACE}.{table}")
        return int(found.n)

    def blocks(self) -> list[bytes]:
        return [row.block for row in self(f"SELECT block FROM {KEYSPACE}.ec_block WHERE {WHERE}")]

    def damage_blocks(self) -> None:
        for row in self(f"SELECT ec_time, block_id, block FROM {KEYSPACE}.ec_block WHERE {WHERE}"):
            changed = row.block[:80] + bytes([row.block[80] ^ 1]) + row.block[81:]
            key = f"{WHERE} AND ec_time = %s AND block_id = %s"
            self(f"UPDATE {KEYSPACE}.ec_block SET block = %s WHERE {key}", changed, row.ec_time, row.block_id)

    def blocks_set_aside(self) -> int:
        rows = self(f"SELECT replaced_time FROM {KEYSPACE}.ec_block WHERE {WHERE}")
        return sum(row.replaced_time is not None for row in rows)

    def rest(self) -> None:
        for store in self._opened:
            with store._lock:
                store._claims.release_all()


@pytest.fixture(scope="module")
def keeper(cassandra: RealCassandra) -> Iterator[CassandraStore]:
    with CassandraStore(cassandra.target(KEYSPACE), packs=True) as store:
        store.wait(60)
        yield store


@pytest.fixture
def opened(keeper: CassandraStore) -> Iterator[list[CassandraStore]]:
    forget_everything(keeper)
    stores: list[CassandraStore] = []
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def opens(cassandra: RealCassandra, opened: list[CassandraStore]) -> Opens:
    def another() -> CassandraStore:
        opened.append(CassandraStore(cassandra.target(KEYSPACE)))
        opened[-1].wait(30)
        return opened[-1]

    return another


@pytest.fixture
def inside(keeper: CassandraStore, opened: list[CassandraStore]) -> _Inside:
    return _Inside(keeper, opened)


@pytest.fixture
def store(opens: Opens) -> CassandraStore:
    return opens()


class TestPacked(PackedSuite):
    @pytest.fixture
    def opens(self, opens: Opens) -> Opens:
        return opens

    @pytest.fixture
    def inside(self, inside: Inside) -> Inside:
        return inside


OLD = StoredRow(batch("m", NOON, {10: "9", 15: "9"}), 10**15, 10**15)
"""A row that waited in a spool: its rank, and so its write timestamp, is below those of all others."""


class TestOthersAtTheSameTime:
    def test_an_old_row_that_arrives_while_its_minute_is_packed_is_stored(
        self, opens: Opens, inside: _Inside, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether it is sent before the rows are deleted or arrives after."""
        packer, late, later = opens(), opens(), opens()
        filled(packer)
        inside.rest()
        plans = packer._packing._plans

        def slowly(*arguments):
            found = list(plans(*arguments))
            assert late.replay([OLD]).changed == (True,)
            return iter(found)

        monkeypatch.setattr(packer._packing, "_plans", slowly)
        pack_all(packer)
        older = OLD._replace(batch=batch("m", NOON, {11: "8", 16: "8"}), rank=10**15 - 1)
        assert later.replay([older]).changed == (True,)
        for reader in (packer, opens()):
            text = reader.second_text("m", NOON)
            assert text.startswith("000000,1.5;000010,1.5;000011,8;000015,9;000016,8;000020,1.5;")

    def test_a_minute_that_a_writer_holds_is_left_for_later(
        self, opens: Opens, inside: _Inside, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer that has taken it sees no packing; so the packing has to see the writer."""
        writer, packer = opens(), opens()
        filled(writer)
        assert packer.unpacked_minutes(AFTER, 10) == []
        assert packer.pack_minute("m", NOON) == Packed()
        assert inside.count("ec_block") == 0
        inside.rest()
        assert packer.unpacked_minutes(AFTER, 10) == [("m", NOON)]
        announce = packer._packing._announce

        def taken_meanwhile(*arguments) -> None:
            announce(*arguments)
            writer.ingest([run_of("m", NOON, 5000)])

        monkeypatch.setattr(packer._packing, "_announce", taken_meanwhile)
        assert packer.pack_minute("m", NOON) == Packed()
        assert inside.count("ec_block") == 0

    def test_two_servers_that_pack_the_same_minute_lose_nothing(
        self, opens: Opens, inside: _Inside, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The slower one has not seen the row that the faster one packs."""
        slow, fast = opens(), opens()
        filled(slow)
        check(slow, "m", NOON, MinuteState.PROVEN)
        inside.rest()
        write = slow._packing._blocks.write

        def later(*arguments) -> None:
            monkeypatch.undo()
            fast.ingest([run_of("m", NOON, 7000)])
            pack_all(fast, inside)
            assert inside.count("ec_consumption") == 0
            write(*arguments)

        monkeypatch.setattr(slow._packing._blocks, "write", later)
        pack_all(slow)
        assert slow.second_text("m", NOON).endswith(";007000,1.5;007010,1.5;007020,1.5;007030,1.5")
        before = everything(fast)
        assert before[-2] == [(NOON, 5, 20)]
        while fast.unpacked_minutes(AFTER, 10):
            pack_all(fast, inside)
        assert everything(opens()) == before

    def test_a_packed_minute_stays_so_until_somebody_writes_to_it(
        self, opens: Opens, inside: _Inside
    ) -> None:
        store, other = opens(), opens()
        filled(store)
        pack_all(store, inside)
        assert store.unpacked_minutes(AFTER, 10) == []
        assert store._days.of_device("m")["20260301"].is_packed
        other.ingest([run_of("m", NOON, 5000)])
        inside.rest()
        assert store.unpacked_minutes(AFTER, 10) == [("m", NOON)]


class TestBlocksThatDisappear:
    def proven_and_packed(self, store: CassandraStore, inside: _Inside) -> None:
        filled(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        pack_all(store, inside)
        assert store.unproven_ranges("m", NOON, NOON + 60) == []

    @pytest.mark.parametrize(
        "cql", [f"TRUNCATE {KEYSPACE}.ec_block", f"DELETE FROM {KEYSPACE}.ec_block WHERE {WHERE}"]
    )
    def test_their_minute_is_unproven_and_proven_again_by_what_is_fetched(
        self, store: CassandraStore, opens: Opens, inside: _Inside, cql: str
    ) -> None:
        self.proven_and_packed(store, inside)
        inside(cql)
        for reader in (store, opens()):
            assert reader.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
            assert reader.ranges_in("m", NOON, NOON + 60, list(MinuteState)) == []
            assert reader.minute_digests("m", NOON, NOON + 60) == []
        store.repair([run_of("m", NOON, 0)])
        assert check(store, "m", NOON, MinuteState.PROVEN) == []
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        pack_all(store, inside)
        assert opens().unproven_ranges("m", NOON, NOON + 60) == []
        assert [d.count for _, d in opens().minute_digests("m", NOON, NOON + 60)] == [4]

    def test_packing_late_rows_does_not_give_proof_back(
        self, store: CassandraStore, opens: Opens, inside: _Inside
    ) -> None:
        self.proven_and_packed(store, inside)
        inside(f"TRUNCATE {KEYSPACE}.ec_block")
        store._rows.write([[StoredRow(run_of("m", NOON, 5000), 10**15, 10**15)]])  # nobody knows of it
        with store._lock:
            store._packing.pack_minute("m", NOON)
        assert opens().unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_blocks_of_an_older_state_are_not_taken_for_all_of_them(
        self, store: CassandraStore, opens: Opens, inside: _Inside
    ) -> None:
        self.proven_and_packed(store, inside)
        (*older, _) = inside(f"SELECT * FROM {KEYSPACE}.ec_block WHERE {WHERE}")
        store.ingest([run_of("m", NOON, 5000)])
        check(store, "m", NOON, MinuteState.PROVEN)
        pack_all(store, inside)
        inside(f"TRUNCATE {KEYSPACE}.ec_block")
        for row in older:
            columns, places = ", ".join(row._fields), ", ".join(["%s"] * len(row._fields))
            inside(f"INSERT INTO {KEYSPACE}.ec_block ({columns}) VALUES ({places})", *row)
        assert opens().unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]


class TestDeletedRows:
    def test_rows_that_come_back_are_the_packed_ones_and_go_with_the_next_packing(
        self, store: CassandraStore, opens: Opens, inside: _Inside, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled(store)
        rows = list(store.rows("m", NOON, NOON + 60))
        check(store, "m", NOON, MinuteState.PROVEN)
        pack_all(store, inside)
        before = everything(store)
        above_the_deletion = time.time_ns() // 1000
        monkeypatch.setattr(store._rows, "_deleted_until", lambda *_: above_the_deletion)
        store._rows.write([rows[:3], rows[3:]])
        assert inside.count("ec_consumption") == 4
        assert everything(opens()) == before
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        inside.rest()
        store.pack_minute("m", NOON)
        assert inside.count("ec_consumption") == 0
        assert everything(opens()) == before

    def test_a_removed_day_takes_its_blocks_along_and_can_be_written_and_packed_again(
        self, store: CassandraStore, opens: Opens, inside: _Inside
    ) -> None:
        filled(store)
        rows = list(store.rows("m", NOON, NOON + 60))
        pack_all(store, inside)
        opens().remove_before(MIDNIGHT + DAY_S)
        assert inside.count("ec_block") == 0
        assert list(opens().rows("m", NOON, NOON + 60)) == []
        store.replay(rows[:2])
        assert pack_all(store, inside).rows == 2
        assert (inside.count("ec_consumption"), inside.count("ec_block")) == (0, 1)
        assert list(opens().rows("m", NOON, NOON + 60)) == rows[:2]

    def test_rows_of_another_form_stay_rows(self, store: CassandraStore, inside: _Inside) -> None:
        filled(store)
        row = f"{WHERE} AND ec_time = '120000' AND start_us = '001000' AND end_us = '001030'"
        inside(f"UPDATE {KEYSPACE}.ec_consumption SET values_checksum = 'damaged' WHERE {row}")
        row = f"{WHERE} AND ec_time = '120005' AND start_us = '000000' AND end_us = '000030'"
        inside(f"UPDATE {KEYSPACE}.ec_consumption SET insert_time = now() WHERE {row}")
        assert pack_all(store, inside) == Packed(rows=2, samples=8, left=2)
        found = inside(
            f"SELECT ec_time, start_us, values_checksum FROM {KEYSPACE}.ec_consumption WHERE {WHERE}"
        )
        assert [(row.ec_time, row.start_us) for row in found] == [("120000", "001000"), ("120005", "000000")]
        assert store.unpacked_minutes(AFTER, 10) == []

    def test_blocks_that_are_not_read_back_as_written_cost_no_row(
        self, store: CassandraStore, inside: _Inside, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled(store)
        before = everything(store)
        write = store._packing._blocks.write
        monkeypatch.setattr(
            store._packing._blocks,
            "write",
            lambda device_id, made, stamp: write(device_id, [one._replace(data=b"x") for one in made], stamp),
        )
        with pytest.raises(RetryableStorageError, match="differ from what was written"):
            pack_all(store, inside)
        assert everything(store) == before
        monkeypatch.undo()
        assert pack_all(store, inside) == Packed(rows=4, samples=16)
        assert everything(store) == before


@pytest.mark.parametrize("is_repacked", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_packing_that_ends_before_any_of_its_requests_is_finished_by_the_next(
    opens: Opens, inside: _Inside, monkeypatch: pytest.MonkeyPatch, is_repacked: bool
) -> None:
    """Killed between two requests: what was written is there, what would follow is not."""
    reader = opens()
    for requests in range(12):
        forget_everything(reader)
        store = opens()
        filled(store)
        check(store, "m", NOON, MinuteState.PROVEN)
        if is_repacked:
            pack_all(store, inside)
            store.ingest([run_of("m", NOON, 5000), batch("m", NOON, {0: "7", 30: "7"})])
            check(store, "m", NOON, MinuteState.PROVEN)
        inside.rest()
        before = everything(reader), reader.unproven_ranges("m", NOON, NOON + 60)
        assert before[1] == []
        write, left = store._db.write, [requests]

        def dies(mutations, write=write, left=left) -> None:
            if left[0] == 0:
                raise DiedError
            left[0] -= 1
            write(mutations)

        monkeypatch.setattr(store._db, "write", dies)
        try:
            store.pack_minute("m", NOON)
        except DiedError:
            pass
        else:
            assert requests >= 5  # said so, blocks, packing, deletion, record
            break
        finally:
            monkeypatch.undo()
        assert reader.unproven_ranges("m", NOON, NOON + 60) == []
        assert everything(reader) == before[0]
        pack_all(opens(), inside)
        assert reader.unproven_ranges("m", NOON, NOON + 60) == []
        assert everything(reader) == before[0]
        assert (inside.count("ec_consumption"), inside.count("ec_block")) == (0, 2)
    else:
        pytest.fail("packing has more requests than were tried")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 40))
def test_any_sequence_of_events_has_the_same_result_with_packing_as_without(
    opens: Opens, inside: _Inside, seed: int
) -> None:
    any_course_of_events(opens(), inside, seed)


def test_bytes_of_rows_and_blocks_are_reported(store: CassandraStore) -> None:
    usage = store._db.disk_usage()
    assert usage is not None
    assert usage.keys() == set(TABLES)
    blocks = usage["ec_block"]
    assert store.stored_bytes() == StoredBytes(sum(usage.values()) - blocks, blocks)


def test_a_device_that_has_only_packed_rows_is_found(
    store: CassandraStore, opens: Opens, inside: _Inside
) -> None:
    filled(store)
    pack_all(store, inside)
    inside(f"TRUNCATE {KEYSPACE}.ec_consumption")
    reader = opens()
    assert reader.stored_days() == [("m", MIDNIGHT)]
    assert reader.earliest_minute("m") == NOON
    assert len(list(reader.rows("m", MIDNIGHT, MIDNIGHT + DAY_S))) == 4
    assert reader.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
