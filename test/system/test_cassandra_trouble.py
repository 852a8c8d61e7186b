"""Cassandra that refuses, is away, hangs or comes back, as the engine sees it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from contract.store_suite import NOON, check, run_of
from free_ports import free_port
from needs import unavailable
from real_cassandra import RealCassandra

from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server.ingest.spool import Spool
from ec_server.ingest.spooling import AccountedSpool, Spooling
from ec_server.ingest.troubles import Troubles
from ec_server.storage.cassandra_opening import open_cassandra_store, target_of
from ec_server.storage.cassandra_store import CassandraStore
from utilities import cassandra_util
from utilities.cassandra_target import Target
from utilities.cassandra_values import Statement
from utilities.checksum_util import md5_hex
from utilities.errors import ConfigurationError, PermanentStorageError, RetryableStorageError
from utilities.model import Batch, CommitMark, MinuteState

pytestmark = pytest.mark.cassandra
MARK = CommitMark("receiver-0", 1)


@contextmanager
def opened(target: Target, *, read_only: bool = False) -> Iterator[CassandraStore]:
    store = CassandraStore(target, read_only=read_only)
    store.wait(60)
    with store:
        yield store


def by_hand(cassandra: RealCassandra, *statements: str) -> None:
    """CQL as somebody else would send it."""
    with opened(cassandra.target("ec_trouble")) as store:
        for statement in statements:
            store._db._session.execute(statement, timeout=30)


def until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


class TestRefusals:
    def test_a_wrong_password_names_its_key(self, cassandra: RealCassandra) -> None:
        if not cassandra.password:
            unavailable("this Cassandra asks for no password")
        store = CassandraStore(cassandra.target("ec_trouble", password="wrong"))
        with pytest.raises(ConfigurationError, match=r"cassandra\.password") as raised:
            store.wait(60)
        assert "wrong" not in str(raised.value).replace("cassandra.", "")

    def test_missing_rights_name_the_user_and_the_keyspace(self, cassandra: RealCassandra) -> None:
        if not cassandra.password:
            unavailable("this Cassandra asks for no password")
        by_hand(
            cassandra, "CREATE ROLE IF NOT EXISTS stranger WITH LOGIN = true AND PASSWORD = 'secret word'"
        )
        stranger = {"username": "stranger", "password": "secret word"}
        may_not_make = CassandraStore(cassandra.target("ec_forbidden", **stranger))
        with pytest.raises(ConfigurationError, match=r"cassandra\.username = stranger.*ec_forbidden"):
            may_not_make.wait(60)
        with opened(cassandra.target("ec_trouble", **stranger)) as may_not_write:
            assert may_not_write.stored_bytes() is None  # which is no trouble
            assert may_not_write.health().writable
            with pytest.raises(PermanentStorageError, match=r"cassandra\.username = stranger.*ec_trouble"):
                may_not_write.ingest([run_of("m", NOON, 0)], MARK)

    def test_the_original_program_s_tables_are_refused_and_not_changed(
        self, cassandra: RealCassandra
    ) -> None:
        by_hand(
            cassandra,
            "CREATE KEYSPACE IF NOT EXISTS ec_original"
            " WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TABLE IF NOT EXISTS ec_original.ec_consumption (device_id text, ec_date text,"
            " ec_time text, start_us text, end_us text, ec_consumption_values text, values_count int,"
            " values_checksum text, insert_time timeuuid,"
            " PRIMARY KEY ((device_id), ec_date, ec_time, start_us, end_us))",
        )
        store = CassandraStore(cassandra.target("ec_original"))
        with pytest.raises(
            ConfigurationError, match=r"ec_consumption has another shape.*cassandra\.keyspace"
        ):
            store.wait(60)

    def test_a_column_of_another_type_is_refused(self, cassandra: RealCassandra) -> None:
        by_hand(
            cassandra,
            "CREATE KEYSPACE IF NOT EXISTS ec_odd"
            " WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TABLE IF NOT EXISTS ec_odd.ec_device (device_id text PRIMARY KEY, first_seen text,"
            " last_seen timeuuid, verified_from text, verified_through text)",
        )
        store = CassandraStore(cassandra.target("ec_odd"))
        with pytest.raises(ConfigurationError, match="columns first_seen text, first_seen timeuuid"):
            store.wait(60)

    def test_an_unknown_data_centre_is_named_with_those_that_exist(self, cassandra: RealCassandra) -> None:
        store = CassandraStore(cassandra.target("ec_trouble", local_dc="nowhere"))
        with pytest.raises(ConfigurationError, match=r"cassandra\.local_dc = nowhere.*datacenter1"):
            store.wait(60)

    def test_copies_in_an_unknown_data_centre_are_refused(self, cassandra: RealCassandra) -> None:
        store = CassandraStore(cassandra.target("ec_copies", replication="nowhere:3"))
        with pytest.raises(ConfigurationError, match=r"cassandra\.replication"):
            store.wait(60)

    def test_a_node_with_another_authority_is_refused(self, cassandra: RealCassandra, tmp_path: Path) -> None:
        if cassandra.tls_ca is None:
            unavailable("this Cassandra offers no TLS")
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        store = CassandraStore(cassandra.target("ec_trouble", tls_ca=other))
        with pytest.raises(ConfigurationError, match=r"cassandra\.tls_ca"):
            store.wait(60)


class TestStart:
    def test_everything_is_written_and_read_over_tls(self, cassandra: RealCassandra) -> None:
        if cassandra.tls_ca is None:
            unavailable("this Cassandra offers no TLS")
        with opened(cassandra.target("ec_trouble", tls_ca=cassandra.tls_ca)) as store:
            store.ingest([run_of("tls", NOON, 0)], MARK)
            assert store.second_text("tls", NOON) == run_of("tls", NOON, 0).values

    def test_a_keyspace_of_version_1_0_gets_the_columns_that_it_lacks(self, cassandra: RealCassandra) -> None:
        keyspace = "ec_earlier"
        with opened(cassandra.target(keyspace)) as store:
            store.ingest([run_of("m", NOON, 0)], MARK)
            check(store, "m", NOON, MinuteState.PROVEN)
        drops = (
            "ec_consumption DROP rank",
            "ec_consumption DROP digest_proof",
            "ec_consumption DROP state_proof",
        )
        by_hand(
            cassandra,
            *(f"ALTER TABLE {keyspace}.{drop}" for drop in drops),
            f"DROP TABLE {keyspace}.ec_replaced",
        )
        reader = CassandraStore(cassandra.target(keyspace), read_only=True)
        reader.wait(60)
        assert "lacks tables or columns" in reader.health().detail
        reader.close()
        with opened(cassandra.target(keyspace)) as store:
            (row,) = store.rows("m", NOON, NOON + 60)
            assert row.rank == row.inserted_us > 0
            assert store.unproven_ranges("m", NOON, NOON + 60) == [(NOON, NOON + 60)]
            assert check(store, "m", NOON, MinuteState.PROVEN) == []
            assert store.unproven_ranges("m", NOON, NOON + 60) == []
            store.repair([run_of("m", NOON, 0, value="2.5")])
            assert store.second_text("m", NOON) == run_of("m", NOON, 0, value="2.5").values

    def test_a_keyspace_made_without_packing_can_be_packed_and_its_compaction_is_named(
        self, cassandra: RealCassandra, caplog: pytest.LogCaptureFixture
    ) -> None:
        keyspace = "ec_before_packing"
        with opened(cassandra.target(keyspace)) as store:
            store.ingest([run_of("m", NOON, 0)], MARK)
            check(store, "m", NOON, MinuteState.PROVEN)
        drops = (
            "ec_consumption DROP last_packing",
            "ec_consumption DROP packed_until",
            "ec_consumption DROP rank",
            "ec_minute DROP packed_version",
            "ec_day DROP packed_version",
        )
        by_hand(
            cassandra,
            *(f"ALTER TABLE {keyspace}.{drop}" for drop in drops),
            f"DROP TABLE {keyspace}.ec_block",
        )
        assert "compact" not in caplog.text
        with CassandraStore(cassandra.target(keyspace), packs=True) as store:
            store.wait(60)
            assert f"ALTER TABLE {keyspace}.ec_consumption WITH compaction" in caplog.text
            rows = list(store.rows("m", NOON, NOON + 60))
            assert store.unpacked_minutes(NOON + 60, 10) == [("m", NOON)]
            assert store.pack_minute("m", NOON).rows == 1
            assert list(store.rows("m", NOON, NOON + 60)) == rows
            assert store.unproven_ranges("m", NOON, NOON + 60) == []
        caplog.clear()
        compaction = "{'class': 'LeveledCompactionStrategy'}"
        by_hand(cassandra, f"ALTER TABLE {keyspace}.ec_consumption WITH compaction = {compaction}")
        with CassandraStore(cassandra.target(keyspace), packs=True) as store:
            store.wait(60)
        assert "WITH compaction" not in caplog.text

    def test_a_contact_point_that_is_down_is_skipped(self, cassandra: RealCassandra) -> None:
        with opened(cassandra.target("ec_trouble", host=("127.0.0.99", cassandra.host))) as store:
            assert store.health().writable

    def test_servers_that_start_at_once_create_one_set_of_tables(self, cassandra: RealCassandra) -> None:
        stores = [CassandraStore(cassandra.target("ec_many")) for _ in range(5)]
        failed: list[Exception] = []

        def use(store: CassandraStore, number: int) -> None:
            try:
                store.wait(90)
                until(lambda: store.health().writable)
                store.ingest([run_of(f"m{number}", NOON, 0)], MARK)
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=use, args=one) for one in zip(stores, range(5))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert failed == []
        for number in range(5):
            assert stores[0].second_text(f"m{number}", NOON) != ""
        for store in stores:
            store.close()

    def test_a_reader_creates_nothing_and_waits_for_the_tables(self, cassandra: RealCassandra) -> None:
        with opened(cassandra.target("ec_nobody_made_this"), read_only=True) as store:
            assert not store.health().writable
            with pytest.raises(RetryableStorageError, match="ec_nobody_made_this"):
                store.devices()

    def test_the_configuration_reaches_the_cluster(self) -> None:
        settings = Settings()
        target = target_of(settings)
        assert (target.host, target.port, target.keyspace) == (("127.0.0.1",), 9042, "mykeyspace")
        assert target.consistency == "LOCAL_QUORUM"
        assert "password" not in repr(target)


class TestOutage:
    def test_a_store_opens_without_a_database_and_says_so(self) -> None:
        store = CassandraStore(Target(("127.0.0.1",), free_port(), "ec_trouble"))
        began = time.monotonic()
        store.wait(20)
        health = store.health()
        assert not health.writable
        assert "does not answer" in health.detail
        with pytest.raises(RetryableStorageError):
            store.ingest([run_of("m", NOON, 0)], MARK)
        store.close()
        assert time.monotonic() - began < 10

    def test_a_node_that_hangs_costs_one_wait_and_comes_back_by_itself(
        self, cassandra: RealCassandra
    ) -> None:
        node = cassandra.own_node()
        with opened(cassandra.target("ec_trouble")) as store:
            store.ingest([run_of("hang", NOON, 0)], MARK)
            node.pause()
            try:
                waits = []
                for _ in range(3):
                    began = time.monotonic()
                    with pytest.raises(RetryableStorageError):
                        store.ingest([run_of("hang", NOON, 1000)], MARK)
                    waits.append(time.monotonic() - began)
                assert waits[0] < 8
                assert max(waits[1:]) < 0.5
                assert not store.health().writable
            finally:
                node.resume()
            until(lambda: store.health().writable)
            assert store.ingest([run_of("hang", NOON, 1000)], MARK).changed == (True,)
            assert len(list(store.rows("hang", NOON, NOON + 1))) == 2

    def test_a_connection_that_is_full_is_waited_for(
        self, cassandra: RealCassandra, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With little room for what is sent, the driver refuses requests while it sends those before."""
        connect = cassandra_util.cluster.Cluster

        def with_little_room(*arguments: Any, sockopts: Any, **more: Any) -> Any:
            little = (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            return connect(*arguments, sockopts=[*sockopts, little], **more)

        monkeypatch.setattr(cassandra_util.cluster, "Cluster", with_little_room)
        text = ";".join(f"{us:06d},{us}.5" for us in range(1000))
        large = [
            Batch("full", second, 0, 999, text, 1000, md5_hex(text)) for second in range(NOON, NOON + 3000)
        ]
        with opened(cassandra.target("ec_trouble")) as store:
            assert all(store.ingest(large, MARK).changed)
            assert sum(rows for _, rows, _ in store.row_counts("full", NOON, NOON + 3000)) == 3000

    @pytest.mark.soak
    def test_a_node_that_is_killed_comes_back_with_everything_acknowledged(
        self, cassandra: RealCassandra
    ) -> None:
        node = cassandra.own_node()
        with opened(cassandra.target("ec_trouble")) as store:
            for i in range(20):
                store.ingest([run_of("killed", NOON + i, 0)], MARK)
            node.kill()
            late = CassandraStore(cassandra.target("ec_trouble"))
            try:
                with pytest.raises(RetryableStorageError):
                    store.ingest([run_of("killed", NOON + 20, 0)], MARK)
                late.wait(20)
                assert not late.health().writable
            finally:
                node.start()
                node.wait_until_ready()
            for one, second in ((store, 20), (late, 21)):
                until(lambda one=one: one.health().writable)
                one.ingest([run_of("killed", NOON + second, 0)], MARK)
            late.close()
            stored = [row.second - NOON for row, _, _ in store.rows("killed", NOON, NOON + 60)]
            assert stored == list(range(22))

    def test_a_row_that_the_database_never_accepts_is_distinguished_from_an_outage(
        self, cassandra: RealCassandra
    ) -> None:
        with opened(cassandra.target("ec_trouble")) as store:
            with pytest.raises(PermanentStorageError):
                store._db.write([[Statement("INSERT INTO ec_device (device_id) VALUES (?)", ("",))]])
            assert store.health().writable
            assert store.ingest([run_of("after", NOON, 0)], MARK).changed == (True,)

    def test_a_row_too_large_for_cassandra_is_set_aside_and_the_rest_goes_on(
        self, cassandra: RealCassandra, tmp_path: Path
    ) -> None:
        spool = Spool(tmp_path / "spool.sqlite", 10**9)
        good = [run_of("poisoned", NOON + i, 0) for i in range(3)]
        poison = Batch("poisoned", NOON + 9, 0, 5, "1" * 20_000_000, 1, "0" * 32)
        spool.append([good[0], poison, good[1]], 1_772_366_400_000_000)
        spool.append([good[2]], 1_772_366_400_000_100)
        drained: list[Mapping[str, int]] = []
        spooling = Spooling(
            AccountedSpool(spool, drained.append),
            (),
            lambda: open_cassandra_store(read_settings(None, cassandra.settings("ec_trouble"))),
            Troubles(lambda _trouble: None),
        )
        thread = threading.Thread(target=spooling.run, daemon=True)
        thread.start()
        until(lambda: sum(d["spooled"] for d in drained) == -4)
        spooling.stop()
        thread.join(30)
        assert [(d["stored"], d["rejected_unstorable"]) for d in drained] == [(3, 1)]
        with opened(cassandra.target("ec_trouble")) as store:
            assert [row.batch for row in store.rows("poisoned", NOON, NOON + 60)] == good


def test_open_cassandra_store_takes_the_settings(cassandra: RealCassandra, monkeypatch) -> None:
    environ = cassandra.settings("ec_trouble")
    with open_cassandra_store(read_settings(None, environ)) as store:
        assert store.health().writable
