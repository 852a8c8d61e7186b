"""The Cassandra engine does what the memory engine does, whatever happens and in whatever order.

``python test/contract/test_cassandra_machine.py HOST:PORT STEPS`` (with ``PYTHONPATH=test:.``) runs many.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from unittest.mock import patch

import pytest
from contract.store_machine import MINUTES, StoreMachine, devices, handles
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from real_cassandra import TABLES, RealCassandra
from reaper import DiedError

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.contract import Store

pytestmark = pytest.mark.cassandra
KEYSPACE = "ec_machine"
minutes = st.sampled_from(MINUTES)


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

    @rule(handle=handles, device=devices, minute=minutes, requests=st.integers(0, 5))
    def break_off_packing(self, handle: int, device: str, minute: int, requests: int) -> None:
        """Killed between two of its requests."""
        self.rest()
        store, left = self.stores[handle], [requests]
        assert isinstance(store, CassandraStore)
        write = store._db.write

        def dies(mutations: object) -> None:
            if left[0] == 0:
                raise DiedError
            left[0] -= 1
            write(mutations)  # type: ignore[arg-type]

        with patch.object(store._db, "write", dies), suppress(DiedError):
            store.pack_minute(device, minute)

    @rule(device=devices, minute=minutes)
    def rows_come_back(self, device: str, minute: int) -> None:
        """As if their deletion had been forgotten before every node knew of it."""
        store, now_us = self.stores[1], time.time_ns() // 1000
        assert isinstance(store, CassandraStore)
        rows = list(self.reader.rows(device, minute, minute + 60))
        with patch.object(store._rows, "_deleted_until", lambda *_: now_us):
            store._rows.write([[row] for row in rows if row.rank < now_us])


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
    run_machine(cassandra, examples=1, steps=15)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_whatever_happens_for_long_cassandra_is_as_the_memory_engine(cassandra: RealCassandra) -> None:
    run_machine(cassandra, examples=int(os.environ.get("EC_TEST_EXAMPLES", "40")), steps=50)


if __name__ == "__main__":
    host, port = sys.argv[1].split(":")
    run_machine(RealCassandra(host, int(port), "", ""), int(sys.argv[2]) // 50, 50)
