"""Runs a Supervisor over workers that are described as JSON on the command line.

``{"folder": FOLDER, "limits": {...}, "workers": {NAME: {"behaviour": ..., "receives": true}}}``,
optionally with ``"program"`` in the place of the interpreter.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ec_server.account.figures import RECEIVER_FIGURES
from ec_server.supervision.plan import ChildPlan, child_environment
from ec_server.supervision.restart_policy import Limits
from ec_server.supervision.run_lock import RunLock
from ec_server.supervision.stop_signals import StopSignals
from ec_server.supervision.supervisor import Supervisor
from utilities import log

HERE = Path(__file__).resolve().parent


def main() -> int:
    wanted = json.loads(sys.argv[1])
    folder = Path(wanted["folder"])
    log.set_up("launcher")
    plans = [
        ChildPlan(
            name,
            (
                worker.get("program", sys.executable),
                str(HERE / "bad_worker.py"),
                str(folder / f"{name}.page"),
                str(folder / f"{name}.events"),
                worker["behaviour"],
            ),
            folder / f"{name}.page",
            RECEIVER_FIGURES,
            worker.get("receives", False),
        )
        for name, worker in wanted["workers"].items()
    ]
    with StopSignals() as signals:
        lock = RunLock.acquire(folder / "lock", signals.pause, wanted.get("orphans_end_s", 5.0))
        return Supervisor(
            plans,
            child_environment(os.environ, HERE.parent.parent),
            signals,
            up_line="up: all of them",
            keep_open=(lock.descriptor,),
            limits=Limits(**wanted.get("limits", {})),
        ).run()


if __name__ == "__main__":
    sys.exit(main())
