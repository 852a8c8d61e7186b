"""Live figures: rates over the last intervals, and a bound that invented devices cannot break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contract.store_suite import NOON, run_of

from ec_server.ingest.live_figures import LiveFigures


def written(path: Path) -> dict[str, float]:
    devices = json.loads(path.read_text())["devices"]
    return {device_id: entry["samples_per_second"] for device_id, entry in devices.items()}


def test_a_rate_is_that_of_the_last_five_intervals(tmp_path: Path) -> None:
    live = LiveFigures(tmp_path / "live", 0.0, interval_s=2.0)
    expected = [4.0, 2.0, 4 / 3, 1.0, 0.8, 0.0]
    live.count([run_of("m", NOON, 0, 8)])
    for number, rate in enumerate(expected, 1):
        live.write_when_due(2.0 * number)
        assert written(tmp_path / "live")["m"] == pytest.approx(rate, abs=0.06)


def test_the_file_is_written_once_an_interval_and_names_who_was_seen_in_it(tmp_path: Path) -> None:
    live = LiveFigures(tmp_path / "live", 0.0, interval_s=2.0)
    live.count([run_of("m", NOON, 0)])
    assert live.write_when_due(1.9) is None
    assert set(live.write_when_due(2.0) or {}) == {"m"}
    live.count([run_of("n", NOON, 0)])
    assert set(live.write_when_due(4.0) or {}) == {"n"}
    assert set(written(tmp_path / "live")) == {"m", "n"}


def test_invented_devices_are_bounded_and_push_no_sending_meter_out(tmp_path: Path) -> None:
    live = LiveFigures(tmp_path / "live", 0.0, interval_s=2.0, most=10)
    for number in range(1, 8):
        live.count([run_of(f"invented-{number}-{n}", NOON, 0, 1) for n in range(200)])
        live.count([run_of("meter", NOON, 0, 44)] * (number > 1))
        if number == 1:
            live._samples["meter"] = 44  # it was there before the flood
        seen = live.write_when_due(2.0 * number)
        assert "meter" in (seen or {})
        assert len(seen or {}) <= 10
        assert len(written(tmp_path / "live")) <= 10
        assert len(live._totals) <= 5 * 21
    assert written(tmp_path / "live")["meter"] == 22.0


def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    live = LiveFigures(tmp_path / "gone" / "live", 0.0)
    live.count([run_of("m", NOON, 0)])
    assert live.write_when_due(3.0)
