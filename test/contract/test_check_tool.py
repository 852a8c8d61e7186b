"""The check tool as people and programs call it: the real command over real day files."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ec_server.check.hour_report import CheckState, Waveform, read_hour
from ec_server.check.report_plot import find_gaps
from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import md5_hex
from utilities.model import Batch, MinuteState, Verdict
from utilities.utc import parse_minute

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "test" / "test.py"
HOUR = parse_minute("202603011200")
RATE = 100
PNG = b"\x89PNG\r\n\x1a\n"


def batch(second: int, start: int, count: int, device: str = "meter-1", value: str = "1.5") -> Batch:
    """Samples at RATE a second, the first being number ``start`` of the second."""
    step = 1_000_000 // RATE
    values = ";".join(f"{(start + i) * step:06d},{value}" for i in range(count))
    end = (start + count - 1) * step
    return Batch(device, second, start * step, end, values, count, md5_hex(values))


def full_second(second: int) -> list[Batch]:
    return [batch(second, start, 10) for start in range(0, RATE, 10)]


def fill(store: Store) -> None:
    """Some minutes of each kind, the others empty.

    0 is complete and proven, 1 differs, 2 has overlapping rows, 3 was compared and written to since,
    4 cannot be confirmed, 30 has one sample.
    """
    complete = [b for second in range(60) for b in full_second(HOUR + second)]
    partial = [b for second in range(20) for b in full_second(HOUR + 60 + second)]
    overlapping = [batch(HOUR + 120, 0, 60), batch(HOUR + 120, 40, 60)]
    store.ingest([*complete, *partial, *overlapping, batch(HOUR + 180, 0, 5), batch(HOUR + 240, 0, 5)])
    store.ingest([batch(HOUR + 1800, 99, 1)])
    store.note_devices({"meter-1": HOUR * 1_000_000})
    seen = dict(store.minute_digests("meter-1", HOUR, HOUR + 3600))
    states = {
        0: MinuteState.PROVEN,
        60: MinuteState.UNRESOLVED,
        180: MinuteState.PROVEN,
        240: MinuteState.UNCONFIRMABLE,
    }
    verdicts = [Verdict(HOUR + offset, state, seen[HOUR + offset]) for offset, state in states.items()]
    store.record_verdicts("meter-1", verdicts, (HOUR + 4000) * 1_000_000)
    store.ingest([batch(HOUR + 181, 0, 5)])


@dataclass(frozen=True)
class Data:
    folder: Path
    configuration: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("check")
    with SqliteStore(folder / "data") as store:
        fill(store)
    configuration = folder / "c.properties"
    configuration.write_text(f"[Storage]\nstorage.path={folder / 'data'}\n")
    return Data(folder, configuration)


def call(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(data: Data, *arguments: object, moment: str = "20260301120107") -> Any:
    return call("-i", "meter-1", "-d", moment, "-c", data.configuration, "--rate", RATE, *arguments)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "data")
    yield opened
    opened.close()


def test_each_engine_gives_the_same_hour(store: Store) -> None:
    fill(store)
    report = read_hour(store, "meter-1", HOUR + 60 + 7, RATE)
    lines = {(line.minute - HOUR) // 60: line for line in report.minutes}
    assert {n: (line.samples, line.rows, line.state) for n, line in lines.items() if line.rows} == {
        0: (6000, 600, CheckState.PROVEN),
        1: (2000, 200, CheckState.UNRESOLVED),
        2: (100, 2, CheckState.NOT_COMPARED),
        3: (10, 2, CheckState.UNPROVEN),
        4: (5, 1, CheckState.UNCONFIRMABLE),
        30: (1, 1, CheckState.NOT_COMPARED),
    }
    assert {line.state for line in lines.values() if not line.rows} == {CheckState.ABSENT}
    assert [line.samples for line in report.seconds] == [100] * 20 + [0] * 40
    assert [line.rows for line in report.seconds] == [10] * 20 + [0] * 40


def test_json_holds_the_hour_and_the_minutes_seconds(data: Data) -> None:
    found = check(data, "--json")
    assert (found.returncode, found.stderr) == (0, "")
    document = json.loads(found.stdout)
    assert (document["device_id"], document["hour"]) == ("meter-1", "2026030112")
    assert document["storage"] == str(data.folder / "data")
    assert len(document["minutes"]) == len(document["seconds"]) == 60
    first = document["minutes"][0]
    assert (first["minute"], first["samples"], first["rows"]) == ("202603011200", 6000, 600)
    assert (first["expected"], first["state"], first["check_times"]) == (RATE * 60, "proven", 1)
    assert first["check_time"] == "2026-03-01T13:06:40.000000+00:00"
    assert document["minutes"][59] == {
        "minute": "202603011259",
        "samples": 0,
        "rows": 0,
        "expected": RATE * 60,
        "state": "absent",
        "values_checksum": None,
        "check_time": None,
        "check_times": 0,
        "extra": 0,
        "conflicts": 0,
    }
    assert document["samples"] == sum(minute["samples"] for minute in document["minutes"])


def test_digests_are_those_of_the_samples(data: Data) -> None:
    document = json.loads(check(data, "--json").stdout)
    text = ";".join(f"{number * 10_000:06d},1.5" for number in range(RATE))
    digest = hashlib.md5(text.encode()).hexdigest()
    assert {s["values_checksum"] for s in document["seconds"]} == {digest, None}
    lines = "".join(f"1201{second:02d},{RATE},{digest}\n" for second in range(20))
    assert document["minutes"][1]["values_checksum"] == hashlib.md5(lines.encode()).hexdigest()


def test_piped_it_is_plain_columns_that_scripts_can_cut(data: Data) -> None:
    found = check(data)
    assert found.returncode == 0
    rows = [line.split() for line in found.stdout.splitlines()]
    minutes = {row[0]: row[1:] for row in rows if row and row[0].isdigit() and len(row[0]) == 12}
    seconds = {row[0]: row[1:] for row in rows if row and row[0].isdigit() and len(row[0]) == 14}
    assert len(minutes) == len(seconds) == 60
    assert minutes["202603011200"] == ["6000", "600", "6000", "100.0%", "proven"]
    assert minutes["202603011201"] == ["2000", "200", "6000", "33.3%", "unresolved"]
    assert minutes["202603011203"][-1] == "unproven"
    assert minutes["202603011259"] == ["0", "0", "6000", "0.0%", "absent"]
    assert seconds["20260301120119"][:4] == ["100", "10", "100", "100.0%"]
    assert seconds["20260301120120"] == ["0", "0", "100", "0.0%", "-"]
    assert found.stdout.isascii()
    assert "\x1b" not in found.stdout


def on_a_terminal(*arguments: object) -> str:
    """What the tool writes to a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, str(TOOL), *map(str, arguments)],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    ) as process:
        os.close(slave)
        text = b""
        while True:
            try:
                text += os.read(master, 65536)
            except OSError:  # the last writer has gone
                break
        os.close(master)
        assert process.wait(30) == 0
    return text.decode()


def test_on_a_terminal_it_has_colours_and_separators(data: Data) -> None:
    shown = on_a_terminal("-i", "meter-1", "-d", "20260301120107", "-c", data.configuration, "--rate", RATE)
    assert "\x1b[" in shown
    assert "6,000" in shown
    assert "not compared" in shown


def test_a_device_without_data_in_that_hour_is_exit_1(data: Data) -> None:
    found = check(data, moment="20260301130000")
    assert (found.returncode, found.stdout) == (1, "")
    assert "no data of meter-1 in the hour 2026-03-01 13:00 UTC" in found.stderr


def test_a_device_never_seen_is_exit_1_and_names_those_that_were(data: Data) -> None:
    found = call("-i", "meter-9", "-d", "20260301120000", "-c", data.configuration)
    assert found.returncode == 1
    assert "never seen, only meter-1" in found.stderr


def test_a_device_with_rows_and_not_on_record_yet_was_seen(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        store.ingest([batch(HOUR, 0, 5)])
    found = call("-i", "meter-1", "-d", "20260301130000", EC_STORAGE_PATH=tmp_path)
    assert found.returncode == 1
    assert "never seen" not in found.stderr


def test_json_without_data_is_still_an_object(data: Data) -> None:
    found = check(data, "--json", moment="20270101000000")
    assert found.returncode == 1
    assert json.loads(found.stdout)["samples"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-i", "meter-1"),
        ("-d", "20260301120000"),
        ("-i", "meter-1", "-d", "2026030112"),
        ("-i", "meter-1", "-d", "20260230120000"),
        ("-i", "meter-1", "-d", "20260301126000"),
        ("-i", "meter-1", "-d", "yesterday"),
        ("-i", "meter-1", "-d", "20260301120000", "-s", "60"),
        ("-i", "meter-1", "-d", "20260301120000", "--rate", "0"),
        ("-i", "meter-1", "-d", "20260301120000", "-c", "/nowhere.properties"),
    ],
)
def test_bad_arguments_are_exit_2_and_say_why(arguments: tuple[str, ...]) -> None:
    found = call(*arguments)
    assert (found.returncode, found.stdout) == (2, "")
    assert "test.py" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_broken_database_is_exit_2_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "ec-20260301.sqlite").write_bytes(b"no database" * 1000)
    found = call("-i", "m", "-d", "20260301120000", EC_STORAGE_PATH=str(tmp_path))
    assert found.returncode == 2
    assert "ec-20260301.sqlite" in found.stderr
    assert "Traceback" not in found.stderr


def test_it_changes_nothing_and_creates_nothing(tmp_path: Path) -> None:
    found = call("-i", "m", "-d", "20260301120000", cwd=tmp_path, EC_STORAGE_PATH=str(tmp_path / "none"))
    assert found.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_it_reads_what_a_running_server_has_just_written(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as writing:
        writing.ingest([batch(HOUR, 0, 10)])
        found = call("-i", "meter-1", "-d", "20260301120000", "--json", EC_STORAGE_PATH=str(tmp_path))
        assert json.loads(found.stdout)["samples"] == 10
        writing.ingest([batch(HOUR, 10, 10)])
        found = call("-i", "meter-1", "-d", "20260301120000", "--json", EC_STORAGE_PATH=str(tmp_path))
        assert json.loads(found.stdout)["samples"] == 20


def test_a_relative_path_is_relative_to_the_working_folder(data: Data) -> None:
    found = call("-i", "meter-1", "-d", "20260301120000", cwd=data.folder, EC_STORAGE_PATH="data")
    assert found.returncode == 0


def test_in_its_own_folder_it_finds_the_projects_data() -> None:
    """From test/, with the default configuration, ``data`` means the project's, not test/data."""
    found = call("-i", "nobody", "-d", "20260301120000", cwd=ROOT / "test", EC_STORAGE_PATH="ec_server")
    assert f"in {ROOT / 'ec_server'}" in found.stderr


def test_a_closed_pipe_is_not_an_error(data: Data) -> None:
    command = f"{sys.executable} {TOOL} -i meter-1 -d 20260301120000 -c {data.configuration} | head -1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.startswith("meter-1, 2026-03-01 12:00 to 13:00 UTC")
    assert found.stderr == ""


@pytest.mark.parametrize(("chosen", "second"), [(("-s",), "20260301120107"), (("-s", "3"), "20260301120103")])
def test_a_second_is_the_moments_own_or_the_one_asked_for(
    data: Data, chosen: tuple[str, ...], second: str
) -> None:
    document = json.loads(check(data, "--json", *chosen).stdout)
    assert document["second"] == {
        "second": second,
        "samples": RATE,
        "first_us": 0,
        "last_us": 990_000,
        "minimum": 1.5,
        "maximum": 1.5,
        "mean": 1.5,
    }


def test_the_plot_is_a_picture_of_the_hour_and_the_second(data: Data, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'matplotlib>=3.10'")
    hour, both = tmp_path / "hour.png", tmp_path / "both.png"
    assert check(data, "--plot", hour).returncode == 0
    assert check(data, "--plot", both, "-s").returncode == 0
    assert hour.read_bytes().startswith(PNG)
    assert both.read_bytes().startswith(PNG)
    assert both.stat().st_size > hour.stat().st_size


def test_a_plot_that_cannot_be_written_is_exit_2_after_the_table(data: Data) -> None:
    found = check(data, "--plot", "/nowhere/at/all.png")
    assert found.returncode == 2
    assert "cannot write /nowhere/at/all.png" in found.stderr
    assert "202603011200" in found.stdout


def test_without_matplotlib_the_plot_says_what_to_install(data: Data, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    arguments = ("-i", "meter-1", "-d", "20260301120000", "-c", data.configuration)
    found = call(*arguments, "--plot", tmp_path / "x.png", PYTHONPATH=str(tmp_path))
    assert found.returncode == 2
    assert "pip install" in found.stderr
    assert "202603011200" in found.stdout


@pytest.mark.parametrize(
    ("microseconds", "gaps"),
    [
        ((), [(0, 1_000_000)]),
        (tuple(range(0, 1_000_000, 1000)), []),
        ((*range(0, 300_000, 1000), *range(500_000, 1_000_000, 1000)), [(299_000, 500_000)]),
        (tuple(range(400_000, 1_000_000, 1000)), [(0, 400_000)]),
        (tuple(range(0, 600_000, 1000)), [(599_000, 1_000_000)]),
    ],
)
def test_gaps_are_where_samples_are_missing(
    microseconds: tuple[int, ...], gaps: list[tuple[int, int]]
) -> None:
    assert find_gaps(Waveform(HOUR, microseconds, (0.0,) * len(microseconds))) == gaps


def test_a_storage_path_that_does_not_exist_is_named_and_is_no_device_without_data(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "test" / "test.py"), "-i", "m", "-d", "20260301120000"],
        env={**os.environ, "EC_STORAGE_PATH": str(tmp_path / "elsewhere")},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"does not exist" in done.stderr
    assert b"never seen" not in done.stderr


def test_the_documents_awk_line_lists_the_minutes_that_are_not_proven() -> None:
    """As written, with whatever awk is installed: Debian's mawk knows no interval expressions."""
    document = (ROOT / "docs" / "check-tool.md").read_text("utf-8")
    (program,) = re.findall(r"\| awk '(.+?)'", document)
    (table,) = re.findall(r"(?m)^    minute  .*\n(?:    .*\n|\n)+", document)
    awk = shutil.which("mawk") or shutil.which("awk")
    assert awk
    done = subprocess.run(
        [awk, program], input=re.sub(r"(?m)^    ", "", table), capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["202603011201", "202603011202"]
