"""``/api/devices/ID/...`` and ``status.token`` as a program sees them: the real process, real HTTP."""

from __future__ import annotations

import csv
import io
import os
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import ROOT, free_ports, wait_for
from stored_data import MINUTE, store_second, stored_folder

from ec_server.storage.sqlite_store import SqliteStore
from reference_client.message import text_batches
from reference_client.waveform import Waveform
from utilities.model import MinuteState, Verdict

DEVICE = "meter-1"
TOKEN = "correct horse/battery+staple"
M, US = MINUTE, 1_000_000
WAVE = Waveform(3)
SECONDS = {
    M: ["000000,1;250000,2;500000,-3.5;750000,+4"],
    M + 61: ["000000,10;500000,20"],
    M + 120: text_batches(WAVE.second(M + 120)),
    M + 121: text_batches(WAVE.second(M + 121))[:900],
}
RANGE = "from=202603011200&to=202603011204"


@contextmanager
def status_server(folder: Path, **environ: str) -> Iterator[httpx.Client]:
    """The status process alone, over a data folder; a client of it."""
    (port,) = free_ports(1)
    own = {"EC_STORAGE_PATH": str(folder), "EC_STATUS_PORT": str(port), "EC_STORAGE_MIN_FREE_MB": "1"}
    with (folder.parent / "status.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ec_server.status"],
            cwd=folder.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), **own, **environ},
            stdin=subprocess.PIPE,
            stderr=log,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_for(answers, "the status port")
            yield client
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = stored_folder(tmp_path_factory.mktemp("data") / "data", DEVICE, SECONDS)
    with SqliteStore(folder) as store:
        digests = dict(store.minute_digests(DEVICE, M, M + 240))
        verdicts = [
            Verdict(M, MinuteState.PROVEN, digests[M], extra=3, conflicts=2),
            Verdict(M + 60, MinuteState.UNRESOLVED, digests[M + 60]),
            Verdict(M + 180, MinuteState.EMPTY, None),
        ]
        store.record_verdicts(DEVICE, verdicts, (M + 300) * US)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with status_server(folder) as client:
        yield client


def get(client: httpx.Client, name: str, query: str = RANGE) -> Any:
    answer = client.get(f"/api/devices/{DEVICE}/{name}?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_minutes_says_what_is_known_of_each_minute_of_the_range(client: httpx.Client) -> None:
    found = get(client, "minutes")
    assert [line["minute"] for line in found] == [f"20260301120{i}" for i in range(4)]
    assert [line["state"] for line in found] == ["proven", "unresolved", "unproven", "empty"]
    assert [line["samples"] for line in found] == [4, 2, 44_000 + 39_600, 0]
    assert [line["rows"] for line in found] == [1, 1, 1900, 0]
    assert found[0] == {
        "minute": "202603011200",
        "state": "proven",
        "samples": 4,
        "rows": 1,
        "conflicts": 2,
        "extra": 3,
        "packed": False,
        "checked": "2026-03-01T12:05:00.000000+00:00",
    }
    assert found[2]["checked"] is None


def test_minutes_of_many_days_are_one_valid_array(client: httpx.Client) -> None:
    found = get(client, "minutes", "from=202602281200&to=202603021200")
    assert len(found) == 2 * 1440
    assert [line["minute"] for line in found] == sorted({line["minute"] for line in found})


def test_availability_divides_the_range_into_stored_and_gaps(client: httpx.Client) -> None:
    found = get(client, "availability")
    assert found["stored"] == [
        [M * US, (M + 1) * US],
        [(M + 61) * US, (M + 62) * US],
        [(M + 120) * US, (M + 121) * US + 900_000],
    ]
    assert found["gaps"] == [
        [(M + 1) * US, (M + 61) * US],
        [(M + 62) * US, (M + 120) * US],
        [(M + 121) * US + 900_000, (M + 240) * US],
    ]
    assert found["proven"] == [[M * US, (M + 1) * US]]
    assert found["exact"] is True


def test_samples_are_what_export_gives(client: httpx.Client) -> None:
    answer = client.get(f"/api/devices/{DEVICE}/samples?{RANGE}")
    rows = list(csv.reader(io.StringIO(answer.text)))
    assert answer.headers["content-type"].startswith("text/csv")
    assert rows[0] == ["time", "value"]
    assert rows[4] == ["2026-03-01T12:00:00.750000Z", "+4"]
    assert len(rows) == 1 + 4 + 2 + 44_000 + 39_600


def test_pandas_reads_parquet_from_the_url(client: httpx.Client) -> None:
    pandas = pytest.importorskip("pandas")
    url = f"{client.base_url}/api/devices/{DEVICE}/samples?{RANGE}&format=parquet"
    frame = pandas.read_parquet(url)
    assert frame["value"].iloc[:6].tolist() == [1, 2, -3.5, 4, 10, 20]
    assert frame["value"].iloc[6:44_006].tolist() == WAVE.second(M + 120).tolist()


def test_power_is_lowest_mean_and_highest_of_each_step(client: httpx.Client) -> None:
    assert get(client, "power", "from=202603011200&to=202603011202&points=2") == [
        [M * US, -3.5, 0.875, 4.0],
        [(M + 60) * US, 10.0, 15.0, 20.0],
    ]


def test_power_of_a_second_comes_down_to_the_samples(client: httpx.Client) -> None:
    found = get(client, "power", "from=20260301120000&to=20260301120001&points=10000")
    assert found == [
        [M * US + us, value, value, value]
        for us, value in ((0, 1.0), (250_000, 2.0), (500_000, -3.5), (750_000, 4.0))
    ]
    steps = get(client, "power", "from=20260301120200&to=20260301120201&points=10000")
    values = WAVE.second(M + 120)
    assert len(steps) == 10_000
    assert min(step[1] for step in steps) == values.min()
    assert max(step[3] for step in steps) == values.max()


def test_power_of_few_seconds_of_a_span_reads_no_more(client: httpx.Client) -> None:
    found = get(client, "power", "from=202603011200&to=202603011204&points=4&seconds=3")
    assert [step[0] for step in found] == [M * US, (M + 60) * US, (M + 120) * US]
    assert found[2][1:] == get(client, "power", "from=20260301120200&to=20260301120201&points=1")[0][1:]


def test_a_range_without_data_is_an_empty_answer(client: httpx.Client) -> None:
    day = "from=202601010000&to=202601010100"
    assert get(client, "power", day) == []
    assert client.get(f"/api/devices/{DEVICE}/samples?{day}").text == "time,value\n"
    assert get(client, "availability", day)["stored"] == []


def test_availability_and_power_take_ranges_of_any_length(client: httpx.Client) -> None:
    ever = "from=000101010000&to=99991231235959"
    found = get(client, "availability", ever)
    assert found["stored"] == get(client, "availability")["stored"]
    assert found["gaps"][0] == [-62_135_596_800 * US, M * US]
    assert found["gaps"][-1][1] == 253_402_300_799 * US
    (step,), (same,) = (get(client, "power", f"{span}&points=1") for span in (ever, RANGE))
    assert step == [-62_135_596_800 * US, *same[1:]]


@pytest.mark.parametrize("name", ["minutes", "availability", "samples", "power"])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("to=202603011200", "'from' is missing"),
        ("from=202603011200", "'to' is missing"),
        ("from=yesterday&to=202603011200", "'yesterday' is not a UTC moment"),
        ("from=202603011200&to=202603011200", "from must be earlier than to"),
        ("from=202603011300&to=202603011200", "from must be earlier than to"),
        ("from=202603011200&to=202603011201&until=1", "'until' is not a parameter here"),
        ("from=202603011200&from=202603011200&to=202603011201", "given twice"),
    ],
)
def test_a_wrong_range_is_400_and_says_what_is_wrong(
    client: httpx.Client, name: str, query: str, said: str
) -> None:
    answer = client.get(f"/api/devices/{DEVICE}/{name}?{query}")
    assert answer.status_code == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("samples?from=202603011200&to=20260301130001", "at most 1 hour"),
        ("minutes?from=202603011200&to=203703011200", "at most 3,660 days"),
        ("samples?from=202603011200&to=202603011201&format=npy", "csv, parquet"),
        ("power?from=202603011200&to=202603011201&points=10001", "from 1 to 10,000"),
        ("power?from=202603011200&to=202603011201&points=0", "from 1 to 10,000"),
        ("power?from=202603011200&to=202603011201&points=many", "from 1 to 10,000"),
    ],
)
def test_a_limit_is_400_and_says_which(client: httpx.Client, path: str, said: str) -> None:
    answer = client.get(f"/api/devices/{DEVICE}/{path}")
    assert answer.status_code == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize("name", ["minutes", "availability", "samples", "power"])
def test_an_unknown_device_is_404(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/api/devices/meter-9/{name}?{RANGE}")
    assert answer.status_code == 404
    assert "meter-9" in answer.json()["error"]
    assert client.head(f"/api/devices/{DEVICE}/{name}?{RANGE}").status_code == 200


def test_what_is_stored_is_served_before_its_device_is_on_record(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "data") as store:
        store_second(store, "meter-new", M, ["000000,1"])
    with status_server(tmp_path / "data") as client:
        assert client.get(f"/api/devices/meter-new/power?{RANGE}").json() == [[M * US, 1.0, 1.0, 1.0]]
        assert client.get(f"/api/devices/meter-other/power?{RANGE}").status_code == 404


def test_clients_that_go_away_leave_room_for_others(client: httpx.Client) -> None:
    port = client.base_url.port
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(f"GET /api/devices/{DEVICE}/samples?{RANGE} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            gone.recv(100)
    wait_for(
        lambda: client.get(f"/api/devices/{DEVICE}/power?{RANGE}").status_code == 200, "room for an answer"
    )


def test_names_of_the_devices_file_are_shown(folder: Path, tmp_path: Path) -> None:
    devices = tmp_path / "devices.ini"
    devices.write_text(f"[{DEVICE}]\nname = Cellar, main feed\n")
    with status_server(folder, EC_DEVICES_FILE=str(devices)) as client:
        (device,) = client.get("/api/devices").json()
    assert device["name"] == "Cellar, main feed"


# --- the token --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[httpx.Client]:
    with status_server(folder, EC_STATUS_TOKEN=TOKEN) as client:
        yield client


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": f"Basic {b64encode(f'{name}:{password}'.encode()).decode()}"}


EVERYTHING = (
    "/",
    "/metrics",
    "/api/devices",
    "/api/overview",
    "/page.css",
    "/overview.js",
    "/device.js",
    "/plotly.js",
    "/api/page",
    "/nowhere",
    f"/api/devices/{DEVICE}/minutes?{RANGE}",
    f"/api/devices/{DEVICE}/samples?{RANGE}",
)


@pytest.mark.parametrize("path", EVERYTHING)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": TOKEN},
        {"authorization": "Bearer"},
        {"authorization": "Basic !!!"},
        basic(TOKEN, ""),
        basic("operator", "wrong"),
    ],
)
def test_without_the_token_nothing_is_shown(
    guarded: httpx.Client, path: str, headers: dict[str, str]
) -> None:
    answer = guarded.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert DEVICE not in answer.text


@pytest.mark.parametrize("path", [path for path in EVERYTHING if path != "/nowhere"])
@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {TOKEN}"}, {"authorization": f"bearer {TOKEN}"}, basic("any", TOKEN)],
)
def test_with_the_token_everything_is(guarded: httpx.Client, path: str, headers: dict[str, str]) -> None:
    assert guarded.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(guarded: httpx.Client, path: str) -> None:
    assert guarded.get(path).status_code in (200, 503)
    assert "reasons" in guarded.get(path).json()


def test_the_token_is_never_logged(folder: Path, guarded: httpx.Client) -> None:
    guarded.get("/", headers={"authorization": f"Bearer {TOKEN}"})
    guarded.get("/", headers=basic("x", TOKEN + "y"))
    assert TOKEN not in (folder.parent / "status.log").read_text()


def test_beyond_loopback_without_a_token_samples_and_power_are_refused(folder: Path) -> None:
    with status_server(folder, EC_STATUS_IP="0.0.0.0") as client:
        for name in ("samples", "power"):
            answer = client.get(f"/api/devices/{DEVICE}/{name}?{RANGE}")
            assert answer.status_code == 403
            assert "status.token" in answer.json()["error"]
        assert client.get(f"/api/devices/{DEVICE}/minutes?{RANGE}").status_code == 200
    with status_server(folder, EC_STATUS_IP="0.0.0.0", EC_STATUS_TOKEN=TOKEN) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        assert client.get(f"/api/devices/{DEVICE}/power?{RANGE}").status_code == 200


def test_what_is_stored_later_is_in_the_next_answer(tmp_path: Path) -> None:
    folder = stored_folder(tmp_path / "data", DEVICE, {M: ["000000,1"]})
    with status_server(folder) as client:
        assert len(get(client, "power")) == 1
        with SqliteStore(folder) as store:
            store_second(store, DEVICE, M + 70, ["000000,2"])
            store_second(store, DEVICE, M + 86_400, ["000000,3"])
        assert [step[2] for step in get(client, "power")] == [1.0, 2.0]
        assert [step[2] for step in get(client, "power", "from=202603021200&to=202603021201")] == [3.0]
