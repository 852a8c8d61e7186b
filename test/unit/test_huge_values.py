"""Values near the largest that a double holds: figures made of them stay finite."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from stored_data import MINUTE, store_second

from ec_server.check.hour_report import read_hour
from ec_server.check.report_text import as_json
from ec_server.export.power import MOST_SECONDS, power_steps
from ec_server.export.spectrum import waveform_of
from ec_server.export.stored_seconds import Span
from ec_server.storage.memory_store import MemoryStore

LARGEST = sys.float_info.max


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store_second(store, "m", MINUTE, [f"000000,{LARGEST!r};000001,1.5e308;000002,-1e308"])
    store_second(store, "m", MINUTE + 1, [";".join(f"{us:06d},{LARGEST!r}" for us in range(3))])
    return store


def test_the_mean_of_a_step_of_a_chart_is_finite(store: MemoryStore) -> None:
    span = Span("m", MINUTE, MINUTE + 2)
    steps = [step for step in power_steps(store, span, 2, MOST_SECONDS) if step is not None]
    assert [(step.lowest, step.highest) for step in steps] == [(-1e308, LARGEST), (LARGEST, LARGEST)]
    assert steps[0].mean == pytest.approx(LARGEST / 3 + 0.5e308 / 3)
    assert steps[1].mean == LARGEST
    json.dumps(steps, allow_nan=False)


def test_the_mean_of_usual_values_is_exactly_theirs() -> None:
    store = MemoryStore()
    store_second(store, "m", MINUTE, ["000000,1;000001,2;000002,-3.5;000003,4"])
    span = Span("m", MINUTE, MINUTE + 1)
    (step,) = [one for one in power_steps(store, span, 1, 1) if one]
    assert step.mean == 0.875


def test_the_mean_of_the_check_tools_second_is_finite(store: MemoryStore) -> None:
    report = read_hour(store, "m", MINUTE, 3, MINUTE + 1)
    second = json.loads(as_json(report, "memory"))["second"]
    assert (second["minimum"], second["mean"], second["maximum"]) == (LARGEST, LARGEST, LARGEST)


def test_the_figures_of_a_waveform_are_finite() -> None:
    moments_us = np.arange(0, 1_000_000, 2000)
    wave = waveform_of(moments_us, 1e308 * np.sin(moments_us / 1e6 * 50 * 2 * math.pi))
    assert wave is not None
    assert wave.rms == pytest.approx(1e308 / math.sqrt(2))
    assert wave.harmonics[0] == (1, 50, pytest.approx(1e308))
    assert all(map(math.isfinite, (wave.lowest, wave.mean, wave.highest)))
