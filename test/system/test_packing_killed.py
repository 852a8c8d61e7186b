"""kill -9 of the packing process at random moments: nothing lost, nothing twice, and it goes on."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.store_suite import NOON, check
from packed_rows import regular_clock, signal

from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import MinuteState

ROOT = Path(__file__).resolve().parents[2]
MINUTES, SECONDS, SAMPLES, A_ROW = 2, 6, 2200, 44
FILE = "ec-20260301.sqlite"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day file of rows, with overlaps, a repair and proof."""
    folder = tmp_path_factory.mktemp("full")
    us = regular_clock(SAMPLES)
    texts = [f"{at:06d},{value:.3f}" for at, value in zip(us, signal(SAMPLES, 1))]
    with SqliteStore(folder) as store:
        for minute in range(NOON, NOON + 60 * MINUTES, 60):
            for second in range(minute, minute + SECONDS):
                cut = [";".join(texts[i : i + A_ROW]) for i in range(0, SAMPLES, A_ROW)]
                store.ingest([batch_of("m", second, text) for text in cut])
                store.ingest([batch_of("m", second, ";".join(texts[100:150]))])
            store.repair([batch_of("m", minute, ";".join(f"{at:06d},7" for at in us[10:20]))])
            check(store, "m", minute, MinuteState.PROVEN)
    return folder


def everything(folder: Path) -> list[Any]:
    """Rows, texts, digests from the rows, proof; and that SQLite finds the file sound."""
    database = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    total = database.execute("SELECT block_bytes FROM ec_block_total").fetchone()
    assert total == database.execute("SELECT coalesce(sum(length(block)), 0) FROM ec_block").fetchone()
    database.close()
    span = (NOON, NOON + 60 * MINUTES)
    with SqliteStore(folder) as store:
        return [
            list(store.rows("m", *span)),
            [store.second_text("m", second) for second in range(*span) if second % 60 < SECONDS],
            store.minute_digests("m", *span, from_rows=True),
            store.row_counts("m", *span),
            store.unproven_ranges("m", *span),
        ]


class Forks:
    """A program that begins a packing process within milliseconds; see packing_forks.py."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, str(ROOT / "test" / "packing_forks.py")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._commands, self._answers = self._program.stdin, self._program.stdout

    def run(self, folder: Path, kill_after_s: float) -> int:
        """Pack the folder in a process that is killed after so long; 0 if it was done before."""
        print(kill_after_s, folder, file=self._commands, flush=True)
        return int(self._answers.readline())

    def close(self) -> None:
        self._commands.close()
        self._program.wait()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    program = Forks()
    yield program
    program.close()


def time_of_all(forks: Forks, folder: Path) -> float:
    """How long packing takes when nobody ends it."""
    began = time.monotonic()
    assert forks.run(folder, kill_after_s=600) == 0
    return time.monotonic() - began


def kill_at_random_moments(forks: Forks, full: Path, folder: Path, kills: int, seed: int) -> list[int]:
    """Kill so often, and until one has hit the middle, and compare each time; the seconds packed at each."""
    before = everything(full)
    shutil.copytree(full, folder)
    all_s = time_of_all(forks, folder)
    assert everything(folder) == before
    choose = random.Random(seed)
    packed: list[int] = []
    tried = 0
    while len(packed) < kills or not any(packed):
        if tried % 4 == 0:  # from the beginning again
            shutil.rmtree(folder)
            shutil.copytree(full, folder)
        tried += 1
        killed = forks.run(folder, choose.uniform(0, all_s)) != 0
        assert everything(folder) == before, f"after kill {len(packed)} of seed {seed}"
        if killed:  # else it was done before
            packed.append(blocks_in(folder))
    time_of_all(forks, folder)
    assert everything(folder) == before
    assert blocks_in(folder) == MINUTES * SECONDS
    return packed


def blocks_in(folder: Path) -> int:
    database = sqlite3.connect(folder / FILE)
    found: int = database.execute("SELECT count(*) FROM ec_block").fetchone()[0]
    database.close()
    return found


@pytest.mark.timeout(300)
def test_packing_that_is_killed_loses_nothing_and_goes_on(forks: Forks, full: Path, tmp_path: Path) -> None:
    packed = kill_at_random_moments(forks, full, tmp_path / "killed", kills=5, seed=1)
    assert max(packed) > 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_packing_that_is_killed_500_times_loses_nothing(
    forks: Forks, full: Path, tmp_path: Path, seed: int
) -> None:
    packed = kill_at_random_moments(forks, full, tmp_path / "killed", kills=50, seed=seed)
    assert len(set(packed)) > 1
