"""The cost of the whole server without load."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.effort import Effort
from benchmarks.measured_program import MeasuredProgram, free_port, peak_mb, script_of
from benchmarks.outcome import Outcome, Value
from benchmarks.storing_program import this_server
from ec_server.status.process_usage import read_usage

Say = Callable[[str], None]

_SETTLE_S = 3.0


def run(effort: Effort, say: Say) -> Outcome:
    """Processor time and memory of each process of an idle server."""
    seconds = 4 * effort.seconds
    with effort.fresh_folder() as folder:
        program, _ = this_server(folder, whole=True, options={"status.port": str(free_port())})
        with program:
            time.sleep(_SETTLE_S)
            before = _cpu_s(program)
            say(f"watching for {seconds:.0f} s")
            time.sleep(seconds)
            after = _cpu_s(program)
            rows: list[dict[str, Value]] = [
                {
                    "process": script_of(pid),
                    "CPU %": 100 * (after[pid] - before.get(pid, 0.0)) / seconds,
                    "peak MB": peak_mb(pid),
                }
                for pid in after
            ]
    total: dict[str, Value] = {"process": "all"}
    for column in ("CPU %", "peak MB"):
        total[column] = sum(value for row in rows if isinstance(value := row[column], float))
    return Outcome("Idle: the whole server, one receiver", [*rows, total], rounds=rows)


def _cpu_s(program: MeasuredProgram) -> dict[int, float]:
    return {pid: usage.cpu_s for pid in program.pids() if (usage := read_usage(pid))}
