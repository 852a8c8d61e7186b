"""A Cassandra node for the comparison: starts it, creates the server's tables, counts rows, removes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.effort import Effort
from benchmarks.measured_program import BenchmarkError, free_port
from benchmarks.stored_rows import RowCount, Sent, compare, fingerprint
from ec_server.storage.cassandra_store import CassandraStore
from reference_cluster import jars
from reference_cluster.cluster import Cluster
from reference_cluster.node import NodeError
from utilities.cassandra_target import Target
from utilities.cassandra_util import Database
from utilities.utc import ec_date, ec_time

KEYSPACE = "ec_benchmark"
_FIRST_CONNECTION_S = 60.0
_ROWS = (
    "SELECT device_id, ec_date, ec_time, ec_consumption_values FROM ec_consumption"
    " WHERE device_id = ? AND ec_date = ? AND ec_minute = ?"
)


class OwnNode:
    """A node with the server's tables, while the context of ``own_node`` lasts."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.options = {
            "storage.engine": "cassandra",
            "cassandra.host": "127.0.0.1",
            "cassandra.port": str(port),
            "cassandra.keyspace": KEYSPACE,
        }
        self._target = Target(("127.0.0.1",), port, KEYSPACE)
        store = CassandraStore(self._target)
        store.wait(_FIRST_CONNECTION_S)
        store.close()

    def count_rows(self, sent: Sequence[Sent]) -> RowCount:
        """Compare the rows of the plans' devices with all batches of the plans."""
        database = Database(self._target, "", read_only=True)
        try:
            database.wait(_FIRST_CONNECTION_S)
            return compare(self._fingerprints(database, sent), sent)
        finally:
            database.close()

    @staticmethod
    def _fingerprints(database: Database, sent: Sequence[Sent]) -> Iterator[int]:
        for plan in (one.plan for one in sent):
            partitions = {
                (device_id, ec_date(second), ec_time(second)[:4]) for device_id, second, _ in plan.batches()
            }
            for partition in sorted(partitions):
                for row in database.read(_ROWS, *partition):
                    yield fingerprint(*row)


@contextmanager
def own_node(effort: Effort) -> Iterator[OwnNode]:
    """Start a node with a heap of 1 GB; BenchmarkError if that is not possible."""
    with effort.fresh_folder() as folder:
        cluster = Cluster(folder.resolve(), 1, free_port(), free_port(), heap_mb=1024)
        try:
            cluster.start()
            yield OwnNode(cluster.native_port)
        except (NodeError, jars.JarError) as error:
            raise BenchmarkError(f"no Cassandra node: {error}") from error
        finally:
            cluster.clean()
