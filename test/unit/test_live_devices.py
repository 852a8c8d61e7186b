"""What the receivers say of their devices now, joined with the database's records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ec_server.status.live_devices import join, read_live
from utilities.model import DeviceRecord

NOW = 1_000_000.0


def write(folder: Path, worker: str, written: float, **devices: tuple[float, float]) -> None:
    entries = {
        name: {"last_seen": seen, "samples_per_second": rate} for name, (seen, rate) in devices.items()
    }
    (folder / f"{worker}.devices.json").write_text(json.dumps({"written": written, "devices": entries}))


def test_a_device_heard_by_two_receivers_has_the_sum_of_their_rates(tmp_path: Path) -> None:
    write(tmp_path, "receiver-0", NOW, a=(NOW - 3, 20_000.0))
    write(tmp_path, "receiver-1", NOW, a=(NOW - 1, 24_000.0), b=(NOW, 44_000.0))
    live = read_live(tmp_path, NOW)
    assert (live["a"].last_seen, live["a"].samples_per_second) == (NOW - 1, 44_000.0)
    assert live["b"].samples_per_second == 44_000.0


def test_an_old_file_is_a_dead_receivers_and_its_rates_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, "receiver-0", NOW - 60, a=(NOW - 60, 44_000.0))
    live = read_live(tmp_path, NOW)
    assert (live["a"].last_seen, live["a"].samples_per_second) == (NOW - 60, 0.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"written": 1}',
        '{"written": "x", "devices": {}}',
        '{"written": 1000000, "devices": {"a": {}}}',
        '{"written": 1000000, "devices": 3}',
        "\x00",
    ],
)
def test_a_file_that_does_not_parse_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "receiver-0.devices.json").write_text(content)
    write(tmp_path, "receiver-1", NOW, b=(NOW, 1.0))
    assert set(read_live(tmp_path, NOW)) == {"b"}


def test_a_missing_folder_has_no_devices(tmp_path: Path) -> None:
    assert read_live(tmp_path / "nowhere", NOW) == {}


def test_last_seen_is_the_later_of_record_and_receiver(tmp_path: Path) -> None:
    write(tmp_path, "receiver-0", NOW, a=(NOW, 5.0), b=(NOW - 9, 5.0))
    records = [
        DeviceRecord("a", 1, int((NOW - 4) * 1e6), verified_through=60, unresolved_minutes=2),
        DeviceRecord("b", 1, int((NOW - 4) * 1e6)),
    ]
    a, b = join(records, read_live(tmp_path, NOW))
    assert (a.last_seen_s, a.record.verified_through, a.record.unresolved_minutes) == (NOW, 60, 2)
    assert b.last_seen_s == NOW - 4


def test_devices_of_both_sides_are_listed_by_name(tmp_path: Path) -> None:
    write(tmp_path, "receiver-0", NOW, new=(NOW, 5.0))
    statuses = join([DeviceRecord("old", 1, 2), DeviceRecord("a", 1, 2)], read_live(tmp_path, NOW))
    assert [status.record.device_id for status in statuses] == ["a", "new", "old"]
    assert statuses[1].record.first_seen_us == int(NOW * 1e6)
    assert statuses[2].samples_per_second == 0.0
