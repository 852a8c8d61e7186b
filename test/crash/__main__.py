"""Crash replay by hand: ``PYTHONPATH=test:. python -m crash --seeds 10 --synchronous normal``."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from crash.known import ViolationError
from crash.recorded_disk import recorded
from crash.replay import Replay, Tried
from crash.workload import Workload
from ec_server.storage import sqlite_connection

_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def replay_seed(
    seed: int,
    synchronous: str,
    *,
    steps: int | Sequence[str],
    share: float,
    ways: int,
    promised: str | None = None,
) -> Tried:
    """Record work, of so many steps or of these, then try failures at a share of its operations.

    ``promised``: hold it against the promises of another setting of ``synchronous``.
    """
    scratch = Path(tempfile.mkdtemp(prefix="crash-", dir=_IN_MEMORY))
    try:
        folder = scratch / "recorded"
        folder.mkdir()
        # Logs are written back after a few pages already, so that recordings hold many checkpoints.
        with patch.object(sqlite_connection, "_WAL_PAGES", 60), recorded(folder) as recording:
            work = Workload(folder, recording, synchronous, seed)
            work.run_any(steps) if isinstance(steps, int) else work.run(steps)
        return Replay(recording.operations, promised or synchronous, scratch).run(
            random.Random(seed), share, ways
        )
    except ViolationError as violation:
        again = f"SEEDS=1 FIRST={seed} SYNCHRONOUS={synchronous}"
        again += f" CRASH_ARGS='--steps {steps} --share {share} --ways {ways}'"
        raise ViolationError(f"{violation}\nreplay with: make crash {again}") from violation
    finally:
        shutil.rmtree(scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--synchronous", choices=["normal", "full"], default="normal")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the operations at which failures are tried"
    )
    parser.add_argument("--ways", type=int, default=3, help="power failures tried at each of them")
    chosen = parser.parse_args()
    total, began_s = Tried(), time.monotonic()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        total += replay_seed(
            seed, chosen.synchronous, steps=chosen.steps, share=chosen.share, ways=chosen.ways
        )
        took_s = time.monotonic() - began_s
        print(f"seed {seed}: {total} in {took_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
