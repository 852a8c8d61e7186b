"""The Cassandra engine keeps the storage contract, on a real Cassandra."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from contract.store_suite import MIDNIGHT, NOON, Opens, StoreSuite, batch, check, expected_second, run_of
from real_cassandra import RealCassandra, forget_everything

from ec_server.storage import cassandra_claims, ranges
from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.contract import FinishedMinute, Store
from utilities.cassandra_values import Statement
from utilities.errors import RetryableStorageError
from utilities.model import CommitMark, Digest, MinuteState, StoredRow
from utilities.utc import DAY_S, ec_date, ec_time

pytestmark = pytest.mark.cassandra
KEYSPACE = "ec_contract"
MARK = CommitMark("receiver-0", 1)
EARLY_US = NOON * 1_000_000 + 1


@pytest.fixture(scope="module")
def keeper(cassandra: RealCassandra) -> Iterator[CassandraStore]:
    store = CassandraStore(cassandra.target(KEYSPACE))
    store.wait(60)
    yield store
    store.close()


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


class TestCassandraStore(StoreSuite):
    @pytest.fixture
    def opens(self, opens: Opens) -> Opens:
        return opens


class TestWrites:
    def test_a_message_of_a_removed_day_is_no_duplicate_and_its_day_is_on_record(self, opens: Opens) -> None:
        writer, keeper = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        keeper.remove_before(MIDNIGHT + DAY_S)
        assert writer.ingest([run_of("m", NOON, 0)], MARK).changed == (True,)
        assert keeper.second_text("m", NOON) == run_of("m", NOON, 0).values
        assert keeper.earliest_minute("m") == NOON
        assert keeper.remove_before(MIDNIGHT + DAY_S) == ["20260301"]
        writer.repair([run_of("m", NOON, 5000)])
        assert writer.ingest([run_of("m", NOON, 0)], MARK).changed == (True,)

    def test_old_rows_can_be_brought_back_into_a_day_that_was_removed(self, opens: Opens) -> None:
        writer, keeper = opens(), opens()
        rows = [StoredRow(run_of("m", NOON, us), EARLY_US + us, EARLY_US + us) for us in (0, 1000)]
        writer.replay(rows[:1])
        keeper.remove_before(MIDNIGHT + DAY_S)
        opens().replay(rows)
        assert list(keeper.rows("m", NOON, NOON + 1)) == rows
        assert [d.count for _, d in keeper.minute_digests("m", NOON, NOON + 60)] == [8]
        keeper.repair([run_of("m", NOON, 0, value="2.5")])
        assert keeper.second_text("m", NOON).startswith("000000,2.5;")

    def test_a_duplicate_is_recognised_whoever_wrote_the_row(self, opens: Opens) -> None:
        one, other = opens(), opens()
        assert one.ingest([run_of("m", NOON, 0)], MARK).changed == (True,)
        again = one.ingest([run_of("m", NOON, 0), run_of("m", NOON, 1000), run_of("m", NOON, 1000)], MARK)
        assert again.changed == (False, True, False)
        assert other.ingest([run_of("m", NOON, 0)], MARK).changed == (False,)
        assert len(list(one.rows("m", NOON, NOON + 1))) == 2

    def test_one_key_with_other_samples_becomes_a_row_with_both(self, opens: Opens) -> None:
        store = opens()
        for mark in (MARK, None):
            device = f"m{mark is None}"
            store.ingest([batch(device, NOON, {0: "1", 10: "1", 90: "1"})], mark)
            store.ingest([batch(device, NOON, {0: "2", 20: "2", 90: "1"})], mark)
            assert store.second_text(device, NOON) == "000000,2;000010,1;000020,2;000090,1"
            assert len(list(store.rows(device, NOON, NOON + 1))) == 1

    def test_a_late_replay_does_not_win_over_a_repair(self, opens: Opens) -> None:
        ingest, sync = opens(), opens()
        wrong = StoredRow(batch("m", NOON, {0: "9", 10: "9"}), 1_772_366_400_000_000, 1_772_366_400_000_000)
        ingest.replay([wrong])
        sync.repair([batch("m", NOON, {0: "1", 10: "1"}), batch("m", NOON, {10: "5", 20: "5"})])
        repaired = sync.second_text("m", NOON)
        for _ in range(2):
            opens().replay([wrong])
        assert sync.second_text("m", NOON) == repaired == "000000,1;000010,5;000020,5"

    def test_a_replay_carries_its_moment(self, opens: Opens) -> None:
        store = opens()
        moments = (1_772_366_400_000_000, 1_772_366_400_000_001)
        group = [StoredRow(run_of("m", NOON, 1000 * (at % 2)), at, at) for at in moments]
        for _ in range(2):
            store.replay(group)
        assert [row.inserted_us for row in store.rows("m", NOON, NOON + 1)] == [
            1_772_366_400_000_000,
            1_772_366_400_000_001,
        ]

    def test_a_repair_wins_over_rows_that_a_faster_clock_wrote(self, opens: Opens) -> None:
        fast, sync = opens(), opens()
        ahead_us = (int(time.time()) + 3600) * 1_000_000
        fast.replay([StoredRow(batch("ahead", NOON, {0: "9", 10: "9"}), ahead_us, ahead_us)])
        sync.repair([batch("ahead", NOON, {10: "1", 20: "1"})])
        sync.repair([batch("ahead", NOON, {0: "1", 10: "2"})])
        assert sync.second_text("ahead", NOON) == "000000,1;000010,2;000020,1"

    def test_a_message_ranks_above_what_a_faster_clock_wrote(self, opens: Opens) -> None:
        ahead_us = (int(time.time()) + 7200) * 1_000_000
        opens().replay([StoredRow(batch("fast", NOON, {0: "9", 10: "9"}), ahead_us, ahead_us)])
        opens().ingest([batch("fast", NOON, {10: "1", 20: "1"})], MARK)
        assert opens().second_text("fast", NOON) == "000000,9;000010,1;000020,1"

    def test_a_removed_day_leaves_nothing_of_a_fast_clock_and_can_be_written_again(
        self, opens: Opens
    ) -> None:
        fast, keeper = opens(), opens()
        ahead_us = (int(time.time()) + 7200) * 1_000_000
        fast.replay([StoredRow(run_of("future", NOON, 0), ahead_us, ahead_us)])
        check(fast, "future", NOON, MinuteState.PROVEN)
        assert keeper.remove_before(MIDNIGHT + DAY_S) == ["20260301"]
        fresh = opens()
        assert list(fresh.rows("future", NOON, NOON + 60)) == []
        assert fresh.minutes("future", NOON, NOON + 60) == []
        assert fresh.earliest_minute("future") is None
        assert keeper.remove_before(MIDNIGHT + DAY_S) == []
        slow = opens()
        slow.ingest([run_of("future", NOON, 1000)], MARK)
        assert opens().second_text("future", NOON) == run_of("future", NOON, 1000).values
        assert [d.count for _, d in opens().minute_digests("future", NOON, NOON + 60)] == [4]
        keeper.remove_before(MIDNIGHT + DAY_S)

    def test_a_repair_of_a_second_is_one_mutation_with_what_it_replaces(
        self, opens: Opens, monkeypatch
    ) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 1000 * i, value="7") for i in range(3)], MARK)
        sent: list[int] = []
        write = store._db.write

        def watched(mutations) -> None:
            kept = list(mutations)
            sent.extend(len(mutation) for mutation in kept)
            write(kept)

        monkeypatch.setattr(store._rows._db, "write", watched)
        store.repair([run_of("m", second, 1000 * i) for second in (NOON, NOON + 1) for i in range(400)])
        assert [statements for statements in sent if statements > 2] == [403, 400]
        assert len(store.replaced_rows("m", NOON, NOON + 2)) == 3

    def test_rows_end_with_their_days_retention(self, cassandra: RealCassandra, opens: Opens) -> None:
        opens()
        now = int(time.time())
        today = now // DAY_S * DAY_S
        with CassandraStore(cassandra.target(KEYSPACE), retention_days=3) as store:
            store.wait(30)
            store.ingest([run_of("m", now, 0)])
            (row,) = store._db.read(
                "SELECT TTL(values_count) AS ttl FROM ec_consumption"
                " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?",
                *("m", ec_date(now), ec_time(now)[:4]),
            )
        left_s = today + 4 * DAY_S - time.time()
        assert abs(row.ttl - left_s) < 10

    def test_a_minute_with_a_failed_or_repeated_write_is_not_published(self, opens: Opens) -> None:
        store = opens()
        finished = expected_second(dict.fromkeys((0, 10, 20, 30), "1.5"))
        store.replay([StoredRow(run_of("replayed", NOON, 0), 1_772_366_400_000_000, 1_772_366_400_000_000)])
        assert store.publish([FinishedMinute("replayed", NOON, ((NOON, finished),), complete=True)]) == 0
        store.ingest([run_of("whole", NOON, 0)], MARK)
        assert store.publish([FinishedMinute("whole", NOON, ((NOON, finished),), complete=True)]) == 1


class TestProof:
    def test_a_published_digest_is_used(self, opens: Opens) -> None:
        one, other = opens(), opens()
        one.ingest([run_of("m", NOON, 0)], MARK)
        told = Digest(4, "0" * 32)
        one.publish([FinishedMinute("m", NOON, ((NOON, told),), complete=True)])
        assert other.second_digests("m", NOON) == [(NOON, told)]
        assert other.minute_digests("m", NOON, NOON + 60, from_rows=True)[0][1] != told

    def test_a_writer_that_died_after_its_rows_leaves_no_false_proof(self, opens: Opens) -> None:
        doomed, reader = opens(), opens()
        doomed.ingest([run_of("m", NOON, 0)], MARK)
        assert check(reader, "m", NOON, MinuteState.PROVEN) == []
        late = [StoredRow(run_of("m", NOON, 1000), EARLY_US, EARLY_US)]
        doomed._rows.write([late])  # and no new version after it
        assert reader.unproven_ranges("m", NOON, NOON + 60) == []
        long_ago = (int(time.time()) - 1000) * 1_000_000
        line = (
            "UPDATE ec_minute SET leased_until = ?"
            " WHERE device_id = ? AND ec_date = ? AND ec_time = ? AND writer = ?"
        )
        reader._db.write([[Statement(line, (long_ago, "m", "20260301", "120000", doomed._claims.writer))]])
        assert reader.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        assert reader.minute_digests("m", NOON, NOON + 60)[0][1].count == 8
        assert check(reader, "m", NOON, MinuteState.PROVEN) == []
        assert reader.unproven_ranges("m", NOON, NOON + 60) == []

    def test_a_living_writers_row_voids_what_was_concluded_before_it(self, opens: Opens) -> None:
        writer, reader = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        for at_us in (1000, 2000, 3000):
            assert check(reader, "m", NOON, MinuteState.PROVEN) == []
            assert reader.unproven_ranges("m", NOON, NOON + 60) == []
            writer.ingest([run_of("m", NOON, at_us)], MARK)
            assert reader.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]

    def test_a_row_stored_while_a_digest_is_computed_voids_the_digest(
        self, opens: Opens, monkeypatch
    ) -> None:
        writer, reader = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        read = reader._digests._uncached_seconds

        def slowly(*arguments):
            yield from list(read(*arguments))
            writer.ingest([run_of("m", NOON, 1000)], MARK)

        monkeypatch.setattr(reader._digests, "_uncached_seconds", slowly)
        assert reader.minute_digests("m", NOON, NOON + 60)[0][1].count == 4
        monkeypatch.undo()
        assert reader.minute_digests("m", NOON, NOON + 60)[0][1].count == 8

    def test_rows_brought_by_another_program_are_noticed_when_the_rows_are_read(self, opens: Opens) -> None:
        store = opens()
        store.ingest([run_of("m", NOON, 0)])
        check(store, "m", NOON, MinuteState.PROVEN)
        for minute in (NOON, NOON + 60):
            foreign = StoredRow(run_of("m", minute, 5000), EARLY_US, EARLY_US)
            store._rows.write([[foreign]])
        counts = [d.count for _, d in store.minute_digests("m", NOON, NOON + 180, from_rows=True)]
        assert counts == [8, 4]
        assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        assert [d.count for _, d in opens().minute_digests("m", NOON, NOON + 180)] == [8, 4]

    def test_a_row_stored_while_an_audit_finds_foreign_rows_is_in_the_digest(
        self, opens: Opens, monkeypatch
    ) -> None:
        writer, auditor = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        check(auditor, "m", NOON, MinuteState.PROVEN)
        writer._rows.write([[StoredRow(run_of("m", NOON, 5000), EARLY_US, EARLY_US)]])
        count = auditor._count_as_written

        def slowly(*arguments):
            writer.ingest([run_of("m", NOON, 1000)], MARK)
            return count(*arguments)

        monkeypatch.setattr(auditor._digests, "_counts_as_written", slowly)
        assert auditor.minute_digests("m", NOON, NOON + 60, from_rows=True)[0][1].count == 12
        assert opens().minute_digests("m", NOON, NOON + 60)[0][1].count == 12

    def test_a_day_that_is_final_as_a_whole_is_read_once(self, opens: Opens) -> None:
        writer, reader = opens(), opens()
        evening = MIDNIGHT + DAY_S - 120
        for minute in (evening, evening + 60):
            writer.ingest([run_of("m", minute, 0)], MARK)
        writer._claims.release_all()
        for minute in (evening, evening + 60):
            check(reader, "m", minute, MinuteState.PROVEN)
        tomorrow = MIDNIGHT + DAY_S
        assert reader.unproven_ranges("m", evening, tomorrow) == []
        assert reader._days.of_device("m")["20260301"].proven_from == "2358"
        assert reader.unproven_ranges("m", evening + 60, tomorrow) == []
        assert reader.unproven_ranges("m", evening - 60, tomorrow) == [(evening - 60, evening)]
        writer.ingest([run_of("m", evening, 5000)], MARK)
        assert reader.unproven_ranges("m", evening, tomorrow) == [(evening, evening + 60)]

    def test_leases_end_by_themselves_when_nothing_is_written(self, opens: Opens) -> None:
        writer, reader = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        assert reader._records.lines("m", NOON, NOON + 60)[NOON].is_leased
        deadline = time.monotonic() + 15
        while reader._records.lines("m", NOON, NOON + 60)[NOON].is_leased:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert writer.ingest([run_of("m", NOON, 1000)], MARK).changed == (True,)
        assert reader.minute_digests("m", NOON, NOON + 60)[0][1].count == 8

    def test_a_lease_under_which_a_write_failed_ends_with_a_new_version(
        self, opens: Opens, monkeypatch
    ) -> None:
        writer, reader = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        assert check(reader, "m", NOON, MinuteState.PROVEN) == []
        store_rows = writer._rows.write

        def stored_but_not_acknowledged(groups) -> None:
            store_rows(groups)
            raise RetryableStorageError("no answer in time")

        monkeypatch.setattr(writer._rows, "write", stored_but_not_acknowledged)
        with pytest.raises(RetryableStorageError):
            writer.ingest([run_of("m", NOON, 1000)], MARK)
        writer._claims.release_all()
        assert reader.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
        assert reader.minute_digests("m", NOON, NOON + 60)[0][1].count == 8

    def test_leases_of_many_devices_end_side_by_side_and_not_all_in_one_upkeep(
        self, opens: Opens, monkeypatch
    ) -> None:
        store = opens()
        store.ingest([run_of(f"m{i}", NOON, 0) for i in range(300)], MARK)
        ended: list[int] = []
        write = store._db.write

        def watched(mutations) -> None:
            kept = list(mutations)
            ended.append(len(kept))
            write(kept)

        monkeypatch.setattr(store._db, "write", watched)
        monkeypatch.setattr(cassandra_claims, "IDLE_S", -1.0)
        with store._lock:
            store._claims.release()
            store._claims.release()
        assert ended == [256, 44]

    def test_a_machine_that_was_suspended_leases_again_before_it_writes(
        self, opens: Opens, monkeypatch
    ) -> None:
        writer, reader = opens(), opens()
        writer.ingest([run_of("m", NOON, 0)], MARK)
        versions = [reader._records.lines("m", NOON, NOON + 60)[NOON].fingerprint]
        clock_gettime, store_rows = time.clock_gettime, writer._rows.write

        def after_an_hour(clock: int) -> float:
            return clock_gettime(clock) + (3600 if clock == time.CLOCK_BOOTTIME else 0)

        def watched(groups) -> None:
            versions.append(reader._records.lines("m", NOON, NOON + 60)[NOON].fingerprint)
            store_rows(groups)

        monkeypatch.setattr(writer._rows, "write", watched)
        monkeypatch.setattr(time, "clock_gettime", after_an_hour)
        writer.ingest([run_of("m", NOON, 1000)], MARK)
        assert versions[0] != versions[1]

    def test_writers_readers_and_verdicts_at_once_end_in_the_truth(self, opens: Opens) -> None:
        minutes = [NOON + 60 * i for i in range(3)]
        stores = [opens() for _ in range(5)]
        stop = threading.Event()
        failed: list[BaseException] = []

        def write(store: Store, number: int) -> None:
            for i in range(150):
                minute = minutes[(i * 7 + number) % 3]
                store.ingest([run_of("m", minute + i % 60, 1000 * number + 100 * (i // 60))], MARK)
                if i % 40 == 39:
                    one = FinishedMinute("m", minute, ((minute, Digest(1, "0" * 32)),), complete=True)
                    assert store.publish([one]) == 0, "others write to this minute"

        def read(store: Store) -> None:
            while not stop.is_set():
                for minute in minutes:
                    check(store, "m", minute, MinuteState.PROVEN)
                    store.second_digests("m", minute)

        def guarded(body, *arguments) -> None:
            try:
                body(*arguments)
            except BaseException as error:
                failed.append(error)

        writers = [
            threading.Thread(target=guarded, args=(write, stores[i], i), daemon=True) for i in range(3)
        ]
        readers = [threading.Thread(target=guarded, args=(read, store), daemon=True) for store in stores[3:]]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join(60)
        stop.set()
        for thread in readers:
            thread.join(30)
        assert failed == []
        fresh = opens()
        cached = fresh.minute_digests("m", NOON, NOON + 180)
        proven = ranges.subtract([(NOON, NOON + 180)], fresh.unproven_ranges("m", NOON, NOON + 180))
        assert fresh.minute_digests("m", NOON, NOON + 180, from_rows=True) == cached
        assert ranges.subtract([(NOON, NOON + 180)], fresh.unproven_ranges("m", NOON, NOON + 180)) == proven
        assert sum(rows for _, rows, _ in fresh.row_counts("m", NOON, NOON + 180)) == 450
