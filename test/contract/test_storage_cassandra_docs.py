"""Every query of docs/storage-cassandra.md runs as printed, and finds what is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store_suite import NOON, check, run_of
from real_cassandra import RealCassandra, forget_everything

from ec_server.storage.cassandra_store import CassandraStore
from utilities.model import MinuteState

pytestmark = pytest.mark.cassandra
TEXT = (Path(__file__).resolve().parents[2] / "docs" / "storage-cassandra.md").read_text("utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", TEXT, re.S)


@pytest.fixture(scope="module")
def filled(cassandra: RealCassandra) -> Iterator[CassandraStore]:
    with CassandraStore(cassandra.target("ec_docs")) as store:
        store.wait(60)
        forget_everything(store)
        store.ingest([run_of("meter-1", NOON, 0), run_of("meter-1", NOON, 1000)])
        store.repair([run_of("meter-1", NOON, 0, value="2.5")])
        store.note_devices({"meter-1": NOON * 1_000_000})
        check(store, "meter-1", NOON, MinuteState.PROVEN)
        yield store


@pytest.mark.parametrize("query", QUERIES)
def test_a_printed_query_finds_what_is_stored(filled: CassandraStore, query: str) -> None:
    session = filled._db._session
    session.set_keyspace("ec_docs")
    rows = list(session.execute(query))
    assert rows
    assert any(value for value in rows[0])


def test_the_originals_four_queries_are_among_them() -> None:
    printed = " ".join(TEXT.split())
    for query in ("SELECT * FROM ec_consumption LIMIT 10;", "SELECT count(*) FROM ec_checksum LIMIT 10;",
                  "SELECT * FROM ec_checksum LIMIT 10;", "ALLOW FILTERING;"):  # fmt: skip
        assert query in printed
    assert len(QUERIES) >= 10


def test_every_table_of_the_schema_is_described() -> None:
    schema = Path(__file__).resolve().parents[2] / "ec_server" / "storage" / "schema" / "cassandra.cql"
    tables = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", schema.read_text("utf-8"))
    assert [table for table in tables if f"`{table}`" not in TEXT] == []
