"""The cost of exporting the packed data of one meter to each file format, with the export command.

The command runs in a separate process, whose processor time and peak memory are read from the kernel. pandas
and DuckDB read its output back, which is compared sample by sample with what was stored.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.effort import Effort
from benchmarks.measured_program import ROOT, BenchmarkError
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.storage import DEVICE, START, Signal, signals
from ec_server.storage.sqlite_store import SqliteStore
from utilities.utc import DAY_S, MINUTE_S

Say = Callable[[str], None]

_FORMATS = ("parquet", "npy", "csv")
_AT_LEAST = 2.0
"""Million samples a second of one core, to Parquet."""
_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
"""A process begins with the peak of the one that forked it, so a small one has to."""


def run(effort: Effort, say: Say) -> Outcome:
    """Samples per second of one core and peak memory of the export command; --seconds 120: an hour."""
    signal = next(signals(effort))
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    with effort.fresh_folder() as folder:
        say(f"{len(signal.seconds)} s of {signal.name} are stored and packed")
        _fill(folder / "data", signal)
        for number in effort.each_round():
            for kind in _FORMATS:
                say(f"round {number + 1} of {effort.rounds}: {kind}")
                path = folder / f"samples.{kind}"
                rows.append(_exported(folder, path, kind, signal))
                if kind == "parquet" and not number:
                    faults += _differences(path, signal, say)
                path.unlink()
    speeds = tuple(float(row["M samples/s"] or 0) for row in rows if row["format"] == "parquet")
    return Outcome(
        f"Export of {signal.samples:,} packed samples of one meter, per core",
        medians(rows, "format"),
        [Ratio("export to Parquet, M samples/s", speeds, at_least=_AT_LEAST)],
        faults,
        (),
        rows,
    )


def _fill(folder: Path, signal: Signal) -> None:
    with SqliteStore(folder) as store:
        for number, batches in enumerate(signal.batches(), 1):
            store.ingest(batches)
            if number % MINUTE_S == 0 or number == len(signal.seconds):
                for device_id, minute in store.unpacked_minutes(START + DAY_S, 1000):
                    store.pack_minute(device_id, minute)


def _exported(folder: Path, path: Path, kind: str, signal: Signal) -> dict[str, Value]:
    """Run the command once; returns its figures."""
    configuration = folder / "config.properties"
    configuration.write_text(f"[Storage]\nstorage.path = {folder / 'data'}\n", "utf-8")
    span = ["--from", "202603011200", "--to", "202603011400", "--format", kind, "-o", str(path)]
    command = [sys.executable, "-m", "ec_server.export", DEVICE, *span, "-c", str(configuration)]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)} failed: {done.stderr[-1000:]}")
    cpu_s, peak_kb = map(float, done.stdout.split())
    return {
        "format": kind,
        "M samples/s": signal.samples / cpu_s / 1e6,
        "peak MB": peak_kb / 1024,
        "bytes/sample": path.stat().st_size / signal.samples,
    }


# --- read back --------------------------------------------------------------------------------

_Part = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Epoch microseconds, and values."""


def _differences(path: Path, signal: Signal, say: Say) -> list[str]:
    """Where the data that pandas and DuckDB read differs from what was stored."""
    faults = []
    for reader, parts in (("pandas", _by_pandas), ("DuckDB", _by_duckdb)):
        with suppress(ImportError):  # extras
            say(f"read back by {reader}")
            fault = _difference(parts(path), signal)
            faults += [f"{reader}: {fault}"] if fault else []
    return faults


def _by_pandas(path: Path) -> Iterator[_Part]:
    import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415 (an extra)

    frame = pd.read_parquet(path)
    times = frame["time"].to_numpy("datetime64[us]").astype(np.int64)
    yield times, frame["value"].to_numpy()


def _by_duckdb(path: Path) -> Iterator[_Part]:
    import duckdb  # noqa: PLC0415 (an extra)

    result: Any = duckdb.sql(f"SELECT epoch_us(time) AS us, value FROM '{path}'")
    for batch in result.fetch_arrow_reader(1_000_000):
        yield batch.column(0).to_numpy(), batch.column(1).to_numpy()


def _difference(parts: Iterator[_Part], signal: Signal) -> str | None:
    """The first difference from the signal; None if there is none."""
    own: Sequence[npt.NDArray[np.float32]] = list({id(one): one for one in signal.seconds}.values())
    stored = np.array([[float(signal.text(value)) for value in one.tolist()] for one in own])
    position = 0
    for times, values in parts:
        places = position + np.arange(len(times))
        if position + len(times) > signal.samples:
            return f"more than the {signal.samples:,} samples stored"
        seconds, within = np.divmod(places, signal.rate)
        expected = (START + seconds) * 1_000_000 + within * 1_000_000 // signal.rate
        wrong = np.flatnonzero((times != expected) | (values != stored[seconds % len(own), within]))
        if len(wrong):
            return f"sample {position + int(wrong[0]):,} differs"
        position += len(times)
    return None if position == signal.samples else f"{position:,} of {signal.samples:,} samples"
