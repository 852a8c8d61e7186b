"""The generated power is what a meter would measure, and the same whenever it is asked for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from reference_client.message import SAMPLES_PER_SECOND
from reference_client.recording import Recording
from reference_client.waveform import Appliance, Waveform, _motor

NOON = 1_772_366_400


def first_second_on(appliance: Appliance) -> int:
    """The second in which the appliance switches on, after noon."""
    for second in range(NOON, NOON + 100_000):
        into = (second + appliance.offset_s) % appliance.cycle_s
        if appliance.cycle_s - into <= 1:
            return second
    raise AssertionError(f"{appliance.name} never switches on")


def alone(appliance: Appliance, second: int) -> np.ndarray:
    power = np.zeros(SAMPLES_PER_SECOND, np.float32)
    appliance.add_to(power, second)
    return power


def test_a_second_is_the_same_whenever_and_wherever_it_is_computed():
    later, earlier = Waveform(7).second(NOON + 1), Waveform(7).second(NOON)
    again = Waveform(7)
    assert np.array_equal(again.second(NOON), earlier)
    assert np.array_equal(again.second(NOON + 1), later)
    assert not np.array_equal(earlier, later)
    assert not np.array_equal(Waveform(8).second(NOON), earlier)


def test_power_swings_at_twice_the_mains_frequency():
    spectrum = np.abs(np.fft.rfft(Waveform(3).second(NOON).astype(float)))
    assert np.argmax(spectrum[1:]) + 1 == 100


def test_values_are_finite_float32_in_sixteenths_of_a_watt_without_a_negative_zero():
    for seed in range(5):
        power = Waveform(seed).second(NOON + seed)
        assert power.dtype == np.float32
        assert power.shape == (SAMPLES_PER_SECOND,)
        assert np.isfinite(power).all()
        assert np.array_equal(power * 16, np.rint(power * 16))
        assert not np.signbit(power[power == 0]).any()


def test_a_motor_draws_an_inrush_and_pushes_energy_back():
    refrigerator = next(a for a in Waveform(1).appliances if a.name == "refrigerator")
    switching = first_second_on(refrigerator)
    starting = np.concatenate([alone(refrigerator, switching), alone(refrigerator, switching + 1)])
    steady = alone(refrigerator, switching + 60)
    assert starting.max() > 3 * steady.max()
    assert steady.min() < 0
    assert steady.mean() == pytest.approx(refrigerator.watts, rel=0.01)
    assert not alone(refrigerator, switching + int(refrigerator.on_s) + 2).any()


def test_an_appliance_that_is_steady_draws_what_the_full_formula_says():
    appliance = Appliance("x", 100, _motor(0.8), 100, 50, 0, inrush=5, inrush_s=0.1)
    long_inrush = Appliance("x", 100, _motor(0.8), 100, 50, 0, inrush=5, inrush_s=0.1000001)
    object.__setattr__(long_inrush, "on_s", 31.5)
    assert np.allclose(alone(appliance, 30), alone(long_inrush, 30), atol=1e-3)
    assert not alone(long_inrush, 31)[SAMPLES_PER_SECOND // 2 :].any()
    assert alone(long_inrush, 31)[: SAMPLES_PER_SECOND // 2].any()


def test_one_second_costs_a_few_milliseconds():
    waveform = Waveform(1)
    took = []
    for second in range(NOON, NOON + 20):
        before = time.thread_time()
        waveform.second(second)
        took.append(time.thread_time() - before)
    assert min(took) < 0.01


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.npy"
    np.save(path, np.arange(2.5 * SAMPLES_PER_SECOND, dtype=np.float32))
    return path


def test_a_recording_is_replayed_from_its_start_second_and_ends(recording: Path):
    replay = Recording(recording, NOON)
    assert replay.seconds == 3
    assert len(replay.second(NOON - 1)) == 0
    assert replay.second(NOON + 1).tolist() == list(range(44_000, 88_000))
    assert replay.second(NOON + 2).tolist() == list(range(88_000, 110_000))
    assert len(replay.second(NOON + 3)) == 0


def test_a_looped_recording_goes_on_without_a_gap(recording: Path):
    replay = Recording(recording, NOON, loop=True)
    third = replay.second(NOON + 2)
    assert third.tolist() == [*range(88_000, 110_000), *range(22_000)]
    assert replay.second(NOON + 3)[0] == 22_000


def test_a_file_that_is_not_a_recording_is_refused_with_its_path(tmp_path: Path):
    path = tmp_path / "wrong.npy"
    np.save(path, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"wrong\.npy"):
        Recording(path, NOON)
    np.save(path, np.array(["a", "b"]))
    with pytest.raises(ValueError, match="of numbers"):
        Recording(path, NOON)
    np.save(path, np.array([1, np.nan], np.float32))
    with pytest.raises(ValueError, match="not finite"):
        Recording(path, NOON).second(NOON)
