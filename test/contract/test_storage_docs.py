"""The queries of docs/storage.md run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from contract.store_suite import NOON, run_of
from foreign_sqlite import by_hand

from ec_server.storage.sqlite_store import SqliteStore

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "storage.md").read_text("utf-8")
SQLITE = TEXT[TEXT.index("## SQLite") : TEXT.index("### Size")]
QUERIES = re.findall(r"```sql\n(.*?)```", SQLITE, re.S)


@pytest.mark.parametrize("query", QUERIES)
def test_a_printed_query_finds_what_is_stored(tmp_path: Path, query: str) -> None:
    with SqliteStore(tmp_path) as store:
        store.ingest([run_of("meter-1", NOON, 0)])
        store.minute_digests("meter-1", NOON, NOON + 60)
    assert by_hand(tmp_path / "ec-20260301.sqlite", query)


def test_there_are_queries() -> None:
    assert len(QUERIES) >= 5
