"""The Cassandra engine does what the memory engine does, whatever happens and in whatever order."""

from __future__ import annotations

import pytest
from contract.store_machine import StoreMachine
from hypothesis import HealthCheck, Phase, settings
from real_cassandra import TABLES, RealCassandra

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.contract import Store

pytestmark = pytest.mark.cassandra
KEYSPACE = "ec_machine"


class CassandraMachine(StoreMachine):
    """Its clock is the real one: leases are measured by it, and readers compare with it."""

    clock_steps = False
    cassandra: RealCassandra

    def open(self, *, read_only: bool = False) -> Store:
        store = CassandraStore(self.cassandra.target(KEYSPACE), read_only=read_only)
        store.wait(60)
        if not hasattr(self, "begun"):
            self.begun = True
            for table in TABLES:
                store._db._session.execute(f"TRUNCATE {KEYSPACE}.{table}", timeout=60)
        return store

    def rest(self) -> None:
        for store in self.stores:
            assert isinstance(store, CassandraStore)
            with store._lock:
                store._claims.release_all()


def run_machine(cassandra: RealCassandra, examples: int, steps: int) -> None:
    CassandraMachine.cassandra = cassandra
    case = CassandraMachine.TestCase()
    CassandraMachine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
        report_multiple_bugs=False,
        database=None,
    )
    case.runTest()


def test_whatever_happens_cassandra_is_as_the_memory_engine(cassandra: RealCassandra) -> None:
    run_machine(cassandra, examples=2, steps=15)
