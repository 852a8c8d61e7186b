"""What more receivers bring: the whole server with 1 to 4 of them sharing the port."""

from __future__ import annotations

import os
from collections.abc import Callable

from benchmarks.competitors import WARM_UP_MESSAGES, in_words, not_answered, offer, renewed
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.stored_rows import count_rows
from benchmarks.storing_program import this_server
from reference_client.load_plan import LoadPlan

Say = Callable[[str], None]

RECEIVERS = (1, 2, 3, 4)
_MOST_ROUNDS = 3


def run(effort: Effort, say: Say) -> Outcome:
    """Stored batches a second with 1 to 4 receivers."""
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    gains: list[float] = []
    for _ in effort.each_round(_MOST_ROUNDS):
        rates = []
        for receivers in RECEIVERS:
            rate, row, faults_here = _measure(receivers, effort)
            rates.append(rate)
            rows.append(row)
            faults += faults_here
            say(f"{receivers} receivers: {rate:,.0f} messages/s")
        gains.append(rates[1] / rates[0])
    cores = os.cpu_count() or 1
    return Outcome(
        "Number of receivers: the whole server, TCP, SQLite, text of 44 samples, 32 devices",
        medians(rows, "receivers"),
        [Ratio("stored batches/s, 2 receivers / 1", tuple(gains))],
        faults,
        [f"{cores} cores for receivers, load generator and everything else: more receivers than cores",
         "show what oversubscription costs, not what more cores would bring."],
        rows,
    )  # fmt: skip


def _measure(receivers: int, effort: Effort) -> tuple[float, dict[str, Value], tuple[str, ...]]:
    plan = LoadPlan(devices=32, connections=32, window=32)
    with effort.fresh_folder() as folder:
        program, port = this_server(folder, receivers=receivers, whole=True)
        with program:
            warm, warm_sent, _ = offer(program, renewed(plan, port=port, messages=WARM_UP_MESSAGES))
            before = program.usage()
            messages = int(warm.per_second * effort.seconds)
            report, sent, elapsed_s = offer(program, renewed(plan, port=port, messages=messages))
            used = program.usage()
            shares = [page.figures()["stored"] for page in program.pages]
        rows = count_rows(program.storage, [warm_sent, sent])
    rate = report.answered / elapsed_s
    row: dict[str, Value] = {
        "receivers": str(receivers),
        "messages/s": rate,
        "CPU µs/message": 1e6 * (used.cpu_s - before.cpu_s) / report.messages,
        "peak MB": used.peak_mb,
        "busiest receiver's share": max(shares) / sum(shares),
    }
    name = f"{receivers} receivers"
    return rate, row, (*not_answered(name, report), *in_words(name, rows.faults()))
