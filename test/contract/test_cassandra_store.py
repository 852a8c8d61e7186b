"""The Cassandra engine keeps the storage contract, on a real Cassandra."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.store_suite import Opens, StoreSuite
from real_cassandra import RealCassandra, forget_everything

from ec_server.storage.cassandra_store import CassandraStore

pytestmark = pytest.mark.cassandra
KEYSPACE = "ec_contract"


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
