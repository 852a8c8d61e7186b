"""kill -9 of the packing process on Cassandra: nothing lost, nothing twice, and it goes on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.store_suite import NOON, check
from packed_rows import regular_clock, signal
from real_cassandra import RealCassandra

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.merge import batch_of
from utilities.model import MinuteState

pytestmark = pytest.mark.cassandra
ROOT = Path(__file__).resolve().parents[2]
KEYSPACE = "ec_killed"
MINUTES, SECONDS, SAMPLES, A_ROW = 2, 6, 2200, 44
SPAN = (NOON, NOON + 60 * MINUTES)
_KILLS = (("KILLS", "500"), ("SEED", "2"))


@pytest.fixture
def store(cassandra: RealCassandra) -> Iterator[CassandraStore]:
    with CassandraStore(cassandra.target(KEYSPACE), packs=True) as store:
        store.wait(60)
        yield store


def fill(store: CassandraStore, device: str) -> list[Any]:
    """Two minutes of a device, with overlaps, a repair and proof; what can be read of them."""
    us = regular_clock(SAMPLES)
    texts = [f"{at:06d},{value:.3f}" for at, value in zip(us, signal(SAMPLES, 1))]
    cut = [";".join(texts[i : i + A_ROW]) for i in range(0, SAMPLES, A_ROW)]
    for minute in range(*SPAN, 60):
        for second in range(minute, minute + SECONDS):
            store.ingest([batch_of(device, second, text) for text in (*cut, ";".join(texts[100:150]))])
        store.repair([batch_of(device, minute, ";".join(f"{at:06d},7" for at in us[10:20]))])
        check(store, device, minute, MinuteState.PROVEN)
    with store._lock:
        store._claims.release_all()
    return everything(store, device)


def everything(store: CassandraStore, device: str) -> list[Any]:
    return [
        store.unproven_ranges(device, *SPAN),
        list(store.rows(device, *SPAN)),
        [store.second_text(device, second) for second in range(*SPAN) if second % 60 < SECONDS],
        store.minute_digests(device, *SPAN, from_rows=True),
        store.row_counts(device, *SPAN),
        store.unproven_ranges(device, *SPAN),
    ]


def count(store: CassandraStore, table: str, device: str) -> int:
    cql = f"SELECT count(ec_time) AS n FROM {KEYSPACE}.{table} WHERE device_id = %s ALLOW FILTERING"
    return int(next(iter(store._db._session.execute(cql, (device,), timeout=30))).n)


def begin(cassandra: RealCassandra) -> subprocess.Popen[str]:
    where = (cassandra.host, str(cassandra.port), KEYSPACE, cassandra.username, cassandra.password)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "test" / "packing_process.py"), *where],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(cassandra: RealCassandra) -> float:
    """Pack everything, and tell how long that takes when nobody ends it."""
    process, began = begin(cassandra), time.monotonic()
    assert process.communicate(timeout=120)[0] == "done\n"
    return time.monotonic() - began


def kill_at_random_moments(
    cassandra: RealCassandra, store: CassandraStore, kills: int, seed: int
) -> list[tuple[int, int]]:
    """Kill so often, and compare each time; how many rows and blocks there were at each kill."""
    choose, tag = random.Random(seed), time.time_ns() % 10**9
    before = fill(store, f"first-{tag}")
    all_s = finish(cassandra)
    assert everything(store, f"first-{tag}") == before
    found = []
    device = ""
    for number in range(kills):
        if number % 4 == 0:  # from the beginning again
            device = f"m{number}-{tag}"
            before = fill(store, device)
        process = begin(cassandra)
        time.sleep(choose.uniform(0, all_s))
        process.kill()
        process.wait()
        assert everything(store, device) == before, f"after kill {number} of seed {seed}"
        found.append((count(store, "ec_consumption", device), count(store, "ec_block", device)))
    finish(cassandra)
    assert everything(store, device) == before
    assert (count(store, "ec_consumption", device), count(store, "ec_block", device)) == (
        0,
        MINUTES * SECONDS,
    )
    return found


@pytest.mark.soak  # in the usual suite each step of a packing is the last one: test_cassandra_packed.py
@pytest.mark.timeout(300)
def test_packing_that_is_killed_loses_nothing_and_goes_on(
    cassandra: RealCassandra, store: CassandraStore
) -> None:
    assert len(kill_at_random_moments(cassandra, store, kills=2, seed=1)) == 2


@pytest.mark.soak
@pytest.mark.timeout(10800)
def test_packing_that_is_killed_500_times_loses_nothing(
    cassandra: RealCassandra, store: CassandraStore
) -> None:
    kills, seed = (int(os.environ.get(f"EC_TEST_{name}", default)) for name, default in _KILLS)
    found = kill_at_random_moments(cassandra, store, kills, seed)
    assert len(set(found)) > 3
    assert any(rows and blocks for rows, blocks in found), "it was never killed in the middle"
