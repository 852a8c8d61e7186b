"""How the cost of a commit changes as a day file grows: the SQLite engine alone, 1,000 rows per commit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value
from ec_server.storage.sqlite_store import SqliteStore
from reference_client.load_plan import LoadPlan
from utilities.checksum_util import md5_hex
from utilities.model import Batch, CommitMark
from utilities.utc import DAY_S, day_of

Say = Callable[[str], None]

_STEPS = 8
_A_COMMIT = 1_000
_GIGABYTE = 10**9


def run(effort: Effort, say: Say) -> Outcome:
    """Time of a commit of 1,000 rows while the day's file grows to ``--gigabytes``."""
    rows: list[dict[str, Value]] = []
    with effort.fresh_folder() as folder, SqliteStore(folder) as store:
        batches = _batches()
        sequence = 0
        for step in range(1, _STEPS + 1):
            times_s = []
            while _size(folder) < effort.gigabytes * _GIGABYTE * step / _STEPS:
                group = list(islice(batches, _A_COMMIT))
                sequence += 1
                began = time.perf_counter()
                store.ingest(group, CommitMark("benchmark", sequence))
                times_s.append(time.perf_counter() - began)
            rows.append(_row(_size(folder), times_s))
            say(f"{rows[-1]['file']}: {rows[-1]['median ms']:.1f} ms a commit")
    first, last = (_number(rows[i]["median ms"]) for i in (0, -1))
    return Outcome(
        "Growth of a day's file: commits of 1,000 rows of 44 samples from 8 devices",
        rows,
        [Ratio("median commit in the last eighth of the file / in the first", (last / first,))],
        (),
        ["the slowest commits are those that move the log into the file (checkpoints)."],
        rows,
    )


def _row(size: int, times_s: list[float]) -> dict[str, Value]:
    ordered = sorted(times_s)
    return {
        "file": f"{size / _GIGABYTE:.2f} GB",
        "commits": len(ordered),
        "rows/s": _A_COMMIT * len(ordered) / sum(ordered),
        "median ms": 1000 * statistics.median(ordered),
        "p99 ms": 1000 * ordered[int(0.99 * len(ordered))],
        "slowest ms": 1000 * ordered[-1],
    }


def _batches() -> Iterator[Batch]:
    """Rows of eight devices in turn, from the beginning of yesterday on."""
    plan = LoadPlan(devices=8, messages=8 * DAY_S * 1000, start=day_of(int(time.time())) - DAY_S)
    for device_id, second, text in plan.batches():
        last = text[text.rfind(";") + 1 :]
        count = text.count(";") + 1
        yield Batch(device_id, second, int(text[:6]), int(last[:6]), text, count, md5_hex(text))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("ec-*.sqlite"))


def _number(value: Value) -> float:
    assert isinstance(value, float)
    return value
