"""The storage engine after deaths and power failures at every point of its work; see test/crash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from contract.store_suite import NOON, check, run_of
from crash.__main__ import replay_seed
from crash.known import ViolationError
from crash.recorded_disk import Sync, Write, recorded
from crash.reopened_store import within
from crash.replay import Tried

from ec_server.storage import sqlite_day_packing, sqlite_day_writes, sqlite_trust
from ec_server.storage.sqlite_connection import transaction
from ec_server.storage.sqlite_day_proof import DayProof
from ec_server.storage.sqlite_files import DayFiles
from ec_server.storage.sqlite_lasting import LastingCommits
from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import MinuteState
from utilities.utc import DAY_S, day_of

SETTINGS = ("normal", "full")


@pytest.mark.parametrize("synchronous", SETTINGS)
def test_deaths_and_power_failures_cost_no_more_than_is_promised(synchronous: str) -> None:
    tried = replay_seed(1, synchronous, steps=18, share=0.03, ways=2)
    print(f"{synchronous}: {tried}")
    assert tried.distinct > 5


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("synchronous", SETTINGS)
def test_the_same_at_a_hundred_thousand_points(synchronous: str) -> None:
    """``EC_TEST_PREFIXES`` says how many."""
    most, seed, tried = int(os.environ.get("EC_TEST_PREFIXES", "100000")), 0, Tried()
    while tried.prefixes < most:
        tried += replay_seed(seed, synchronous, steps=60, share=1.0, ways=3)
        seed += 1
    print(f"{synchronous}: {tried}")


# --- what it found --------------------------------------------------------------------------------


def test_a_commit_that_removes_a_verdict_is_synced_and_others_are_not(tmp_path: Path) -> None:
    with recorded(tmp_path) as recording, SqliteStore(tmp_path) as store:
        store.ingest([run_of("m", NOON, 0)])
        log = next(
            o.file for o in recording.operations if isinstance(o, Write) and "wal" in name_of(o, recording)
        )
        store.ingest([run_of("m", NOON, 1000)])
        assert isinstance(last_of(recording, log), Write)
        check(store, "m", NOON, MinuteState.PROVEN)
        assert isinstance(last_of(recording, log), Write)
        store.ingest([run_of("m", NOON, 2000)])
        assert isinstance(last_of(recording, log), Sync)
        store.ingest([run_of("m", NOON, 3000)])
        assert isinstance(last_of(recording, log), Write)


def test_a_removal_that_a_death_cut_short_is_finished_by_whoever_opens_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path)
    store.ingest([run_of("m", NOON, 0)])
    with monkeypatch.context() as patched:
        patched.setattr(DayFiles, "delete", lambda *_: None)
        store.remove_before(day_of(NOON) + DAY_S)
    store.close()
    with within(10), SqliteStore(tmp_path) as store:
        store.ingest([run_of("m", NOON, 1000)])
        assert [row.batch.start_us for row in store.rows("m", NOON, NOON + 1)] == [1000]


@pytest.mark.parametrize("renamed", range(3))
def test_a_death_while_a_damaged_file_is_set_aside_costs_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    """A log that lies where no file is any more would be deleted with the next file that is made there."""
    path = tmp_path / "ec-20260301.sqlite"
    log = path.with_name(path.name + "-wal")
    path.write_bytes(b"damaged")
    log.write_bytes(b"what was committed last")
    rename, left = Path.rename, iter(range(renamed))

    def dies(one: Path, to: Path) -> Path:
        if next(left, None) is None:
            raise SystemExit
        return rename(one, to)

    files = DayFiles(tmp_path, read_only=False, synchronous="normal")
    with monkeypatch.context() as patched, suppress(SystemExit):
        patched.setattr(Path, "rename", dies)
        files.put_aside(day_of(NOON))
    assert path.exists() or not log.exists()
    files.put_aside(day_of(NOON))
    assert sorted(found.read_bytes() for found in tmp_path.glob("*.damaged-*")) == [
        b"damaged",
        b"what was committed last",
    ]


def name_of(operation: Write, recording: Any) -> str:
    return next((n for n, file in recording.names.items() if file == operation.file and "ec-" in n), "")


def last_of(recording: Any, file: int) -> object:
    return [o for o in recording.operations if getattr(o, "file", None) == file][-1]


# --- faults on purpose: one for each thing that is checked ----------------------------------------


class _Split:
    """A cursor that ends its transaction before a statement, and begins another."""

    def __init__(self, cursor: apsw.Cursor, before: str) -> None:
        self._cursor, self._before = cursor, before

    def execute(self, statement: str, *arguments: Any) -> Any:
        if statement.startswith(self._before):
            self._cursor.execute("COMMIT")
            self._cursor.execute("BEGIN IMMEDIATE")
        return self._cursor.execute(statement, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def split_before(statement: str) -> Callable[..., Any]:
    """``transaction`` with a hole in it."""

    @contextmanager
    def holed(connection: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[Any]:
        with transaction(connection, kind) as cursor:
            yield _Split(cursor, statement)

    return holed


def believe_older_states(patch: pytest.MonkeyPatch) -> None:
    """Neither a look nor a write notices a file's older state."""
    patch.setattr(sqlite_trust.DayTrust, "is_trusted", lambda *_: True)
    patch.setattr(sqlite_trust, "_write", lambda day, _recorded, use: use(day))


Fault = Callable[[pytest.MonkeyPatch], None]

_TAKES_LONG = "a verdict that comes back when the power fails"
"""The power must fail at the right moment and in the right way."""

FAULTS: dict[str, tuple[Fault, str, dict[str, Any], str]] = {
    "a mark in a transaction of its own": (
        lambda patch: patch.setattr(
            sqlite_day_writes, "transaction", split_before("INSERT OR REPLACE INTO ec_writer")
        ),
        "full",
        {"steps": ["send"]},
        "some of it is stored",
    ),
    "a block and its rows in two transactions": (
        lambda patch: patch.setattr(
            sqlite_day_packing, "transaction", split_before("DELETE FROM ec_consumption")
        ),
        "full",
        {"steps": ["send", "send", "pack"]},
        "pack changed rows",
    ),
    _TAKES_LONG: (
        lambda patch: patch.setattr(LastingCommits, "must_last", lambda _self: None),
        "normal",
        {
            "seed": 2,
            "steps": ["send", "round", "restart", *["record again", "round"] * 2],
            "ways": 6,
        },
        "lacks",
    ),
    "a file's older state that is believed": (
        believe_older_states,
        "normal",
        {"steps": ["send", "round", "back up", "record again", "round", "restore"]},
        "lacks",
    ),
    "a write that leaves the verdict": (
        lambda patch: patch.setattr(DayProof, "revoke", lambda *_: None),
        "full",
        {"steps": ["send", "round", "record again"]},
        "proven and|lacks",
    ),
    "commits that are not synced": (
        lambda patch: None,
        "off",
        {"steps": ["send", "send"], "promised": "full"},
        "must not hold",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.soak) if n == _TAKES_LONG else n for n in FAULTS]
)
def test_a_fault_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, synchronous, how, found = FAULTS[name]
    fault(monkeypatch)
    with pytest.raises(ViolationError, match=found):
        replay_seed(synchronous=synchronous, **{"seed": 0, "share": 1.0, "ways": 2, **how})
