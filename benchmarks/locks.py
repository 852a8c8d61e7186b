"""How long a writer waits for SQLite's lock beside others that take it hundreds of times per second.

Once with the wait of ``sqlite_connection.wait_for_locks``, once with SQLite's own, in turns.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import apsw
import numpy as np

from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from ec_server.storage.sqlite_connection import connect, the_value, transaction

Say = Callable[[str], None]

_OTHERS = 2
_HELD_S, _FREE_S, _AGAIN_S = 0.006, 0.0015, 0.03
"""A transaction of the others, their pause, and the pause of the writer that is measured."""
_LONGEST_MS = 4000
_HERE, _SQLITE = "as here", "SQLite's own"


def run(effort: Effort, say: Say) -> Outcome:
    """How long a writer waits for the lock beside two busy ones, and with SQLite's own way of waiting."""
    rows: list[dict[str, Value]] = []
    ratios: list[float] = []
    for number in effort.each_round():
        say(f"round {number + 1} of {effort.rounds}")
        here, own = (_measure(effort, way) for way in (_HERE, _SQLITE))
        rows += [here, own]
        ratios.append(float(here["p95 ms"]) / float(own["p95 ms"]))  # type: ignore[arg-type]
    return Outcome(
        f"Waiting for the lock beside {_OTHERS} busy writers",
        medians(rows, "wait"),
        [Ratio("95th percentile of the wait, as here / SQLite's own", tuple(ratios), at_most=1.0)],
        (),
        (),
        rows,
    )


def _measure(effort: Effort, way: str) -> dict[str, Value]:
    with effort.fresh_folder() as folder:
        path = folder / "locks.sqlite"
        connection = _connection(path, way)
        connection.execute("CREATE TABLE counted (n INTEGER); INSERT INTO counted VALUES (0)")
        waits = []
        with _others(path, way):
            until_s = time.monotonic() + 3 * effort.seconds
            while (now_s := time.monotonic()) < until_s:
                with transaction(connection):
                    waits.append(time.monotonic() - now_s)
                time.sleep(_AGAIN_S)
        count = the_value(connection.execute("SELECT n FROM counted"))
        connection.close()
    milliseconds = 1000 * np.array(waits)
    return {
        "wait": way,
        "p50 ms": float(np.quantile(milliseconds, 0.5)),
        "p95 ms": float(np.quantile(milliseconds, 0.95)),
        "longest ms": float(milliseconds.max()),
        "transactions of the others": count,
    }


def _connection(path: Path, way: str) -> apsw.Connection:
    connection = connect(path, read_only=False)
    if way == _SQLITE:
        connection.set_busy_timeout(_LONGEST_MS)
    return connection


@contextmanager
def _others(path: Path, way: str) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    end = context.Event()
    processes = [context.Process(target=_write, args=(path, way, end)) for _ in range(_OTHERS)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        end.set()
        for process in processes:
            process.join()


def _write(path: Path, way: str, end: Event) -> None:
    connection = _connection(path, way)
    while not end.is_set():
        with transaction(connection) as cursor:
            cursor.execute("UPDATE counted SET n = n + 1")
            time.sleep(_HELD_S)
        time.sleep(_FREE_S)
    connection.close()
