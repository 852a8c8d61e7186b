"""What the number of devices costs, at the same total rate."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.competitors import WARM_UP_MESSAGES, in_words, not_answered, offer, renewed
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.stored_rows import count_rows
from benchmarks.storing_program import this_server
from reference_client.load_plan import LoadPlan

Say = Callable[[str], None]

DEVICES = (1, 8, 30, 200, 2_000)
_RATE = 4_000.0
_MOST_ROUNDS = 3


def run(effort: Effort, say: Say) -> Outcome:
    """The receiver's processor time a message and memory with 1 to 2,000 devices at 4,000 messages/s."""
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    rounds: list[float] = []
    for _ in effort.each_round(_MOST_ROUNDS):
        costs = []
        for devices in DEVICES:
            cost_us, row, faults_here = _measure(devices, effort)
            costs.append(cost_us)
            rows.append(row)
            faults += faults_here
            say(f"{devices:,} devices: {cost_us:.1f} µs of processor time a message")
        rounds.append(costs[-1] / costs[1])
    return Outcome(
        f"Number of devices: TCP, {_RATE:,.0f} messages/s in all, one receiver",
        medians(rows, "devices"),
        [Ratio("processor time a message, 2,000 devices / 8 devices", tuple(rounds))],
        faults,
        (),
        rows,
    )


def _measure(devices: int, effort: Effort) -> tuple[float, dict[str, Value], tuple[str, ...]]:
    plan = LoadPlan(devices=devices, connections=min(devices, 8), rate=_RATE)
    with effort.fresh_folder() as folder:
        program, port = this_server(folder)
        with program:
            _, warm_sent, _ = offer(program, renewed(plan, port=port, messages=WARM_UP_MESSAGES // 4))
            before = program.usage()
            report, sent, _ = offer(program, renewed(plan, port=port, messages=int(_RATE * effort.seconds)))
            used = program.usage()
        rows = count_rows(program.storage, [warm_sent, sent])
    cost_us = 1e6 * (used.cpu_s - before.cpu_s) / report.messages
    row: dict[str, Value] = {
        "devices": devices,
        "messages/s": report.per_second,
        "CPU µs/message": cost_us,
        "peak MB": used.peak_mb,
        "p50 ms": report.latency_ms["p50"],
        "p99 ms": report.latency_ms["p99"],
    }
    name = f"{devices} devices"
    return cost_us, _labelled(row), (*not_answered(name, report), *in_words(name, rows.faults()))


def _labelled(row: dict[str, Value]) -> dict[str, Value]:
    return {**row, "devices": f"{row['devices']:,}"}
