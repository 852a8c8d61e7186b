"""Realistic instantaneous power of household appliances, computed second by second.

Power is voltage times current, so with 50 Hz mains it oscillates at 100 Hz. A heater draws
``P (1 - cos 2wt)``. A motor also feeds energy back (``- Q sin 2wt``), so that its power is negative at times.
The rectifier of a power supply draws short pulses at the peaks of the voltage.

Each second depends only on the seed and its own number, so it is the same in every process and any order.
Values are multiples of a sixteenth of a watt, as from a 20-bit converter, which keeps the text short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from reference_client.message import SAMPLES_PER_SECOND, Values

_RESOLUTION_W = 1 / 16
_NOISE_W = 0.35
_TIME_S = np.arange(SAMPLES_PER_SECOND) / SAMPLES_PER_SECOND
_PHASE = 2 * np.pi * 100 * _TIME_S
_ACTIVE = (1 - np.cos(_PHASE)).astype(np.float32)
_REACTIVE = np.sin(_PHASE).astype(np.float32)
_PULSE = np.clip(_ACTIVE - 1.6, 0, None) ** 2
_PULSE /= _PULSE.mean()

Floats = npt.NDArray[np.float32]


class SampleSource(Protocol):
    """Where a meter's samples come from: the waveform below, or a recording."""

    def second(self, second: int) -> Values:
        """The power of a UTC second; fewer values, or none, at the end of the source."""
        ...


@dataclass(frozen=True, slots=True)
class Appliance:
    """An appliance that switches on and off in a fixed cycle."""

    name: str
    watts: float
    shape: Floats
    """One second of power at 1 W mean."""
    cycle_s: float
    on_s: float
    offset_s: float
    """Position in the cycle at epoch second 0, in seconds."""
    inrush: float = 1.0
    """Factor of its power at switch-on, which decays within ``inrush_s``."""
    inrush_s: float = 0.1
    wobble: float = 0.0
    """Relative amplitude by which its power varies over some seconds."""

    def add_to(self, power: Floats, second: int) -> None:
        """Add this appliance's second to ``power``, in place."""
        into_cycle_s = (second + self.offset_s) % self.cycle_s
        watts = self.watts * (1 + self.wobble * np.sin(second * 0.7) * np.cos(second * 0.13))
        until_on_s = self.cycle_s - into_cycle_s
        if into_cycle_s >= self.on_s and until_on_s >= 1:
            return
        if self._is_steady(into_cycle_s):
            power += np.float32(watts) * self.shape
            return
        since_on_s = (into_cycle_s + _TIME_S) % self.cycle_s
        envelope = 1 + (self.inrush - 1) * np.exp(-since_on_s / self.inrush_s)
        power += (watts * envelope * (since_on_s < self.on_s)).astype(np.float32) * self.shape

    def _is_steady(self, into_cycle_s: float) -> bool:
        return 10 * self.inrush_s < into_cycle_s and into_cycle_s + 1 <= self.on_s


class Waveform:
    """The power of one household, determined by its seed. Immutable, so thread-safe."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.appliances = _household(np.random.default_rng(seed))

    def second(self, second: int) -> Values:
        """44,000 values of watts, float32, for one UTC second."""
        noise = np.random.default_rng((self._seed, second))
        power: Floats = noise.standard_normal(SAMPLES_PER_SECOND, dtype=np.float32)
        power *= np.float32(_NOISE_W)
        for appliance in self.appliances:
            appliance.add_to(power, second)
        power /= np.float32(_RESOLUTION_W)
        np.rint(power, out=power)
        power *= np.float32(_RESOLUTION_W)
        power += np.float32(0)  # no negative zero: its text would be "-0"
        return power


def _motor(power_factor: float) -> Floats:
    """The power, at 1 W mean, of a load whose current lags with ``power_factor``."""
    tangent = np.sqrt(1 / power_factor**2 - 1)
    return (_ACTIVE - np.float32(tangent) * _REACTIVE).astype(np.float32)


def _household(choose: np.random.Generator) -> tuple[Appliance, ...]:
    def about(value: float) -> float:
        return float(value * choose.uniform(0.85, 1.15))

    def appliance(
        name: str, watts: float, shape: Floats, cycle_s: float, on_s: float, **more: float
    ) -> Appliance:
        offset_s = float(choose.uniform(0, cycle_s))
        return Appliance(name, about(watts), shape, about(cycle_s), about(on_s), offset_s, **more)

    return (
        appliance("standby", 12, _PULSE, 86_400, 86_400 * 2),
        appliance("refrigerator", 95, _motor(0.65), 2_700, 1_200, inrush=7, inrush_s=0.12),
        appliance("laptop", 48, _PULSE, 5_400, 4_000, inrush=4, inrush_s=0.03, wobble=0.3),
        appliance("kettle", 2_000, _ACTIVE, 7_200, 170),
        appliance("washing machine drum", 180, _motor(0.8), 15, 9, inrush=3, inrush_s=0.2, wobble=0.2),
        appliance("washing machine heater", 1_900, _ACTIVE, 5_400, 700),
    )
