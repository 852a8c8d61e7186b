"""Waiting for a lock of SQLite that another connection holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from ec_server.storage import sqlite_connection
from ec_server.storage.sqlite_connection import connect, transaction


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[tuple[apsw.Connection, apsw.Connection]]:
    first, second = (connect(tmp_path / "a.sqlite", read_only=False) for _ in range(2))
    first.execute("CREATE TABLE t (n)")
    yield first, second
    first.close()
    second.close()


def test_a_lock_that_is_never_released_is_given_up(
    connections: tuple[apsw.Connection, apsw.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_connection, "_LONGEST_LOCK_WAIT_S", 0.05)
    first, second = connections
    with transaction(first):
        for _ in range(2):  # each wait has the whole time
            began_s = time.monotonic()
            with pytest.raises(apsw.BusyError):
                second.execute("BEGIN IMMEDIATE")
            assert time.monotonic() - began_s >= 0.05
    with transaction(second) as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")


def test_a_lock_is_taken_at_the_next_look_after_its_release(
    connections: tuple[apsw.Connection, apsw.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it was waited for: SQLite's own wait looks ever less often."""
    first, second = connections
    looks: list[float] = []
    released = threading.Event()

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 300:
            first.execute("COMMIT")
            released.set()

    monkeypatch.setattr(sqlite_connection.time, "sleep", sleep)
    first.execute("BEGIN IMMEDIATE")
    with transaction(second):
        assert released.is_set()
    assert looks == [sqlite_connection._LOCK_LOOK_S] * 300
