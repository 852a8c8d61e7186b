"""Figures of a second's waveform: extremes, mean, RMS, and harmonics of the mains; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ec_server.export.stored_seconds import Microseconds, Values

MAINS_HZ = 50
HARMONICS = 20


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
