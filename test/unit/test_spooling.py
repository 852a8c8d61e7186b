"""Draining the spool: what waits reaches the database once it takes rows again."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from running_server import wait_for

from ec_server.ingest import spooling as module
from ec_server.ingest.spool import Spool
from ec_server.ingest.spooling import AccountedSpool, Spooling
from ec_server.ingest.troubles import Troubles
from ec_server.storage.contract import StoredRow, WriteResult
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.merge import batch_of
from utilities.errors import PermanentStorageError, RetryableStorageError, StorageError

NOON = 1_772_366_400


class Refusing(MemoryStore):
    """Refuses as many calls as there are errors, and stays the same store when it is opened again."""

    def __init__(self, errors: Sequence[StorageError]) -> None:
        super().__init__()
        self.errors = list(errors)

    def replay(self, rows: Sequence[StoredRow]) -> WriteResult:
        if self.errors:
            raise self.errors.pop(0)
        return super().replay(rows)

    def close(self) -> None:
        """Kept."""


@pytest.mark.parametrize(
    "errors",
    [
        [RetryableStorageError("away")],
        [RetryableStorageError("away")] * 3,
        [PermanentStorageError("no such keyspace")] * 4,  # the group, then each of its rows
    ],
    ids=["once", "three times", "for good, it seemed"],
)
def test_what_waits_is_drained_after_an_outage_though_nothing_new_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Sequence[StorageError]
) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.01)
    told: list[str] = []
    drained: list[Mapping[str, int]] = []
    store = Refusing(errors)
    batches = [batch_of("meter-1", NOON + i, "000000,1.5") for i in range(3)]
    spool = Spool(tmp_path / "spool.sqlite", 10_000_000)
    spool.append(batches, 1_772_366_400_000_000)
    spooling = Spooling(AccountedSpool(spool, drained.append), (), lambda: store, Troubles(told.append))
    thread = threading.Thread(target=spooling.run, daemon=True)
    thread.start()
    wait_for(lambda: drained, "the spool to be drained", 10)
    spooling.stop()
    thread.join(10)
    assert [row.batch for row in store.rows("meter-1", NOON, NOON + 60)] == batches
    assert [d["stored"] for d in drained] == [3]
    assert "3 batches wait" in told[0]
    assert told[-1] == ""
