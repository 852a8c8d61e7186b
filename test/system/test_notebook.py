"""The notebook of docs/ as a reader runs it: every cell, over a recording whose spectrum is known."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from running_server import ROOT
from stored_data import MINUTE, stored_folder

from reference_client.message import SAMPLES_PER_SECOND, text_batches


def test_every_cell_runs_and_the_harmonics_are_those_of_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    moments = np.arange(SAMPLES_PER_SECOND) / SAMPLES_PER_SECOND
    wave = 300 + 200 * np.cos(2 * np.pi * 100 * moments) + 25 * np.cos(2 * np.pi * 250 * moments)
    texts = text_batches(wave.astype(np.float32))
    folder = stored_folder(tmp_path / "data", "meter-1", {MINUTE + i: texts for i in range(3)})
    monkeypatch.setenv("EC_STORAGE_PATH", str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(ROOT / "docs" / "recording.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = "\n".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    rms = np.sqrt(300**2 + 200**2 / 2 + 25**2 / 2)
    assert f"44000 samples, mean 300.00 W, RMS {rms:.2f} W" in said
    amplitudes = {
        int(hertz): float(watts) for hertz, watts in re.findall(r"(?m)^\d+ +(\d+) +([\d.e+-]+)$", said)
    }
    assert abs(amplitudes[100] - 200) < 0.01
    assert abs(amplitudes[250] - 25) < 0.01
    assert amplitudes[50] < 0.01
    assert "202603011200 unproven" in re.sub(r" +", " ", said)
