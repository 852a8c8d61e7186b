"""Three nodes, three copies: nodes die and come back under load, and no batch is lost or refused."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store_suite import NOON
from free_ports import free_port
from needs import unavailable

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.merge import batch_of
from reference_cluster.cluster import Cluster
from reference_cluster.jars import JarError
from reference_cluster.node import NodeError
from utilities.cassandra_target import Target
from utilities.errors import StorageError
from utilities.model import Batch, CommitMark

pytestmark = [pytest.mark.cassandra, pytest.mark.soak, pytest.mark.timeout(600)]
MARK = CommitMark("receiver-0", 1)
DEVICES = 6


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("three"), 3, free_port(), free_port(), heap_mb=512)
    try:
        cluster.start()
    except (NodeError, JarError) as error:
        cluster.clean()
        unavailable(f"no Cassandra: {error}")
    yield cluster
    cluster.clean()


class Load:
    """A writer that goes on until told to stop, and keeps what it was told is stored."""

    def __init__(self, target: Target) -> None:
        self.stored: list[Batch] = []
        self.refused: list[StorageError] = []
        self.slowest_s = 0.0
        self._store = CassandraStore(target)
        self._store.wait(60)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            group = []
            for _ in range(100):
                second, slot = NOON + number // 200, number % 200
                text = f"{slot * 10:06d},{number}.25;{slot * 10 + 5:06d},1"
                group += [batch_of(f"meter-{d}", second, text) for d in range(DEVICES)]
                number += 1
            began = time.monotonic()
            try:
                self._store.ingest(group, MARK)
            except StorageError as error:
                self.refused.append(error)
            else:
                self.stored += group
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self._stop.wait(0.4)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        self._store.close()

    def grow(self, batches: int, timeout_s: float = 120) -> None:
        goal, deadline = len(self.stored) + batches, time.monotonic() + timeout_s
        while len(self.stored) < goal:
            assert time.monotonic() < deadline, f"writing stands still: {self.refused[-1:]}"
            time.sleep(0.1)


def test_one_node_after_the_other_is_killed_and_nothing_is_lost_or_refused(three_nodes: Cluster) -> None:
    hosts = tuple(node.address for node in three_nodes.nodes)
    target = Target(hosts, three_nodes.native_port, "ec_three", replication="3")
    load = Load(target)
    load.grow(3_000)
    for victim in three_nodes.nodes[1:]:
        victim.kill()
        load.grow(6_000)
        victim.start()
        victim.wait_until_ready()
        load.grow(3_000)
    load.end()
    assert load.refused == []
    everywhere = Target(hosts, three_nodes.native_port, "ec_three", consistency="ALL")
    with CassandraStore(everywhere) as reader:
        reader.wait(60)
        expected = {batch.key: batch for batch in load.stored}
        found = {}
        last = max(batch.second for batch in load.stored)
        for device in range(DEVICES):
            found |= {row.key: row for row, _, _ in reader.rows(f"meter-{device}", NOON, last + 1)}
        assert found == expected
        for device in range(DEVICES):
            cached = reader.minute_digests(f"meter-{device}", NOON, last + 60)
            assert sum(digest.count for _, digest in cached) == 2 * len(expected) // DEVICES
    print(f"{len(expected)} rows, slowest write {load.slowest_s:.2f} s")


def test_a_snapshot_brings_back_what_was_removed_and_keeps_what_came_since(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1, free_port(), free_port(), heap_mb=768, jmx_port=free_port())
    try:
        cluster.start()
        node = cluster.nodes[0]
        with CassandraStore(Target(("127.0.0.1",), cluster.native_port, "ec_backup")) as store:
            store.wait(60)
            store.ingest([batch_of("meter-1", NOON, "000000,1;000005,2")], MARK)
            node.nodetool("snapshot", "-t", "monday", "ec_backup")
            tables = {folder.name.split("-")[0]: folder for folder in
                      (node.folder / "data/data/ec_backup").iterdir()}  # fmt: skip
            kept = {name: folder / "snapshots" / "monday" for name, folder in tables.items()}
            for name, folder in kept.items():
                if any(folder.glob("*-Data.db")):
                    shutil.copytree(folder, tmp_path / "away" / "ec_backup" / name)
            for name in tables:
                store._db._session.execute(f"TRUNCATE ec_backup.{name}", timeout=30)
            store.ingest([batch_of("meter-1", NOON + 61, "000000,3")], MARK)
            assert store.second_text("meter-1", NOON) == ""
            for folder in (tmp_path / "away" / "ec_backup").iterdir():
                node.nodetool("import", "ec_backup", folder.name, str(folder))
            assert store.second_text("meter-1", NOON) == "000000,1;000005,2"
            assert store.second_text("meter-1", NOON + 61) == "000000,3"
            assert [m for m, _ in store.minute_digests("meter-1", NOON, NOON + 120)] == [NOON, NOON + 60]
    finally:
        cluster.clean()
