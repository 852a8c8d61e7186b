"""``python -m benchmarks [NAME ...]``: measures, prints tables, writes JSON; exit code 1 if a batch is lost.

Everything runs on this machine over loopback, including the load generator. Figures can only be compared
within one run; the result is their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import (
    digests,
    export,
    fairness,
    file_growth,
    formats,
    idle,
    instructions,
    locks,
    overload,
    pace,
    page,
    peers,
    scale,
    storage,
    sync_cost,
    worst_messages,
)
from benchmarks.effort import Effort, Recorded
from benchmarks.machine import OtherPrograms
from benchmarks.measured_program import ROOT, BenchmarkError
from benchmarks.outcome import Outcome, show, show_ratios

_RESULTS = ROOT / "benchmarks" / "results"

Benchmark = Callable[[Effort, Callable[[str], None]], Outcome]

BENCHMARKS: dict[str, Benchmark] = {
    "peers": peers.run,
    "formats": formats.run,
    "overload": overload.run,
    "fairness": fairness.run,
    "devices": scale.run_devices,
    "receivers": scale.run_receivers,
    "growth": file_growth.run,
    "storage": storage.run,
    "pace": pace.run,
    "export": export.run,
    "digests": digests.run,
    "locks": locks.run,
    "idle": idle.run,
    "page": page.run,
    "worst-messages": worst_messages.run,
    "instructions": instructions.run,
    "sync-clean": sync_cost.clean,
    "sync-outage": sync_cost.catch_up,
    "sync-meters": sync_cost.swarm,
}
"""Name on the command line to function. The first line of its docstring says what it measures."""

_WEIGHTS = {"overload": 9, "peers": 4, "formats": 3, "fairness": 3, "sync-meters": 4, "sync-outage": 2}
"""Relative shares of the time; 1 for all others. Time that one does not use goes to those after it."""

_QUIET = 0.1
"""Share of the machine that other programs may use before the figures are reported as disturbed."""


@dataclass(frozen=True, slots=True)
class _Granted:
    """The defaults of the command line."""

    rounds: int
    seconds: float
    minutes: int
    gigabytes: float


_FULL = _Granted(5, 2.0, 14, 1.0)
_QUICK = _Granted(2, 0.7, 3, 0.1)


def main(arguments: Sequence[str]) -> int:
    """The command; returns 0, or 1 if a batch was lost or a benchmark could not be run."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    began_s, others = time.monotonic(), OtherPrograms()
    outcomes, faults = _measure(options, console)
    ratios = [ratio for outcome in outcomes.values() for ratio in outcome.ratios]
    if ratios:
        show_ratios(ratios, console)
    took_s, share = time.monotonic() - began_s, others.share()
    path = _write(options, outcomes, faults, took_s, share)
    console.print(f"{took_s:.0f} s; everything measured is in {path}", highlight=False)
    if share > _QUIET:
        console.print(
            f"Other programs used {100 * share:.0f} % of this machine's processor time meanwhile: "
            "measure again when it is quiet.",
            style="yellow",
            highlight=False,
        )
    console.print("FAILED, see above" if faults else "no batch lost", style="bold red" if faults else "green")
    return 1 if faults else 0


def _measure(options: argparse.Namespace, console: Console) -> tuple[dict[str, Outcome], list[str]]:
    """Run every requested benchmark with its share of the remaining time; returns outcomes and faults."""
    names = list(dict.fromkeys(options.name or BENCHMARKS))
    end_s = time.monotonic() + 60 * (options.minutes or (_QUICK if options.quick else _FULL).minutes)
    outcomes: dict[str, Outcome] = {}
    faults: list[str] = []
    for i, name in enumerate(names):
        share = _WEIGHTS.get(name, 1) / sum(_WEIGHTS.get(one, 1) for one in names[i:])
        now_s = time.monotonic()
        if now_s >= end_s:
            console.print(f"{name}: skipped, the time is over", style="yellow", highlight=False)
            continue
        try:
            outcome = BENCHMARKS[name](_effort(options, now_s + share * (end_s - now_s)), _progress(name))
        except BenchmarkError as error:
            faults.append(f"{name}: {error}")
            console.print(f"{name} could not be measured: {error}", style="bold red", highlight=False)
            continue
        outcomes[name] = outcome
        faults += outcome.faults
        show(outcome, console)
    return outcomes, faults


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(
        f"  {name:12} {(run.__doc__ or '').splitlines()[0]}" for name, run in BENCHMARKS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"benchmarks, all of them if none is named:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    full, quick, add = _FULL, _QUICK, parser.add_argument
    add("name", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help="see below")
    add("--quick", action="store_true", help=f"a quick run, in under {quick.minutes} minutes")
    add(
        "--rounds",
        type=int,
        metavar="N",
        help=f"number of rounds; default {full.rounds}, quick {quick.rounds}",
    )
    add(
        "--seconds",
        type=float,
        metavar="S",
        help=f"approximate length of one measurement; default {full.seconds:g}, quick {quick.seconds:g}",
    )
    add(
        "--minutes",
        type=float,
        metavar="M",
        help=f"time limit for beginning rounds; default {full.minutes}, quick {quick.minutes}",
    )
    add(
        "--gigabytes",
        type=float,
        metavar="G",
        help=f"size to which a day file is grown; default {full.gigabytes:g}, quick {quick.gigabytes:g}",
    )
    add("--cassandra", action="store_true", help="compare with Cassandra too (starts a node: 2 GB of memory)")
    add("--questdb", action="store_true", help="compare with QuestDB too (fetches a jar of 29 MB)")
    add(
        "--recording",
        action="append",
        type=_recording,
        default=[],
        metavar="FILE.npy:RATE",
        help="float32 values and samples per second, for `storage`; may be repeated",
    )
    add("--folder", type=Path, default=_RESULTS, help="folder for data, on a real disk; default %(default)s")
    add("--json", type=Path, metavar="FILE", help="default FOLDER/latest.json")
    return parser  # fmt: skip


def _recording(text: str) -> Recorded:
    name, _, rate = text.rpartition(":")
    try:
        return Path(name).stem, int(rate), np.load(name).astype(np.float32)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} is not of the form FILE.npy:RATE: {error}") from error


def _effort(options: argparse.Namespace, until_s: float) -> Effort:
    granted = _QUICK if options.quick else _FULL
    return Effort(
        options.rounds or granted.rounds,
        options.seconds or granted.seconds,
        options.folder,
        options.gigabytes or granted.gigabytes,
        options.cassandra,
        options.questdb,
        options.recording,
        until_s,
    )


def _progress(name: str) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr, flush=True)

    return say


def _write(
    options: argparse.Namespace, outcomes: dict[str, Outcome], faults: list[str], took_s: float, others: float
) -> Path:
    path: Path = options.json or options.folder / "latest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "command": sys.argv[1:],
        "took_s": round(took_s, 1),
        "others_share": round(others, 3),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "faults": faults,
        "benchmarks": {name: outcome.as_dict() for name, outcome in outcomes.items()},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
