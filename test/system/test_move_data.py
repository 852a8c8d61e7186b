"""Data moved from SQLite to Cassandra and back is the same data, with the same proof."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from contract.store_suite import MIDNIGHT, NOON, batch, check, run_of
from real_cassandra import RealCassandra, forget_everything

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.contract import Store
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import Batch, MinuteState
from utilities.utc import DAY_S

pytestmark = pytest.mark.cassandra
ROOT = Path(__file__).parents[2]
DEVICES = ("meter-1", "meter-2")


class Mover:
    def __init__(self, folder: Path, cassandra: RealCassandra) -> None:
        self.keyspace = "ec_move"
        self.cassandra = cassandra
        self.environ = {**os.environ, **cassandra.settings(self.keyspace)}
        del self.environ["EC_STORAGE_ENGINE"]
        self.folder = folder
        with self.store() as store:
            forget_everything(store)

    def begin(self, source: str, target: str, folder: Path, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ec_server.storage.move_data", "--from", source, "--to", target]
        return subprocess.Popen(
            [*command, *more],
            cwd=ROOT,
            env={**self.environ, "EC_STORAGE_PATH": str(folder)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def move(self, source: str, target: str, folder: Path, *more: str) -> tuple[int, str]:
        process = self.begin(source, target, folder, *more)
        _, said = process.communicate(timeout=100)
        return process.returncode, said

    def store(self) -> CassandraStore:
        store = CassandraStore(self.cassandra.target(self.keyspace))
        store.wait(60)
        return store


@pytest.fixture
def mover(tmp_path: Path, cassandra: RealCassandra) -> Mover:
    return Mover(tmp_path, cassandra)


def fill(store: Store, seconds: int = 130) -> None:
    """Two devices, two days, overlapping rows, a proven minute and an unresolved one."""
    for day in (MIDNIGHT - DAY_S, MIDNIGHT):
        for start in range(0, seconds, 10):
            group = [
                run_of(device, day + 43_190 + s, us)
                for s in range(start, start + 10)
                for us in (500_000, 0, 250_000)
                for device in DEVICES
            ]
            store.ingest(group)
    store.ingest([batch("meter-1", NOON + 1, {10: "7", 15: "8"})])
    store.ingest([batch("meter-1", NOON + 1, {15: "9"})])
    store.note_devices(dict.fromkeys(DEVICES, (MIDNIGHT - DAY_S) * 1000000))
    store.note_devices(dict.fromkeys(DEVICES, (NOON + 500) * 1000000))
    check(store, "meter-1", NOON, MinuteState.PROVEN, extra=2, conflicts=1)
    check(store, "meter-1", NOON + 60, MinuteState.UNRESOLVED)
    check(store, "meter-2", NOON - 60, MinuteState.UNCONFIRMABLE)


def pack_all(store: Store) -> int:
    """Rows packed."""
    waiting = store.unpacked_minutes(MIDNIGHT + DAY_S, 1000)
    return sum(store.pack_minute(*one).rows for one in waiting)


def everything(store: Store) -> dict[str, list[tuple[Batch, int]]]:
    found = {}
    for device in DEVICES:
        rows = []
        for day in (MIDNIGHT - DAY_S, MIDNIGHT):
            rows += store.rows(device, day + 43_140, day + 43_500)
        found[device] = rows
    return found


def test_there_and_back_again_every_row_and_proof_is_the_same_packed_or_not(
    mover: Mover, tmp_path: Path
) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    with SqliteStore(here) as store:
        fill(store)
        rows = everything(store)
        records = store.minutes("meter-1", NOON - 60, NOON + 120)
        assert pack_all(store) == sum(map(len, rows.values()))
    code, said = mover.move("sqlite", "cassandra", here)
    assert code == 0, said
    assert "0 minutes differ" in said
    with mover.store() as store:
        assert everything(store) == rows
        assert store.second_text("meter-1", NOON + 1).startswith("000000,1.5;000010,7;000015,9;000020,1.5")
        assert [(r.state, r.extra, r.conflicts) for r in store.minutes("meter-1", NOON - 60, NOON + 120)] == [
            (r.state, r.extra, r.conflicts) for r in records
        ]
        assert store.unproven_ranges("meter-1", NOON, NOON + 120) == [(NOON + 60, NOON + 120)]
        assert pack_all(store) == sum(map(len, rows.values()))
        assert everything(store) == rows
    code, said = mover.move("cassandra", "sqlite", back)
    assert code == 0, said
    with SqliteStore(here) as first, SqliteStore(back) as second:
        assert everything(second) == rows
        span = ("meter-1", NOON - 60, NOON + 120)
        assert second.minute_digests(*span) == first.minute_digests(*span)
        assert second.row_counts(*span) == first.row_counts(*span)
        assert second.devices() == first.devices()


def test_a_run_that_was_killed_continues_where_it_was(mover: Mover, tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "data") as store:
        fill(store, 250)
        rows = everything(store)
    with mover.store() as target:
        process = mover.begin("sqlite", "cassandra", tmp_path / "data")
        deadline = time.monotonic() + 60
        while target.earliest_minute("meter-1") is None and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, said = mover.move("sqlite", "cassandra", tmp_path / "data")
    assert code == 0, said
    code, said = mover.move("sqlite", "cassandra", tmp_path / "data")
    assert code == 0, said
    assert "0 rows moved" in said
    with mover.store() as target:
        assert everything(target) == rows


def test_a_minute_that_differs_at_the_end_is_named(mover: Mover, tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "data") as store:
        store.ingest([run_of("meter-1", NOON, 0)])
        store.note_devices({"meter-1": NOON * 1_000_000})
    with mover.store() as target:
        target.ingest([run_of("meter-1", NOON, 5000)])
    code, said = mover.move("sqlite", "cassandra", tmp_path / "data")
    assert code == 1
    assert "meter-1 202603011200: source 4 samples" in said.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("sqlite", "sqlite"), "both are sqlite"), (("sqlite", "cassandra", "--since", "2026"), "not a day")],
)
def test_wrong_usage_is_exit_two(mover: Mover, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    source, target, *more = arguments
    code, said = mover.move(source, target, tmp_path / "data", *more)
    assert code == 2
    assert says in said
