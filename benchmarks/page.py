"""What viewers of the status page cost the server: browsers on its first page while three meters send."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.effort import Effort
from benchmarks.headless_chromium import headless_chromium
from benchmarks.measured_program import PYTHON, BenchmarkError, MeasuredProgram, free_port, script_of
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.storing_program import this_server
from ec_server.status.process_usage import read_usage

Say = Callable[[str], None]

_BROWSERS = 3
_METERS, _RATE = 3, 300
_SETTLE_S = 5.0
_FIRST_PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def run(effort: Effort, say: Say) -> Outcome:
    """Share of a core that three open browsers cost the status process, and time to first paint."""
    rows: list[dict[str, Value]] = []
    seconds = max(10.0, 10 * effort.seconds)
    status_port = free_port()
    with effort.fresh_folder() as folder, ExitStack() as stack:
        program, port = this_server(folder, whole=True, options={"status.port": str(status_port)})
        stack.enter_context(program)
        load = [PYTHON, "-m", "reference_client.load_generator", "--server", f"127.0.0.1:{port}"]
        load += ["--devices", str(_METERS), "--messages", str(10**9), "--rate", str(_RATE)]
        load += ["--start", str(int(time.time()))]
        stack.enter_context(MeasuredProgram("the load", load, folder / "load.log"))
        time.sleep(_SETTLE_S)
        for number in effort.each_round():
            say(f"round {number + 1} of {effort.rounds}: nobody looks")
            rows.append({"browsers": "none", "status CPU %": _cpu(program, seconds), "first paint ms": None})
            say(f"round {number + 1} of {effort.rounds}: {_BROWSERS} browsers")
            with ExitStack() as browsers:
                opened = [browsers.enter_context(headless_chromium()) for _ in range(_BROWSERS)]
                for browser in opened:
                    browser.get(f"http://127.0.0.1:{status_port}/")
                paint_ms = max(browser.execute_script(_FIRST_PAINT) or 0.0 for browser in opened)
                time.sleep(_SETTLE_S)
                cpu = _cpu(program, seconds)
            rows.append({"browsers": str(_BROWSERS), "status CPU %": cpu, "first paint ms": paint_ms})
    shares = tuple(float(row["status CPU %"] or 0) for row in rows if row["browsers"] != "none")
    return Outcome(
        f"The page: processor time of the status process, in % of a core, {_METERS} meters sending",
        medians(rows, "browsers"),
        [Ratio(f"{_BROWSERS} browsers, % of a core", shares, at_most=5.0)],
        (),
        ["the browsers run on the same machine: the first paint is theirs as much as the server's"],
        rows,
    )


def _cpu(program: MeasuredProgram, seconds: float) -> float:
    """Processor time of the status process, in percent of a core."""
    before, began_s = _used_s(program), time.monotonic()
    time.sleep(seconds)
    return 100 * (_used_s(program) - before) / (time.monotonic() - began_s)


def _used_s(program: MeasuredProgram) -> float:
    for pid in program.pids():
        usage = read_usage(pid)
        if usage and script_of(pid) == "ec_server.status":
            return usage.cpu_s
    raise BenchmarkError("the server has no status process")
