"""``python -m benchmarks [NAME ...]``: measure, print tables, write JSON; 1 where a batch was lost.

Everything runs on this machine over loopback, the load generator with it. Figures are for comparing with
each other within one run; ratios are the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    device_counts,
    digests,
    fairness,
    file_growth,
    formats,
    idle,
    overload,
    peers,
    receiver_counts,
    sync_cost,
)
from benchmarks.effort import Effort
from benchmarks.measured_program import ROOT, BenchmarkError
from benchmarks.outcome import Outcome, show, show_ratios

_RESULTS = ROOT / "benchmarks" / "results"

Benchmark = Callable[[Effort, Callable[[str], None]], Outcome]

BENCHMARKS: dict[str, Benchmark] = {
    "peers": peers.run,
    "formats": formats.run,
    "overload": overload.run,
    "fairness": fairness.run,
    "devices": device_counts.run,
    "receivers": receiver_counts.run,
    "growth": file_growth.run,
    "digests": digests.run,
    "idle": idle.run,
    "sync-clean": sync_cost.clean,
    "sync-outage": sync_cost.catch_up,
    "sync-meters": sync_cost.swarm,
}
"""Name on the command line: what it runs. The first line of each function says what it measures."""


def main(arguments: Sequence[str]) -> int:
    """The command; 0, or 1 where a batch was lost or a benchmark could not be made."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    began = time.monotonic()
    outcomes, failed = {}, []
    for name in options.name or BENCHMARKS:
        try:
            outcomes[name] = BENCHMARKS[name](_effort(options), _progress(name))
        except BenchmarkError as error:
            failed.append(f"{name}: {error}")
            console.print(f"{name} could not be measured: {error}", style="bold red", highlight=False)
            continue
        show(outcomes[name], console)
    ratios = [ratio for outcome in outcomes.values() for ratio in outcome.ratios]
    if ratios:
        show_ratios(ratios, console)
    faults = [fault for outcome in outcomes.values() for fault in outcome.faults] + failed
    took_s = time.monotonic() - began
    path = _write(options, outcomes, faults, took_s)
    console.print(f"{took_s:.0f} s; everything measured is in {path}", highlight=False)
    console.print("FAILED, see above" if faults else "no batch lost", style="bold red" if faults else "green")
    return 1 if faults else 0


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
    add = parser.add_argument
    add("name", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help="see below")
    add("--rounds", type=int, metavar="N", help="times everything is measured; default 5, quick 2")
    add("--seconds", type=float, metavar="S", help="about how long one measurement lasts; default 3, quick 1")
    add("--quick", action="store_true", help="a look in under three minutes")
    add("--cassandra", action="store_true", help="compare with Cassandra too (starts a node: 2 GB of memory)")
    add("--gigabytes", type=float, metavar="G", help="size to grow a day's file to; default 1, quick 0.1")
    add(
        "--folder",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="on a real disk; default %(default)s",
    )
    add("--json", type=Path, metavar="FILE", help="default FOLDER/latest.json")
    return parser


def _effort(options: argparse.Namespace) -> Effort:
    quick = options.quick
    return Effort(
        options.rounds or (2 if quick else 5),
        options.seconds or (1.0 if quick else 3.0),
        options.folder,
        options.gigabytes or (0.1 if quick else 1.0),
        options.cassandra,
    )


def _progress(name: str) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr, flush=True)

    return say


def _write(
    options: argparse.Namespace, outcomes: dict[str, Outcome], faults: list[str], took_s: float
) -> Path:
    path: Path = options.json or options.folder / "latest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "command": sys.argv[1:],
        "took_s": round(took_s, 1),
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
