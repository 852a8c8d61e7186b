"""Recordings of other programs through the reference meter's eyes: formats, rates, scale."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from reference_client.command_line import plans_of
from reference_client.message import SAMPLES_PER_SECOND
from reference_client.recording import Recording

NOON = 1_772_366_400
RAMP = np.linspace(-0.5, 0.5, 2 * SAMPLES_PER_SECOND, dtype=np.float32)


def written(folder: Path, kind: str, values: np.ndarray, rate: int = SAMPLES_PER_SECOND) -> Path:
    path = folder / f"recording.{kind}"
    if kind == "npy":
        np.save(path, values)
    elif kind == "csv":
        path.write_text("watts\n" + "\n".join(map(repr, values.tolist())) + "\n")
    else:
        soundfile = pytest.importorskip("soundfile")
        soundfile.write(path, values, rate, subtype="FLOAT" if kind == "wav" else "PCM_24")
    return path


@pytest.mark.parametrize("kind", ["npy", "csv", "wav", "flac"])
def test_every_format_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    recording = Recording(written(tmp_path, kind, RAMP), NOON)
    assert recording.seconds == 2
    for number in (0, 1):
        expected = RAMP[number * SAMPLES_PER_SECOND : (number + 1) * SAMPLES_PER_SECOND]
        assert np.allclose(recording.second(NOON + number), expected, atol=2**-23)
    assert len(recording.second(NOON + 2)) == len(recording.second(NOON - 1)) == 0


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("rate", [8_000, 22_000, 48_000])
def test_a_sound_files_own_rate_is_interpolated(tmp_path: Path, kind: str, rate: int) -> None:
    moments = np.arange(rate) / rate
    values = (0.5 * np.sin(2 * np.pi * 50 * moments)).astype(np.float32)
    found = Recording(written(tmp_path, kind, values, rate), NOON).second(NOON)
    wanted = 0.5 * np.sin(2 * np.pi * 50 * np.arange(len(found)) / SAMPLES_PER_SECOND)
    assert len(found) > SAMPLES_PER_SECOND - 10
    assert np.allclose(found, wanted, atol=1e-3)


def test_the_rate_can_be_given_for_files_that_do_not_contain_it(tmp_path: Path) -> None:
    path = written(tmp_path, "npy", np.array([0, 2, 4], np.float64))
    found = Recording(path, NOON, rate=2).second(NOON)
    assert found[:2].tolist() == [0.0, np.float32(4 / SAMPLES_PER_SECOND)]
    assert found[SAMPLES_PER_SECOND // 2] == 2.0


def test_a_loop_goes_on_without_a_gap_at_any_rate(tmp_path: Path) -> None:
    path = written(tmp_path, "npy", np.array([0, 10], np.float32))
    recording = Recording(path, NOON, rate=2, loop=True)
    for second in (NOON, NOON + 1, NOON + 1000):
        values = recording.second(second)
        assert len(values) == SAMPLES_PER_SECOND
        assert values[[0, 11_000, 22_000, 33_000]].tolist() == [0, 5, 10, 5]


def test_a_scale_converts_to_watts(tmp_path: Path) -> None:
    path = written(tmp_path, "npy", np.full(10, 0.5, np.float32))
    assert Recording(path, NOON, scale=3680).second(NOON).tolist() == [1840.0] * 10


def test_an_export_can_be_replayed(tmp_path: Path) -> None:
    table = tmp_path / "export.csv"
    table.write_text(
        "time,value\n" + "".join(f"2026-03-01T12:00:00.{i * 50_000:06d}Z,{i}\n" for i in range(20))
    )
    recording = Recording(table, NOON)
    assert recording.seconds == 1
    assert recording.second(NOON)[:: SAMPLES_PER_SECOND // 20][:20].tolist() == list(range(20))
    array = tmp_path / "export.npy"
    np.save(array, np.array([(0, 1.5), (23, 2.5)], [("time", "<i8"), ("value", "<f8")]))
    assert Recording(array, NOON).second(NOON).tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", b"1\n2\n", "is not a .npy, .wav, .flac, .csv file"),
        ("x.csv", b"1\ntwo\n", "not every value in the last column"),
        ("x.csv", b"time,value\n", "holds no samples"),
        ("x.csv", b"2026-03-01T12:00:00Z,1\n2026-03-01T12:00:01Z,2\n2026-03-01T12:00:09Z,3\n", "have gaps"),
        ("x.wav", b"no sound", "is not a sound file"),
        ("x.npy", b"no array", "x.npy"),
    ],
)
def test_a_file_that_is_not_a_recording_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, said: str
) -> None:
    if name.endswith("wav"):
        pytest.importorskip("soundfile")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit):
        plans_of(["--recording", str(tmp_path / name)])
    assert said in capsys.readouterr().err


def test_sound_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "x.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="pip install 'soundfile"):
        Recording(tmp_path / "x.wav", NOON)
