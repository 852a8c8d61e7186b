"""The rounds of the synchronization end on Cassandra as they end on the other engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_cassandra import RealCassandra, forget_everything
from unit import test_round as rounds

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.contract import Store

pytestmark = pytest.mark.cassandra


@pytest.fixture(scope="module")
def opened(cassandra: RealCassandra) -> Iterator[CassandraStore]:
    with CassandraStore(cassandra.target("ec_rounds")) as store:
        store.wait(60)
        yield store


@pytest.fixture
def store(opened: CassandraStore) -> Store:
    forget_everything(opened)
    opened.note_devices({rounds.DEVICE: rounds.NOON * 1_000_000})
    return opened


class TestAMinute(rounds.TestAMinute):
    pass


class TestIngestInTheSameMoment(rounds.TestIngestInTheSameMoment):
    pass


class TestAnAudit(rounds.TestAnAudit):
    pass
