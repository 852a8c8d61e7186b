"""The whole server on a real Cassandra: the checks that SQLite passes, and what only a cluster can do."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from needs import unavailable
from real_cassandra import RealCassandra, forget_everything
from running_server import ROOT, RunningServer, wait_for
from sync_meter import MemoryMeter, stored_samples, text_of, waveform
from sync_process import SyncProcess, an_hour_ago
from system import test_meters_end_to_end as meter_checks
from system import test_packing_server as packing_checks
from system import test_sync_server as sync_checks
from system.sip_peer import request
from system.test_sync_server import meters

from ec_server.storage.cassandra_store import CassandraStore
from utilities.checksum_util import md5_hex
from utilities.model import Batch, StoredRow
from utilities.utc import ec_date, ec_time, parse_ec

__all__ = ["meters"]
pytestmark = pytest.mark.cassandra


class Keyspace:
    """The keyspace of these tests on the session's Cassandra, emptied."""

    def __init__(self, cassandra: RealCassandra) -> None:
        self.name = "ec_server"
        self.cassandra = cassandra
        self.environ = cassandra.settings(self.name)
        with self.store() as store:
            forget_everything(store)

    def store(self, *_folder: object, read_only: bool = False) -> CassandraStore:
        """A store of the tests' own; also where a check would open a SQLite file."""
        store = CassandraStore(self.cassandra.target(self.name), read_only=read_only)
        store.wait(60)
        return store

    def by_hand(self, path: Path, statement: str) -> None:
        """What a check does to a SQLite file, done to the rows of one second here."""
        found = re.search(r"device_id = '([^']*)' AND ec_time = '(\d+)'", statement)
        assert found
        device, second = found[1], parse_ec(path.stem.removeprefix("ec-"), found[2])
        with self.store() as store:
            for row, inserted_us, rank in list(store.rows(device, second, second + 1)):
                text = row.values.replace(",", ",9")
                if statement.startswith("UPDATE"):
                    altered = row._replace(values=text, checksum=md5_hex(text))
                    store._rows.write([[StoredRow(altered, inserted_us, rank + 1)]])
                else:
                    store._db.write([[_delete_row(row)]])


def _delete_row(row: Batch) -> Any:
    from utilities.cassandra_values import Statement

    columns = ("device_id", "ec_date", "ec_minute", "ec_time", "start_us", "end_us")
    where = " AND ".join(f"{column} = ?" for column in columns)
    moment = (ec_date(row.second), ec_time(row.second)[:4], ec_time(row.second))
    span = (f"{row.start_us:06d}", f"{row.end_us:06d}")
    return Statement(f"DELETE FROM ec_consumption WHERE {where}", (row.device_id, *moment, *span))


@pytest.fixture
def keyspace(cassandra: RealCassandra) -> Keyspace:
    return Keyspace(cassandra)


class OnCassandra(RunningServer):
    """The server with a keyspace for its database."""

    def __init__(self, folder: Path, keyspace: Keyspace) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self.environ = keyspace.environ
        self.waits_for_database = True

    def _is_ready(self) -> bool:
        if self.waits_for_database:
            return super()._is_ready()
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with suppress(OSError, httpx.HTTPError):
            socket.create_connection(("127.0.0.1", self.sip_port), 1).close()
            return self.get("/healthz").status_code == 503
        return False

    def memory_mb(self) -> float:
        """Memory that is each process's own, all of the server together, in megabytes."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        return sum(child.memory_full_info().uss for child in children) / 2**20

    def drained(self) -> bool:
        return self.figure("ec_spool_batches") == 0 and self.figure("ec_queue_batches") == 0


@pytest.fixture
def server(tmp_path: Path, keyspace: Keyspace) -> Iterator[OnCassandra]:
    with OnCassandra(tmp_path, keyspace) as running:
        yield running


@pytest.fixture
def run(tmp_path: Path, keyspace: Keyspace) -> Iterator[Callable[..., SyncProcess]]:
    """As in the checks on SQLite."""
    started: list[SyncProcess] = []

    class SyncOnCassandra(SyncProcess):
        store = staticmethod(keyspace.store)  # type: ignore[assignment]

    def start(**options: str) -> SyncProcess:
        server = SyncOnCassandra(tmp_path, **options)
        server.environ |= keyspace.environ
        started.append(server)
        return server.start()

    yield start
    for server in started:
        assert server.stop() == 0, server.log()


class TestReceiving:
    @pytest.mark.parametrize(
        ("transport", "form"), [("tcp", "text"), pytest.param("udp", "binary", marks=pytest.mark.soak)]
    )
    def test_every_recorded_sample_is_stored_and_every_digest_is_the_recording_s(
        self,
        server: RunningServer,
        keyspace: Keyspace,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        transport: str,
        form: str,
    ) -> None:
        monkeypatch.setattr(meter_checks, "SqliteStore", keyspace.store)
        meter_checks.test_every_recorded_sample_is_stored_and_every_digest_is_the_recording_s(
            server, tmp_path, transport, form
        )

    @pytest.mark.soak  # half a minute; the usual suite repairs on Cassandra in TestSynchronizing
    def test_what_meters_lose_on_the_way_is_proven_and_repaired_after_a_round(
        self, server: RunningServer, keyspace: Keyspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(meter_checks, "SqliteStore", keyspace.store)
        meter_checks.test_what_meters_lose_on_the_way_is_proven_and_repaired_after_a_round(server, tmp_path)


class TestSynchronizing(sync_checks.TestARound):
    @pytest.fixture(autouse=True)
    def _by_hand(self, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sync_checks, "by_hand", keyspace.by_hand)

    @pytest.mark.soak  # half a minute; the usual suite shows it on SQLite
    def test_continues_where_it_was_after_the_server_was_killed(self, run: Any, meters: Any) -> None:
        super().test_continues_where_it_was_after_the_server_was_killed(run, meters)


class TestPacking:
    @pytest.mark.timeout(300)
    def test_old_minutes_are_packed_by_the_server_and_nobody_sees_a_difference(
        self, server: RunningServer, keyspace: Keyspace
    ) -> None:
        device, minute = packing_checks.old_minutes_are_packed(server)
        with keyspace.store(read_only=True) as store:
            assert store._rows._blocks.counts(device, [minute])[0].rows == packing_checks.MESSAGES / 2
            assert store.unproven_ranges(device, minute, minute + 60) == [(minute, minute + 60)]


class Load:
    """The load generator as a process of its own."""

    def __init__(self, server: RunningServer, messages: int, rate: int, devices: int = 8) -> None:
        self.prefix = f"load{uuid.uuid4().hex[:6]}"
        self.devices, self.messages = devices, messages
        self.start_s = int(time.time()) - int(time.time()) % 60 - 3600
        options = {
            "server": f"127.0.0.1:{server.sip_port}",
            "transport": "tcp",
            "devices": devices,
            "messages": messages,
            "rate": rate,
            "connections": devices,
            "start": self.start_s,
            "id-prefix": self.prefix,
        }
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "reference_client.load_generator", "--json"),
                *(word for name, value in options.items() for word in (f"--{name}", str(value))),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    def report(self, timeout_s: float) -> dict[str, Any]:
        said, _ = self.process.communicate(timeout=timeout_s)
        found: dict[str, Any] = json.loads(said)
        return found

    def stored_rows(self, store: CassandraStore) -> int:
        seconds = self.messages // self.devices // 1000 + 2
        counts = (
            store.row_counts(f"{self.prefix}-{d:04d}", self.start_s, self.start_s + seconds + 60)
            for d in range(self.devices)
        )
        return sum(rows for of_device in counts for _, rows, _ in of_device)


def accounted(server: RunningServer, answered: int) -> None:
    """Every answered message is stored, and nothing else happened to any."""
    assert server.account_is_exact()
    assert server.figure("ec_batches_lost_total") == 0
    assert server.figure("ec_messages_rejected_total") == 0
    stored, twice = server.figure("ec_batches_stored_total"), server.figure("ec_batches_duplicate_total")
    assert stored + twice >= answered


class TestOutage:
    def test_a_database_that_hangs_dies_and_flaps_under_load_costs_nothing(
        self, server: OnCassandra, keyspace: Keyspace
    ) -> None:
        outages(server, keyspace, messages=9000, rate=900, hang_s=2, dead_s=0.5, flaps=1)

    @pytest.mark.soak
    @pytest.mark.timeout(1200)
    def test_an_outage_of_five_minutes_at_2000_messages_per_second(
        self, server: OnCassandra, keyspace: Keyspace
    ) -> None:
        outages(server, keyspace, messages=840_000, rate=2000, hang_s=120, dead_s=120, flaps=12, restart=True)

    @pytest.mark.soak  # most of a minute; the test before this one loses the database in the usual suite
    def test_a_server_that_starts_without_its_database_accepts_everything_and_recovers(
        self, server: OnCassandra, keyspace: Keyspace
    ) -> None:
        node = keyspace.cassandra.own_node()
        node.kill()
        try:
            server.waits_for_database = False
            loads = []
            for _ in range(2):  # the second time with a spool that an earlier run left
                server.start()
                waiting = server.figure("ec_spool_batches")
                loads.append(Load(server, 2000, 2000))
                assert loads[-1].report(60)["answered"] == 2000
                server.wait_for_figure("ec_spool_batches", waiting + 2000)
                assert server.get("/healthz").status_code == 503
                assert "does not answer" in server.get("/healthz").text
                if len(loads) == 1:
                    assert server.stop() == 0
        finally:
            node.start()
            node.wait_until_ready()
        wait_for(server.drained, "the spool to be drained", 60)
        wait_for(lambda: server.get("/healthz").status_code == 200, "health", 30)
        accounted(server, 4000)
        with keyspace.store() as store:
            assert [load.stored_rows(store) for load in loads] == [2000, 2000]


def outages(
    server: OnCassandra,
    keyspace: Keyspace,
    *,
    messages: int,
    rate: int,
    hang_s: float,
    dead_s: float,
    flaps: int,
    restart: bool = False,
) -> None:
    """Load, while the one node hangs, is killed, and flaps; in the end every message is a row, once."""
    node = keyspace.cassandra.own_node()
    server.start()
    load = Load(server, messages, rate)
    try:
        server.wait_for_figure("ec_batches_stored_total", 1500)
        before_mb = server.memory_mb()
        node.pause()
        server.wait_for_figure("ec_spool_batches", int(hang_s * rate / 2), hang_s + 30)
        node.resume()
        server.wait_for_figure("ec_batches_stored_total", 2000)
        node.kill()
        server.wait_for_figure("ec_spool_batches", int(dead_s * rate), dead_s + 60)
        if restart:
            assert server.stop() == 0
            server.waits_for_database = False
            server.start()
        node.start()
        node.wait_until_ready()
        for _ in range(flaps):
            node.pause()
            time.sleep(random.uniform(0.5, 2.5))
            node.resume()
            time.sleep(random.uniform(0.5, 2.5))
    finally:
        node.start()
        node.resume()
        node.wait_until_ready()
    report = load.report(messages / rate + 120)
    ended_s = time.monotonic()
    wait_for(server.drained, "the spool to be drained", 60 + messages / rate)
    took_s = time.monotonic() - ended_s
    answered = report["answered"]
    if not restart:
        assert answered == messages
    accounted(server, answered)
    with keyspace.store() as store:
        assert answered <= load.stored_rows(store) <= messages
    grown_mb = server.memory_mb() - before_mb
    assert grown_mb < 100
    print(f"{answered} answered, drained {took_s:.1f} s after the load's end, memory grew {grown_mb:.0f} MB")


class TestTwoServers:
    def test_devices_thrown_between_two_servers_are_proven_after_a_round_though_one_was_killed(
        self, tmp_path: Path, keyspace: Keyspace
    ) -> None:
        start, chance = an_hour_ago(), random.Random(11)
        meters_ = {f"meter-{i}": MemoryMeter() for i in range(3)}
        with OnCassandra(tmp_path / "a", keyspace) as first, OnCassandra(tmp_path / "b", keyspace) as second:
            for server in (first, second):
                server.start(EC_SYNC_SYNCFREQ="0.05", EC_SIP_RECEIVERS="1")
            senders = [socket.create_connection(("127.0.0.1", s.sip_port)) for s in (first, second)]
            for s in range(150):
                if s == 90:
                    kill_all(first)
                for device, meter in meters_.items():
                    samples = waveform(start + s, 440)
                    meter.seconds[start + s] = samples
                    ordered = sorted(samples)
                    for at in range(0, len(ordered), 44):
                        message = {us: samples[us] for us in ordered[at : at + 44]}
                        body = f"{device}|{start + s}|{text_of(message)}||".encode()
                        if chance.random() > 0.03:
                            with suppress(OSError):
                                senders[chance.randrange(2)].sendall(request(body=body))
            answerers = [
                SyncProcess.meter(second_as_sync(second), device, meter) for device, meter in meters_.items()
            ]
            for answerer in answerers:
                answerer.start()
            try:
                for answerer in answerers:
                    wait_for(
                        lambda one=answerer: one.verified and one.verified.through > start + 180,
                        "everything to be proven", 60,
                    )  # fmt: skip
                assert all(one.verified.unresolved == 0 for one in answerers)
            finally:
                for answerer in answerers:
                    answerer.stop()
                for sender in senders:
                    sender.close()
            with keyspace.store() as store:
                for device, meter in meters_.items():
                    assert stored_samples(store, device, start, start + 180) == meter.seconds
                    assert store.unproven_ranges(device, start, start + 180) == []
                    kept = store.minute_digests(device, start, start + 180)
                    assert kept == store.minute_digests(device, start, start + 180, from_rows=True)


def second_as_sync(server: RunningServer) -> Any:
    """What ``SyncProcess.meter`` needs of a server: its port."""
    return type("Port", (), {"port": server.sync_port})()


def kill_all(server: RunningServer) -> None:
    """``kill -9`` of a whole server, launcher first, so that nothing of it is restarted."""
    assert server.process is not None
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    server.process.wait()


class TestRefusing:
    def test_a_wrong_password_ends_the_start_with_exit_two_and_names_the_key(
        self, server: OnCassandra, keyspace: Keyspace
    ) -> None:
        if not keyspace.cassandra.password:
            unavailable("this Cassandra asks for no password")
        server.waits_for_database = False
        with pytest.raises(AssertionError):
            server.start(EC_CASSANDRA_PASSWORD="wrong")
        assert server.process is not None
        assert server.process.wait(60) == 2
        assert "cassandra.password" in server.log()
