"""The whole server on a real Cassandra: the same checks as on SQLite, and what only a cluster can do to it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real_cassandra import RealCassandra
from running_server import RunningServer
from sync_process import SyncProcess
from system import test_meters_end_to_end as meter_checks
from system import test_sync_server as sync_checks
from system.test_sync_server import meters

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.utc import parse_ec
from utilities.checksum_util import md5_hex

__all__ = ["meters"]
pytestmark = pytest.mark.cassandra


class Keyspace:
    """A keyspace of its own on the session's Cassandra."""

    def __init__(self, cassandra: RealCassandra) -> None:
        self.name = f"ec_{uuid.uuid4().hex[:12]}"
        self.cassandra = cassandra
        self.environ = cassandra.settings(self.name)

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
            for row, inserted_us in list(store.rows(device, second, second + 1)):
                text = row.values.replace(",", ",9")
                if statement.startswith("UPDATE"):
                    altered = replace(row, values=text, checksum=md5_hex(text))
                    store._db.write([[store._insert(altered, inserted_us + 1)]])
                else:
                    key = store._insert(row, 0).values[:6]
                    store._db.write([[_delete_row(*key)]])


def _delete_row(*key: Any) -> Any:
    from utilities.cassandra_util import Statement

    columns = ("device_id", "ec_date", "ec_minute", "ec_time", "start_us", "end_us")
    where = " AND ".join(f"{column} = ?" for column in columns)
    return Statement(f"DELETE FROM ec_consumption WHERE {where}", key)


@pytest.fixture
def keyspace(cassandra: RealCassandra) -> Keyspace:
    return Keyspace(cassandra)


@pytest.fixture
def server(tmp_path: Path, keyspace: Keyspace) -> Iterator[RunningServer]:
    class OnCassandra(RunningServer):
        def start(self, **environ: str) -> None:
            super().start(**{**keyspace.environ, **environ})

    with OnCassandra(tmp_path) as running:
        yield running


@pytest.fixture
def run(tmp_path: Path, keyspace: Keyspace) -> Iterator[Callable[..., SyncProcess]]:
    """As in the checks on SQLite."""
    started: list[SyncProcess] = []

    class OnCassandra(SyncProcess):
        store = staticmethod(keyspace.store)  # type: ignore[assignment]

    def start(**options: str) -> SyncProcess:
        server = OnCassandra(tmp_path, **options)
        server.environ |= keyspace.environ
        started.append(server)
        return server.start()

    yield start
    for server in started:
        assert server.stop() == 0, server.log()


class TestReceiving:
    @pytest.mark.parametrize(("transport", "form"), [("tcp", "text"), ("udp", "binary")])
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

    def test_what_meters_lose_on_the_way_is_proven_and_repaired_after_a_round(
        self, server: RunningServer, keyspace: Keyspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(meter_checks, "SqliteStore", keyspace.store)
        meter_checks.test_what_meters_lose_on_the_way_is_proven_and_repaired_after_a_round(server, tmp_path)


class TestSynchronizing(sync_checks.TestARound):
    @pytest.fixture(autouse=True)
    def _by_hand(self, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sync_checks, "by_hand", keyspace.by_hand)
