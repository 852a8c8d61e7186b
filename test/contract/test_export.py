"""The export command as a user runs it: a process of its own over a real database."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stored_data import MINUTE, store_second, stored_folder

from ec_server.storage.sqlite_store import SqliteStore
from reference_client.message import text_batches
from reference_client.waveform import Waveform
from utilities.model import MinuteState, Verdict
from utilities.utc import iso

ROOT = Path(__file__).parents[2]
DEVICE = "meter-1"
SECONDS = {
    MINUTE: ["000000,231.5;000022,+5;000045,1e3", "000045,7;000068,-.5"],
    MINUTE + 1: ["500000,0.1"],
    MINUTE + 61: ["000000,1;250000,2;500000,3;750000,4"],
}
EXPECTED = [
    (MINUTE * 10**6, "231.5"),
    (MINUTE * 10**6 + 22, "+5"),
    (MINUTE * 10**6 + 45, "7"),
    (MINUTE * 10**6 + 68, "-.5"),
    ((MINUTE + 1) * 10**6 + 500_000, "0.1"),
    *[((MINUTE + 61) * 10**6 + i * 250_000, str(i + 1)) for i in range(4)],
]
RANGE = ("--from", "202603011200", "--to", "20260301120300")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return stored_folder(tmp_path / "data", DEVICE, SECONDS)


def export(folder: Path, *arguments: str, code: str = "pass") -> subprocess.CompletedProcess[bytes]:
    module = "runpy.run_module('ec_server.export', run_name='__main__', alter_sys=True)"
    run = f"import runpy, sys; {code}; {module}"
    return subprocess.run(
        [sys.executable, "-c", run, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "EC_STORAGE_PATH": str(folder)},
        cwd=folder.parent,
        capture_output=True,
        timeout=60,
        check=False,
    )


def stamp(time_us: int) -> str:
    return iso(time_us)[:26] + "Z"


def test_csv_goes_to_standard_output_with_the_canonical_text_of_each_value(folder: Path) -> None:
    done = export(folder, DEVICE, *RANGE)
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader(io.StringIO(done.stdout.decode())))
    assert rows == [["time", "value"], *[[stamp(time_us), value] for time_us, value in EXPECTED]]


def test_the_range_is_half_open_and_takes_seconds(folder: Path) -> None:
    done = export(folder, DEVICE, "--from", "20260301120001", "--to", "20260301120101")
    assert [line.split(b",")[1] for line in done.stdout.splitlines()[1:]] == [b"0.1"]


def test_a_range_of_all_time_gives_all_that_is_stored(folder: Path) -> None:
    done = export(folder, DEVICE, "--from", "000101010000", "--to", "99991231235959")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + len(EXPECTED)


@pytest.mark.parametrize("without_pyarrow", [False, True])
def test_npy_is_a_structured_array_whichever_parser_reads_the_text(
    folder: Path, tmp_path: Path, without_pyarrow: bool
) -> None:
    hide = "sys.modules['pyarrow'] = None" if without_pyarrow else "pass"
    out = tmp_path / "x.npy"
    assert export(folder, DEVICE, *RANGE, "--format", "npy", "-o", str(out), code=hide).returncode == 0
    array = np.load(out)
    assert array.dtype == np.dtype([("time", "<i8"), ("value", "<f8")])
    assert array.tolist() == [(time_us, float(value)) for time_us, value in EXPECTED]


def test_pandas_and_duckdb_read_the_parquet_file(folder: Path, tmp_path: Path) -> None:
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    out = tmp_path / "x.parquet"
    assert export(folder, DEVICE, *RANGE, "--format", "parquet", "-o", str(out)).returncode == 0
    frame = pandas.read_parquet(out)
    assert str(frame["time"].dtype) == "datetime64[us, UTC]"
    times = frame["time"].dt.tz_localize(None).astype("datetime64[us]").astype("int64").tolist()
    assert list(zip(times, frame["value"])) == [(time_us, float(value)) for time_us, value in EXPECTED]
    found = duckdb.sql(f"SELECT epoch_us(time), value FROM '{out}' ORDER BY time").fetchall()
    assert found == [(time_us, float(value)) for time_us, value in EXPECTED]


def test_the_report_beside_the_file_says_what_each_minute_is_and_where_gaps_are(
    folder: Path, tmp_path: Path
) -> None:
    with SqliteStore(folder) as store:
        digests = dict(store.minute_digests(DEVICE, MINUTE, MINUTE + 180))
        compared = [
            Verdict(MINUTE + 60, MinuteState.PROVEN, digests[MINUTE + 60]),
            Verdict(MINUTE + 120, MinuteState.UNCONFIRMABLE, None),
        ]
        store.record_verdicts(DEVICE, compared, 1)
    out = tmp_path / "x.csv"
    assert export(folder, DEVICE, *RANGE, "-o", str(out)).returncode == 0
    report = json.loads((tmp_path / "x.csv.json").read_text())
    assert report["device"] == DEVICE
    assert report["range"]["span"] == [MINUTE * 10**6, (MINUTE + 180) * 10**6]
    assert report["samples"] == len(EXPECTED)
    assert report["minutes"] == [
        {"minute": "202603011200", "state": "unproven", "digest": as_object(digests[MINUTE])},
        {"minute": "202603011201", "state": "proven", "digest": as_object(digests[MINUTE + 60])},
        {"minute": "202603011202", "state": "empty", "digest": None},
    ]
    assert report["gaps"] == [
        [MINUTE * 10**6 + 91, (MINUTE + 1) * 10**6 + 500_000],
        [(MINUTE + 1) * 10**6 + 500_023, (MINUTE + 61) * 10**6],
        [(MINUTE + 62) * 10**6, (MINUTE + 180) * 10**6],
    ]


def as_object(digest: object) -> dict[str, object]:
    return {"count": digest.count, "md5": digest.md5}  # type: ignore[attr-defined]


def test_a_minute_that_the_range_cuts_is_reported_with_its_whole_digest(folder: Path, tmp_path: Path) -> None:
    with SqliteStore(folder) as store:
        whole = dict(store.minute_digests(DEVICE, MINUTE, MINUTE + 60))[MINUTE]
    out = tmp_path / "x.csv"
    assert (
        export(folder, DEVICE, "--from", "20260301120001", "--to", "202603011201", "-o", str(out)).returncode
        == 0
    )
    (minute,) = json.loads((tmp_path / "x.csv.json").read_text())["minutes"]
    assert minute["digest"] == as_object(whole)


def test_a_lost_message_is_a_gap_of_its_millisecond(tmp_path: Path) -> None:
    batches = text_batches(Waveform(1).second(MINUTE))
    folder = stored_folder(tmp_path / "data", DEVICE, {MINUTE: batches[:500] + batches[501:]})
    out = tmp_path / "x.csv"
    assert (
        export(
            folder, DEVICE, "--from", "20260301120000", "--to", "20260301120001", "-o", str(out)
        ).returncode
        == 0
    )
    gaps = json.loads((tmp_path / "x.csv.json").read_text())["gaps"]
    assert gaps == [[MINUTE * 10**6 + 500_000, MINUTE * 10**6 + 501_000]]


def test_nothing_stored_is_exit_1_without_a_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    done = export(folder, DEVICE, "--from", "202603021200", "--to", "202603021201", "-o", str(out))
    assert done.returncode == 1
    assert b"nothing is stored of meter-1" in done.stderr
    done = export(folder, "meter-9", *RANGE, "-o", str(out))
    assert done.returncode == 1
    assert b"meter-9 was never seen, only meter-1" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "202603011200", "--to", "202603011200"), "from must be earlier than to"),
        (("--from", "2026", "--to", "202603011200"), "not a UTC moment of the form YYYYMMDDhhmm"),
        (("--from", "202602301200", "--to", "202603011200"), "not a UTC moment"),
        ((*RANGE, "--format", "parquet"), "needs -o FILE"),
        ((*RANGE, "--format", "csv", "-o", "no/such/folder/x.csv"), "No such file or directory"),
        ((*RANGE, "-o", "."), "is not a file that can be replaced"),
        ((*RANGE, "-c", "missing.properties"), "missing.properties"),
    ],
)
def test_what_cannot_be_done_is_exit_2_and_says_why(
    folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = export(folder, DEVICE, *arguments)
    assert done.returncode == 2
    assert re.search(re.escape(said), done.stderr.decode())
    assert b"Traceback" not in done.stderr


def test_a_storage_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = export(tmp_path / "elsewhere", DEVICE, *RANGE)
    assert done.returncode == 1
    assert b"storage.path" in done.stderr
    assert b"does not exist" in done.stderr


def test_parquet_without_pyarrow_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    done = export(
        folder, DEVICE, *RANGE, "--format", "parquet", "-o", str(out), code="sys.modules['pyarrow'] = None"
    )
    assert done.returncode == 2
    assert b"pip install 'pyarrow" in done.stderr


def test_memory_does_not_grow_with_the_range(tmp_path: Path) -> None:
    wave = Waveform(2)
    seconds = {MINUTE + i: text_batches(wave.second(MINUTE + i)) for i in range(40)}
    folder = stored_folder(tmp_path / "data", DEVICE, seconds)
    tell = "print(resource.getrusage(0).ru_maxrss, file=sys.stderr)"
    peak = f"import atexit, resource; atexit.register(lambda: {tell})"
    peaks_kb = []
    for stop in ("20260301120010", "20260301120040"):
        span = ("--from", "202603011200", "--to", stop, "-o", str(tmp_path / "x.csv"))
        done = export(folder, DEVICE, *span, code=peak)
        peaks_kb.append(int(done.stderr.split()[-1]))
    assert peaks_kb[1] - peaks_kb[0] < 8_000


def test_a_file_of_an_earlier_export_stays_until_the_new_one_is_complete(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.csv"
    out.write_text("earlier")
    broken = (
        "import ec_server.export.files as f; f.CsvEncoder.add = lambda *a: (_ for _ in ()).throw(OSError())"
    )
    done = export(folder, DEVICE, *RANGE, "-o", str(out), code=broken)
    assert done.returncode == 2
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.csv"]


def test_two_messages_of_one_key_are_exported_as_they_count(tmp_path: Path) -> None:
    folder = stored_folder(tmp_path / "data", DEVICE, {MINUTE: ["000000,1;000500,2", "000000,1;000500,3"]})
    lines = export(folder, DEVICE, *RANGE).stdout.splitlines()
    assert [line.split(b",")[1] for line in lines[1:]] == [b"1", b"3"]


def test_store_second_is_what_these_tests_rest_on(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        store_second(store, DEVICE, MINUTE, ["000000,1"])
        assert store.second_text(DEVICE, MINUTE) == "000000,1"
