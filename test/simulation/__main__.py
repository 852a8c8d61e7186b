"""Run seeds: ``make simulate``; one of them again, with some of its faults: ``FIRST=17 SEEDS=1 ONLY=2,5``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

from simulation.plan import Fault, faults_of, setting_of
from simulation.recovery import run_recovery
from simulation.world import ViolationError, World
from utilities.utc import day_of


def run_seed(seed: int, only: Sequence[int] | None = None) -> World:
    """Run one seed, with these faults alone where they are given; what it found is made shorter."""
    setting = setting_of(seed)
    faults = [f for f in faults_of(setting) if only is None or f.number in only]
    world = World(setting, faults)
    try:
        world.run()
    except ViolationError as violation:
        kept = faults if only is not None else shrunk(seed, faults)
        numbers = ",".join(str(fault.number) for fault in kept) or "none"
        listed = "".join(f"\n  {fault}" for fault in kept)
        raise ViolationError(
            f"{violation}\n{setting}{listed}\n"
            f"replay with: make simulate SEEDS=1 FIRST={seed} KIND=sync ONLY={numbers}"
        ) from violation
    return world


def shrunk(seed: int, faults: Sequence[Fault]) -> list[Fault]:
    """As few of the faults as still lead to a violation."""
    kept = list(faults)
    for fault in list(faults):
        fewer = [one for one in kept if one is not fault]
        try:
            World(setting_of(seed), fewer).run()
        except ViolationError:
            kept = fewer
    return kept


def run_seeds(first: int, last: int, *, most_s: float = float("inf")) -> tuple[int, int, float]:
    """How many seeds ran, with how many meters, and how many simulated seconds; for at most ``most_s``."""
    began_s, ran, meters, simulated_s = time.monotonic(), 0, 0, 0.0
    for seed in range(first, last):
        if time.monotonic() - began_s > most_s:
            break
        world = run_seed(seed)
        ran += 1
        meters += len(world.meters)
        simulated_s += world.timeline.now_s - world.began_s
        if ran % 1000 == 0:
            print(_summary(ran, meters, simulated_s, time.monotonic() - began_s), flush=True)
    return ran, meters, simulated_s


def run_recoveries(first: int, last: int) -> int:
    """How many seeds of recovery.py ran."""
    today_s = day_of(int(time.time()))
    for seed in range(first, last):
        run_recovery(seed, today_s)
        if seed % 10_000 == 9_999:
            print(f"seed {seed}", flush=True)
    return last - first


def _summary(ran: int, meters: int, simulated_s: float, took_s: float) -> str:
    years = simulated_s / (365.25 * 86_400)
    return f"{ran} seeds, {meters} meters, {years:.2f} simulated years, in {took_s:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--kind", choices=["sync", "recovery"], help="(default: both)")
    parser.add_argument("--only", help="numbers of the faults to keep, by comma; none: no fault")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    first, last = chosen.first, chosen.first + chosen.seeds
    try:
        if chosen.only is not None:
            run_seed(first, [] if chosen.only == "none" else [int(n) for n in chosen.only.split(",")])
            return
        if chosen.kind != "recovery":
            began_s = time.monotonic()
            print(_summary(*run_seeds(first, last), time.monotonic() - began_s))
        if chosen.kind != "sync":
            print(f"{run_recoveries(first, last)} seeds of recovery")
    except ViolationError as violation:
        sys.exit(str(violation))


if __name__ == "__main__":
    main()
