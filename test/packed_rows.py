"""Rows of one second as meters, odd devices and other programs leave them, for tests of packing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from ec_server.packing.block import Row
from ec_server.storage.merge import batch_of

DEVICE, SECOND = "meter-0", 1_772_366_400
INSERTED_US = SECOND * 1_000_000 + 1_500

Printer = Callable[[float], str]

FORMS: dict[str, Printer] = {
    "three decimals": lambda value: f"{value:.3f}",
    "one decimal, zeros kept": lambda value: f"{value:.1f}0",
    "whole": lambda value: f"{value:.0f}",
    "float32": lambda value: f"{float(np.float32(value)):.9g}",
    "sixteenths": lambda value: f"{round(value * 16) / 16:.9g}",
    "shortest": lambda value: repr(round(value, 2)),
    "double": lambda value: repr(float(value)),
    "exponent": lambda value: f"{value:.4e}",
    "signed": lambda value: f"{value:+.2f}",
    "tiny": lambda value: f"{float(np.float32(value * 1e-7)):.9g}",
    "huge": lambda value: f"{float(np.float32(value * 1e9)):.9g}",
    "long": lambda value: f"{value:.30f}",
}
ODD = ("-0.0", "-0", "231.50", "1e3", "+5", ".5", "5.", "00.5", "0", "0.0", "-1E-7", "1" * 200, "12345678901")


def signal(count: int, seed: int) -> list[float]:
    """So many values that swing and flicker as power does."""
    noise = np.random.default_rng(seed)
    swing = 700 * np.sin(np.arange(count) / 70) + noise.normal(0, 3, count)
    return np.round(swing, 5).tolist()


def regular_clock(count: int) -> list[int]:
    return [i * 1_000_000 // count for i in range(count)]


def jittered_clock(count: int, seed: int) -> list[int]:
    choose = random.Random(seed)
    return sorted({min(999_999, max(0, us + choose.randint(-1, 1))) for us in regular_clock(count)})


def rows_of(
    us: Sequence[int], values: Sequence[str], cuts: Sequence[int], inserted_us: int = INSERTED_US
) -> list[Row]:
    """The samples as rows, cut before each index of ``cuts``, inserted one after the other."""
    edges = sorted({0, len(us), *(cut for cut in cuts if 0 < cut < len(us))})
    texts = [f"{one:06d},{value}" for one, value in zip(us, values)]
    return [
        Row(batch_of(DEVICE, SECOND, ";".join(texts[a:b])), inserted_us + i // 20, inserted_us + i)
        for i, (a, b) in enumerate(zip(edges, edges[1:]))
    ]


def every(step: int, count: int) -> range:
    return range(step, count, step)
