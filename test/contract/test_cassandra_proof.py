"""On Cassandra, proof stands with the rows: what takes rows away, or back, takes their proof along."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from contract.store_suite import MIDNIGHT, NOON, batch, check, run_of
from real_cassandra import RealCassandra, forget_everything

from ec_server.storage import cassandra_settled
from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.contract import FinishedMinute
from utilities.model import CommitMark, Digest, MinuteState, StoredRow
from utilities.utc import DAY_S

pytestmark = pytest.mark.cassandra
KEYSPACE = "ec_proof"
MARK = CommitMark("receiver-0", 1)
PARTITION = "device_id = 'm' AND ec_date = '20260301' AND ec_minute = '1200'"

Opens = Callable[[], CassandraStore]


@pytest.fixture(scope="module")
def keeper(cassandra: RealCassandra) -> Iterator[CassandraStore]:
    with CassandraStore(cassandra.target(KEYSPACE)) as store:
        store.wait(60)
        yield store


@pytest.fixture
def opens(cassandra: RealCassandra, keeper: CassandraStore) -> Iterator[Opens]:
    forget_everything(keeper)
    opened: list[CassandraStore] = []

    def another() -> CassandraStore:
        opened.append(CassandraStore(cassandra.target(KEYSPACE)))
        opened[-1].wait(30)
        return opened[-1]

    yield another
    for store in opened:
        store.close()


def by_hand(store: CassandraStore, cql: str, values: tuple[object, ...] = ()) -> list:
    """A statement of another program."""
    return list(store._db._session.execute(cql, values, timeout=30))


def proven_minutes(store: CassandraStore, count: int) -> None:
    for i in range(count):
        store.ingest([run_of("m", NOON + 60 * i, 0)], MARK)
        assert check(store, "m", NOON + 60 * i, MinuteState.PROVEN) == []
    assert store.unproven_ranges("m", NOON, NOON + 60 * count) == []


class TestRowsThatDisappear:
    def test_a_truncated_table_leaves_nothing_proven_and_no_digest(self, opens: Opens) -> None:
        store = opens()
        proven_minutes(store, 2)
        check(store, "m", NOON + 120, MinuteState.EMPTY)
        by_hand(store, f"TRUNCATE {KEYSPACE}.ec_consumption")
        for reader in (store, opens()):
            assert reader.unproven_ranges("m", NOON, NOON + 180) == [(NOON, NOON + 120)]
            assert reader.ranges_in("m", NOON, NOON + 120, list(MinuteState)) == []
            assert reader.minute_digests("m", NOON, NOON + 180) == []
            assert reader.second_digests("m", NOON) == []
            states = [r.state for r in reader.minutes("m", NOON, NOON + 180)]
            assert states == [
                None,
                None,
                MinuteState.EMPTY,
            ]  # nothing was stored of it, and so nothing is gone

    def test_a_published_digest_is_removed_with_its_rows(self, opens: Opens) -> None:
        writer, reader = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        second = ((NOON, Digest(4, "0" * 32)),)
        for complete in (True, False):
            writer.publish([FinishedMinute("m", NOON, second, complete=complete)])
            by_hand(reader, f"DELETE FROM {KEYSPACE}.ec_consumption WHERE {PARTITION}")
            assert reader.second_digests("m", NOON) == []
            assert reader.minute_digests("m", NOON, NOON + 60) == []

    def test_a_partition_that_was_removed_costs_its_own_minute(self, opens: Opens) -> None:
        store = opens()
        proven_minutes(store, 3)
        by_hand(store, f"DELETE FROM {KEYSPACE}.ec_consumption WHERE {PARTITION}")
        assert store.unproven_ranges("m", NOON, NOON + 180) == [(NOON, NOON + 60)]
        store.note_devices({"m": 1})
        store.note_coverage("m", NOON)
        record = opens().device("m")
        assert record is not None
        assert record.verified_through == NOON

    def test_rows_of_an_older_state_are_not_proven_by_what_was_recorded_since(self, opens: Opens) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0)], MARK)
        check(store, "m", NOON, MinuteState.PROVEN)
        (older,) = by_hand(store, f"SELECT * FROM {KEYSPACE}.ec_consumption WHERE {PARTITION}")
        store.ingest([run_of("m", NOON, 1000)], MARK)
        check(store, "m", NOON, MinuteState.PROVEN)
        by_hand(store, f"TRUNCATE {KEYSPACE}.ec_consumption")
        places = ", ".join(["%s"] * len(older._fields))
        columns = ", ".join(older._fields)
        by_hand(store, f"INSERT INTO {KEYSPACE}.ec_consumption ({columns}) VALUES ({places})", tuple(older))
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        assert store.minute_digests("m", NOON, NOON + 60)[0][1].count == 4

    @pytest.mark.parametrize("table", ["ec_minute", "ec_checksum", "ec_day"])
    def test_losing_anything_else_can_only_remove_proof(self, opens: Opens, table: str) -> None:
        store = opens()
        proven_minutes(store, 1)
        by_hand(store, f"TRUNCATE {KEYSPACE}.{table}")
        assert store.unproven_ranges("m", NOON, NOON + 60) in ([], [(NOON, NOON + 60)])
        assert [d.count for _, d in opens().minute_digests("m", NOON, NOON + 60, from_rows=True)] == [4]

    def test_a_day_that_is_remembered_is_read_again_after_a_while(self, opens: Opens, monkeypatch) -> None:
        store = opens()
        evening = MIDNIGHT + DAY_S - 120
        for minute in (evening, evening + 60):
            store.ingest([run_of("m", minute, 0)], MARK)
            check(store, "m", minute, MinuteState.PROVEN)
        assert store.unproven_ranges("m", evening, evening + 120) == []
        by_hand(store, f"TRUNCATE {KEYSPACE}.ec_consumption")
        assert opens().unproven_ranges("m", evening, evening + 120) == [(evening, evening + 120)]
        monkeypatch.setattr(cassandra_settled, "REREAD_AFTER_S", 0.0)
        assert store.unproven_ranges("m", evening, evening + 120) == [(evening, evening + 120)]

    def test_a_minute_without_rows_is_not_counted_as_one_with_a_row(self, opens: Opens) -> None:
        store = opens()
        for minute, state in ((NOON, MinuteState.UNRESOLVED), (NOON + 60, MinuteState.EMPTY)):
            check(store, "m", minute, state)
        store.ingest([run_of("m", NOON + 120, 0)], MARK)
        check(store, "m", NOON + 120, MinuteState.PROVEN)
        by_hand(store, f"DELETE FROM {KEYSPACE}.ec_consumption WHERE {PARTITION}".replace("1200", "1202"))
        store.minute_digests("m", NOON, NOON + 180)
        assert store.row_counts("m", NOON, NOON + 180) == []
        assert list(store.rows("m", NOON, NOON + 180)) == []
        assert store.earliest_minute("m") is None

    def test_minutes_in_a_state_are_found_in_any_span(self, opens: Opens) -> None:
        store = opens()
        check(store, "m", NOON, MinuteState.EMPTY)
        store.ingest([run_of("m", NOON + 60, 0)], MARK)
        check(store, "m", NOON + 60, MinuteState.PROVEN)
        ever = (0, 2**62)
        assert store.ranges_in("m", *ever, [MinuteState.EMPTY]) == [(NOON, NOON + 60)]
        assert store.ranges_in("m", *ever, [MinuteState.PROVEN]) == [(NOON + 60, NOON + 120)]


class TestRowsOfOneKey:
    A = batch("m", NOON, {0: "9", 10: "9"})
    B = batch("m", NOON, {0: "1", 10: "1"})

    def test_a_message_taken_again_does_not_replace_its_repaired_row(self, opens: Opens) -> None:
        receiver, sync = opens(), opens()
        receiver.ingest([self.A], MARK)
        sync.repair([self.B])
        for writer in (receiver, opens()):
            assert writer.ingest([self.A], MARK).changed == (False,)
        assert opens().second_text("m", NOON) == self.B.values
        (kept,) = sync.replaced_rows("m", NOON, NOON + 1)
        assert (kept.row.batch, kept.reason) == (self.A, "repair")

    def test_a_message_taken_again_does_not_replace_its_merged_row(self, opens: Opens) -> None:
        opens().ingest([batch("m", NOON, {0: "9", 10: "9"})], MARK)
        other = batch("m", NOON, {0: "1", 5: "1", 10: "1"})
        opens().ingest([other], MARK)
        for late in (self.A, other):
            assert opens().ingest([late], MARK).changed == (False,)
            assert opens().replay([StoredRow(late, 1, 1)]).changed == (False,)
        assert opens().second_text("m", NOON) == other.values

    def test_a_replay_of_the_repaired_row_changes_nothing_whatever_its_rank(self, opens: Opens) -> None:
        opens().ingest([self.A], MARK)
        opens().repair([self.B])
        late_us = (int(time.time()) + 60) * 1_000_000
        for rank in (1, late_us):
            assert opens().replay([StoredRow(self.A, rank, rank)]).changed == (False,)
        assert opens().second_text("m", NOON) == self.B.values

    def test_a_message_taken_again_does_not_win_over_a_later_one(self, opens: Opens) -> None:
        later = batch("m", NOON, {5: "2", 10: "2"})
        opens().ingest([self.A], MARK)
        opens().ingest([later], MARK)
        writer = opens()
        assert check(writer, "m", NOON, MinuteState.PROVEN) == []
        assert writer.ingest([self.A], MARK).changed == (False,)
        assert writer.second_text("m", NOON) == "000000,9;000005,2;000010,2"
        assert writer.unproven_ranges("m", NOON, NOON + 60) == []

    def test_an_unreadable_time_of_another_program_costs_nothing(self, opens: Opens) -> None:
        store = opens()
        store.ingest([self.A], MARK)
        for table, columns, values in (
            ("ec_consumption", "ec_minute, start_us, end_us", "'1200', '000000', '000000'"),
            ("ec_checksum", "ec_type, values_count, values_checksum", "'S', 1, 'none'"),
        ):
            by_hand(
                store,
                f"INSERT INTO {KEYSPACE}.{table} (device_id, ec_date, ec_time, {columns})"
                f" VALUES ('m', '20260301', '12000z', {values})",
            )
        assert [row.batch for row in store.rows("m", NOON, NOON + 60)] == [self.A]
        assert check(store, "m", NOON, MinuteState.PROVEN) == []
        assert store.unproven_ranges("m", NOON, NOON + 60) == []
        assert (NOON, "S") in store.checks("m", NOON)

    def test_a_damaged_row_is_reported_and_kept_when_a_repair_replaces_it(self, opens: Opens) -> None:
        store = opens()
        store.ingest([self.A, run_of("m", NOON, 1000)], MARK)
        by_hand(
            store,
            f"UPDATE {KEYSPACE}.ec_consumption SET ec_consumption_values = '000000,\u00fc'"
            f" WHERE {PARTITION} AND ec_time = '120000' AND start_us = '000000' AND end_us = '000010'",
        )
        store.minute_digests("m", NOON, NOON + 60, from_rows=True)
        (damage,) = store.health().damage
        assert "ec_consumption" in damage
        assert "20260301 120000" in damage
        assert store.repair([self.A]).changed == (True,)
        assert store.second_text("m", NOON) == self.A.values + ";" + run_of("m", NOON, 1000).values
        (kept,) = store.replaced_rows("m", NOON, NOON + 1)
        assert (kept.row.batch.checksum, kept.reason) == (self.A.checksum, "repair")
        store.minute_digests("m", NOON, NOON + 60, from_rows=True)
        assert store.health().damage == ()
