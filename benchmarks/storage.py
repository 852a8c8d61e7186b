"""Bytes and processor time per stored sample: rows, packed blocks and alternatives, for the same samples.

Bytes include everything on disk: files, indexes, digests. Speeds are per core (processor time of this
process, or of QuestDB's).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.questdb import QuestDb, write_lines
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from reference_client.waveform import Waveform
from utilities.kept_memory import keep_freed_memory
from utilities.model import Batch
from utilities.utc import DAY_S, MINUTE_S

Say = Callable[[str], None]

START = 1_772_366_400
"""2026-03-01T12:00:00Z."""
DEVICE = "meter-0"
_MESSAGES_A_SECOND = 1000
_SYNTHETIC_RATE = 44_000
_FORMS = {"three decimals": "%.3f", "float32": "%.9g"}


@dataclass(frozen=True, slots=True)
class Signal:
    """Some seconds of one meter, as rows."""

    name: str
    rate: int
    seconds: Sequence[npt.NDArray[np.float32]]
    form: str

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(map(len, self.seconds))

    def text(self, value: float) -> str:
        """A value as text in a message."""
        return _FORMS[self.form] % value

    def batches(self) -> Iterator[list[Batch]]:
        """The rows of each second: one message per millisecond."""
        us = np.arange(self.rate) * 1_000_000 // self.rate
        a_row = max(1, self.rate // _MESSAGES_A_SECOND)
        texts: dict[int, list[str]] = {}
        for number, values in enumerate(self.seconds):
            if id(values) not in texts:
                samples = [f"{at:06d},{self.text(one)}" for at, one in zip(us.tolist(), values.tolist())]
                texts[id(values)] = [";".join(samples[i : i + a_row]) for i in range(0, len(samples), a_row)]
            yield [batch_of(DEVICE, START + number, text) for text in texts[id(values)]]


@dataclass(frozen=True, slots=True)
class Kept:
    """One signal, stored in one way."""

    signal: str
    way: str
    bytes_a_sample: float
    write: float
    """Samples per second."""
    read: float = 0.0
    """Samples per second read as text, or as numbers if there is no text."""
    read_rows: float = 0.0

    def row(self) -> dict[str, Value]:
        """For the table."""
        return {
            "kept as": f"{self.signal}: {self.way}",
            "bytes/sample": round(self.bytes_a_sample, 3),
            "written M/s": self.write / 1e6,
            "read M/s": self.read / 1e6 if self.read else None,
            "as rows M/s": self.read_rows / 1e6 if self.read_rows else None,
        }


def run(effort: Effort, say: Say) -> Outcome:
    """Bytes on disk and samples/s of rows, packed blocks, Parquet, FLAC and QuestDB (--questdb)."""
    keep_freed_memory()  # as the writer and the packer do
    kept: list[Kept] = []
    ratios: dict[str, list[float]] = {}
    for number in effort.each_round():
        for signal in signals(effort):
            say(f"round {number + 1} of {effort.rounds}: {signal.name}, {signal.form}")
            rows, packed = _sqlite(effort, signal)
            others = [_parquet(effort, signal), _flac(effort, signal)]
            others += [_questdb(effort, signal)] if effort.questdb else []
            kept += [rows, packed, *filter(None, others)]
            for name, value in _ratios(rows, packed).items():
                ratios.setdefault(f"{name}, {rows.signal}", []).append(value)
    return Outcome(
        "A stored sample: bytes of everything on disk, and samples/s of one core",
        medians([one.row() for one in kept], "kept as"),
        [Ratio(name, tuple(values), **_wanted(name)) for name, values in ratios.items()],
        (),
        [] if effort.questdb else ["QuestDB is compared with --questdb"],
        [one.row() for one in kept],
    )


def _ratios(rows: Kept, packed: Kept) -> dict[str, float]:
    return {
        "bytes/sample, packed": packed.bytes_a_sample,
        "bytes, packed / rows": packed.bytes_a_sample / rows.bytes_a_sample,
        "packing with verification, M samples/s": packed.write / 1e6,
        "read as text, packed / rows": packed.read / rows.read,
        "read as rows, packed / rows": packed.read_rows / rows.read_rows,
    }


def _wanted(name: str) -> dict[str, float]:
    if name.startswith("packing"):
        return {"at_least": 3.0}
    return {"at_least": 0.7} if name.startswith("read") else {}


def signals(effort: Effort) -> Iterator[Signal]:
    """Each recording, or a synthetic household if none is given, in both forms."""
    for name, rate, values in effort.recordings or [("synthetic", _SYNTHETIC_RATE, None)]:
        if values is None:
            waveform = Waveform(20_260_301)
            own = [waveform.second(START + i) for i in range(4)]
        else:
            own = [values[i : i + rate] for i in range(0, len(values) - rate + 1, rate)]
        seconds = [own[i % len(own)] for i in range(max(4, int(effort.seconds * 30)))]
        for form in _FORMS:
            yield Signal(name, rate, seconds, form)


# --- SQLite -----------------------------------------------------------------------------------


def _sqlite(effort: Effort, signal: Signal) -> tuple[Kept, Kept]:
    stop = START + len(signal.seconds)
    name = f"{signal.name}, {signal.form}"
    with effort.fresh_folder() as folder:
        with SqliteStore(folder) as store:
            writing = 0.0
            for batches in signal.batches():
                began = time.process_time()
                store.ingest(batches)
                writing += time.process_time() - began
            store.minute_digests(DEVICE, START, stop + MINUTE_S)
            reads = _read(store, signal, stop)
        rows = Kept(name, "rows", _size(folder) / signal.samples, signal.samples / writing, *reads)
        with SqliteStore(folder) as store:
            began = time.process_time()
            for device_id, minute in store.unpacked_minutes(START + DAY_S, 1000):
                store.pack_minute(device_id, minute)
            packing = time.process_time() - began
            while store.return_space(START + 2 * DAY_S):
                pass
            reads = _read(store, signal, stop)
        return rows, Kept(name, "packed", _size(folder) / signal.samples, signal.samples / packing, *reads)


def _read(store: SqliteStore, signal: Signal, stop: int) -> tuple[float, float]:
    """Samples per second read as text and as rows; the better of two runs."""
    seconds = range(START, stop)
    as_text = min(_timed(lambda: [store.second_text(DEVICE, second) for second in seconds]) for _ in "12")
    as_rows = min(_timed(lambda: sum(1 for _ in store.rows(DEVICE, START, stop))) for _ in "12")
    return signal.samples / as_text, signal.samples / as_rows


def _timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("ec-*.sqlite"))


# --- others -----------------------------------------------------------------------------------


def _moments(signal: Signal) -> npt.NDArray[np.int64]:
    us = np.arange(signal.rate, dtype=np.int64) * 1_000_000 // signal.rate
    starts = (START + np.arange(len(signal.seconds), dtype=np.int64)) * 1_000_000
    return (starts[:, None] + us).reshape(-1)


def _values(signal: Signal) -> npt.NDArray[np.generic]:
    values: npt.NDArray[np.float32] = np.concatenate(signal.seconds)
    return values if signal.form == "float32" else np.round(values.astype(np.float64), 3)


def _parquet(effort: Effort, signal: Signal) -> Kept | None:
    """Columns of time and value, with byte-stream-split and Zstandard; numbers, not text."""
    with suppress(ImportError), effort.fresh_folder() as folder:
        import pyarrow  # noqa: PLC0415 (an extra)
        import pyarrow.parquet  # noqa: PLC0415

        path, moments, values = folder / "day.parquet", _moments(signal), _values(signal)
        table = pyarrow.table(
            {"time": pyarrow.array(moments, pyarrow.timestamp("us", "UTC")), "value": values}
        )
        writing = _timed(
            lambda: pyarrow.parquet.write_table(
                table,
                path,
                compression="zstd",
                use_dictionary=False,
                column_encoding={"time": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
            )
        )
        reading = _timed(lambda: pyarrow.parquet.read_table(path))
        return _numbers(signal, "Parquet, zstd", path, writing, reading)
    return None


def _flac(effort: Effort, signal: Signal) -> Kept | None:
    """Thousandths as 24-bit integers; without times, and only for values that fit."""
    thousandths = np.rint(np.concatenate(signal.seconds).astype(np.float64) * 1000)
    if signal.form == "float32" or np.abs(thousandths).max() >= 2**23:
        return None
    with suppress(ImportError), effort.fresh_folder() as folder:
        import soundfile  # noqa: PLC0415 (an extra)

        path, wide = folder / "day.flac", thousandths.astype(np.int32) << 8
        writing = _timed(
            lambda: soundfile.write(path, wide, signal.rate, "PCM_24", format="FLAC", compression_level=1.0)
        )
        reading = _timed(lambda: soundfile.read(path, dtype="int32"))
        return _numbers(signal, "FLAC -8", path, writing, reading)
    return None


def _numbers(signal: Signal, way: str, path: Path, writing: float, reading: float) -> Kept:
    name = f"{signal.name}, {signal.form}"
    size = path.stat().st_size / signal.samples
    return Kept(name, way, size, signal.samples / writing, signal.samples / reading)


def _questdb(effort: Effort, signal: Signal) -> Kept:
    """One row per sample, over the line protocol."""
    with effort.fresh_folder() as folder:
        rows = ((b.device_id, b.second, b.values) for batches in signal.batches() for b in batches)
        samples = write_lines(folder / "lines", rows)
        with QuestDb(folder, value_type="FLOAT" if signal.form == "float32" else "DOUBLE") as server:
            before = server.usage().cpu_s
            server.send([folder / "lines"])
            server.wait_for(samples)
            used = server.usage().cpu_s - before
        name = f"{signal.name}, {signal.form}"
        return Kept(name, "QuestDB", server.stored_bytes() / samples, samples / used)
