"""Figures of a second's waveform: extremes, mean, RMS, and harmonics of the mains; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ec_server.export.stored_seconds import Microseconds, Values

MAINS_HZ = 50
HARMONICS = 20
_SQUARE_IS_FINITE = 1e150


@dataclass(frozen=True, slots=True)
class Waveform:
    """One second's figures; ``harmonics`` are ``(order, hertz, amplitude)`` of ``MAINS_HZ``."""

    samples: int
    lowest: float
    mean: float
    highest: float
    rms: float
    harmonics: tuple[tuple[int, int, float], ...]


def waveform_of(microseconds: Microseconds, values: Values) -> Waveform | None:
    """The figures of a second's samples; None if there are none.

    The amplitude at a frequency is that of the Fourier sum over the actual times of the samples, so uneven
    sampling does not shift it; gaps reduce it. Frequencies above the Nyquist limit are left out.
    """
    if not len(values):
        return None
    peak = float(np.abs(values).max())
    if peak > _SQUARE_IS_FINITE:
        scaled = waveform_of(microseconds, values / peak)
        return scaled and _times(scaled, peak)
    moments_s = microseconds / 1e6
    swing = values - values.mean()
    highest_order = min(HARMONICS, (len(values) - 1) // 2 // MAINS_HZ)
    harmonics = []
    for order in range(1, highest_order + 1):
        hertz = order * MAINS_HZ
        total = np.exp(-2j * np.pi * hertz * moments_s) @ swing
        harmonics.append((order, hertz, float(2 * abs(total) / len(values))))
    return Waveform(
        len(values),
        float(values.min()),
        float(values.mean()),
        float(values.max()),
        float(np.sqrt(np.mean(np.square(values)))),
        tuple(harmonics),
    )


def _times(wave: Waveform, factor: float) -> Waveform:
    """The figures of values that are ``factor`` times as large."""
    return Waveform(
        wave.samples,
        wave.lowest * factor,
        wave.mean * factor,
        wave.highest * factor,
        wave.rms * factor,
        tuple((order, hertz, amplitude * factor) for order, hertz, amplitude in wave.harmonics),
    )
