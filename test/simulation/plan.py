"""What a seed chooses: how the world is, and which faults come when; pure.

Faults are a list, so that a failing one can be made shorter: the world and each fault are chosen apart, and
what is left out changes nothing of the rest.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

START_S = 1_772_366_400  # 2026-03-01T12:00:00Z

CLOCK_STEPS_S = (-4000, -600, -90, -61, -30, -1, 1, 30, 61, 90, 600, 4000)

KINDS: dict[str, float] = {
    "cut": 6,
    "half-open cut": 2,
    "stall": 2,
    "messages lost": 4,
    "messages late": 2,
    "meter's clock": 3,
    "server's clock": 2,
    "meter's store away": 2,
    "meter loses samples": 2,
    "meter changes samples": 2,
    "meter lies": 3,
    "server restarts": 4,
    "database away": 2,
    "day goes back": 1.5,
    "rows deleted": 1.5,
    "silence": 1,
}
"""Each kind of fault, and how often it is chosen."""

TAKES_TIME = frozenset(
    {
        "stall",
        "messages lost",
        "messages late",
        "meter's clock",
        "server's clock",
        "meter's store away",
        "meter lies",
        "database away",
        "silence",
    }
)
"""They begin at ``at_s`` and end after ``for_s``; the others happen once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; ``number`` is its place in the whole list and the seed of its own choices."""

    number: int
    at_s: float
    kind: str
    meter: int
    for_s: float
    amount: int


@dataclass(frozen=True, slots=True)
class Setting:
    """How the world is."""

    seed: int
    meters: int
    lasts_s: float
    """Until then faults come; afterwards all is well."""
    interval_s: float
    """From one round to the next."""
    rhythm_s: float
    """A meter records one second every so often."""
    says_through: tuple[bool, ...]
    has_key: tuple[bool, ...]
    engine: str


def setting_of(seed: int) -> Setting:
    chance = random.Random(f"setting {seed}")
    meters = chance.choice([1, 1, 1, 2, 3])
    scale = chance.choice([900, 1800, 3600])
    if seed % 500 == 499:  # days, so that rounds reach over midnight and far back
        scale = 2 * 86_400
    return Setting(
        seed,
        meters,
        scale,
        interval_s=scale / chance.choice([3, 5, 8]),
        rhythm_s=scale / chance.choice([6, 10, 15]),
        says_through=tuple(chance.random() < 0.8 for _ in range(meters)),
        has_key=tuple(chance.random() < 0.5 for _ in range(meters)),
        engine="sqlite" if seed % 100 == 7 else "memory",
    )


def faults_of(setting: Setting) -> list[Fault]:
    chance = random.Random(f"faults {setting.seed}")
    kinds, weights = list(KINDS), list(KINDS.values())
    faults = [
        Fault(
            number,
            chance.uniform(0, setting.lasts_s),
            chance.choices(kinds, weights)[0],
            chance.randrange(setting.meters),
            setting.lasts_s * chance.choice([0.02, 0.1, 0.3]),
            chance.choice(CLOCK_STEPS_S),
        )
        for number in range(chance.randint(0, 9))
    ]
    return sorted(faults, key=lambda fault: fault.at_s)
