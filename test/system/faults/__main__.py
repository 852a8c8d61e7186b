"""Runs the plans of many seeds, several at once, and shrinks what fails: ``make faults SEEDS=N``."""

from __future__ import annotations

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "test")) if path not in sys.path]

from system.faults.plan import CASSANDRA, ENGINES, Plan, plan_of, simpler  # noqa: E402
from system.faults.run import Outcome, run  # noqa: E402

_FAILED = 1


def main() -> int:
    """Exit code 1 if a seed fails."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds: begin no run later")
    parser.add_argument("--jobs", type=int, default=3, help="runs at once (on Cassandra one)")
    parser.add_argument("--only", help="numbers of the plan's faults, by comma: the others are left out")
    parser.add_argument("--keep", action="store_true", help="leave the folders of runs that fail")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # meters log each connection that ends
    if given.one or given.only is not None or given.engine == CASSANDRA:
        return _here(given)
    seeds = range(given.first, given.first + given.seeds)
    begun_s = time.monotonic()

    def one(seed: int) -> int | None:
        late = time.monotonic() - begun_s > given.within
        return None if late else _in_a_process(seed, given)

    with ThreadPoolExecutor(given.jobs) as pool:
        codes = {seed: code for seed, code in zip(seeds, pool.map(one, seeds)) if code is not None}
    failed = [seed for seed, code in codes.items() if code]
    print(f"{len(codes)} seeds in {time.monotonic() - begun_s:.0f} s, {len(failed)} failed: {failed}")
    return _FAILED if failed else 0


def _in_a_process(seed: int, given: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--one", "--first", str(seed), "--seeds", "1"]
    command += ["--engine", given.engine, *(["--keep"] if given.keep else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="", flush=True)
    return done.returncode


def _here(given: argparse.Namespace) -> int:
    """In this process, one after the other."""
    numbers = [int(n) for n in given.only.split(",")] if given.only else None
    failed = 0
    with _database(given.engine) as cassandra:
        begun_s = time.monotonic()
        for seed in range(given.first, given.first + given.seeds):
            if time.monotonic() - begun_s > given.within:
                break
            plan = plan_of(seed, given.engine)
            plan = plan if numbers is None else plan.only(numbers)
            failed += not _try(plan, cassandra, numbers, keep=given.keep)
    return _FAILED if failed else 0


def _try(plan: Plan, cassandra: Any, numbers: list[int] | None, *, keep: bool) -> bool:
    """Run it; where it fails, say how to replay it and with which fewer faults it fails too."""
    folder = Path(tempfile.mkdtemp(prefix="ec-faults-"))
    outcome = run(plan, folder, cassandra)
    print(summary(outcome), flush=True)
    if outcome.violation is None:
        shutil.rmtree(folder, ignore_errors=True)
        return True
    print(f"  {plan}\n  replay: {replay(plan, numbers or range(len(plan.faults)))}")
    if keep:
        print(f"  kept: {folder}")
    if numbers is None:
        _shrink(plan, outcome, folder, cassandra)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return False


def _shrink(plan: Plan, failed: Outcome, folder: Path, cassandra: Any) -> None:
    """Leave out faults as long as the same clause is still violated."""
    assert failed.violation is not None
    numbers: Sequence[int] = range(len(plan.faults))
    smaller = True
    while smaller:
        smaller = False
        for kept in simpler(plan.only(numbers)):
            fewer = [numbers[i] for i in kept]
            outcome = run(plan.only(fewer), folder / f"shrink-{'-'.join(map(str, fewer))}", cassandra)
            if outcome.violation is not None and outcome.violation.clause == failed.violation.clause:
                numbers, smaller = fewer, True
                break
    print(f"  fails with {len(numbers)} of {len(plan.faults)} faults: {replay(plan, numbers)}")


def replay(plan: Plan, numbers: Sequence[int]) -> str:
    """The command that runs this plan again."""
    engine = f" ENGINE={plan.engine}" if plan.engine == CASSANDRA else ""
    only = "" if len(numbers) == len(plan.faults) else f" ONLY={','.join(map(str, numbers))}"
    return f"make faults SEEDS=1 FIRST={plan.seed}{engine}{only}"


def summary(outcome: Outcome) -> str:
    """One line."""
    figures: Counter[str] = outcome.figures
    kinds = ", ".join(f"{f.kind} {f.target}".strip() for f in outcome.plan.faults)
    if outcome.violation is not None:
        return f"seed {outcome.plan.seed} FAILED after {outcome.took_s:.1f} s ({kinds}): {outcome.violation}"
    left_out = f", left out for want of {', '.join(outcome.missing)}" if outcome.missing else ""
    return (
        f"seed {outcome.plan.seed} ok in {outcome.took_s:.1f} s ({kinds}): "
        f"{figures['ec_messages_received_total']} received, {figures['ec_batches_stored_total']} stored, "
        f"{figures['ec_sync_seconds_repaired_total']} seconds repaired, {outcome.proofs} proofs and "
        f"{outcome.scrapes} accounts checked, recovered in {outcome.recovery_s:.1f} s{left_out}"
    )


@contextmanager
def _database(engine: str) -> Iterator[Any]:
    if engine != CASSANDRA:
        yield None
        return
    import real_cassandra

    with tempfile.TemporaryDirectory() as folder:
        yield from real_cassandra.running(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
