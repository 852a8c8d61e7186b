"""The cost of more devices at the same total rate, and the gain from more receivers that share the port."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.competitors import WARM_UP_MESSAGES, in_words, not_answered, offer, renewed
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.stored_rows import count_rows
from benchmarks.storing_program import this_server
from reference_client.load_plan import LoadPlan

Say = Callable[[str], None]

_DEVICES = (1, 8, 30, 200, 2_000)
_RECEIVERS = (1, 2, 3, 4)
_RATE = 4_000.0
_MOST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class _Measured:
    """One server under load: the number of devices or receivers, and the result."""

    number: int
    rate: float
    """Stored messages per second."""
    cpu_us: float
    """Processor time per message."""
    row: dict[str, Value]
    faults: tuple[str, ...]


def run_devices(effort: Effort, say: Say) -> Outcome:
    """The receiver's processor time per message and memory with 1 to 2,000 devices at 4,000 messages/s."""
    rounds = []
    for _ in effort.each_round(_MOST_ROUNDS):
        rounds.append([_with_devices(number, effort) for number in _DEVICES])
        for one in rounds[-1]:
            say(f"{one.number:,} devices: {one.cpu_us:.1f} µs of processor time per message")
    ratios = tuple(one[-1].cpu_us / one[1].cpu_us for one in rounds)
    return _outcome(
        f"Number of devices: TCP, {_RATE:,.0f} messages/s in all, one receiver",
        "devices",
        rounds,
        Ratio("processor time per message, 2,000 devices / 8 devices", ratios),
    )


def run_receivers(effort: Effort, say: Say) -> Outcome:
    """Stored batches per second with 1 to 4 receivers."""
    rounds = []
    for _ in effort.each_round(_MOST_ROUNDS):
        rounds.append([_with_receivers(number, effort) for number in _RECEIVERS])
        for one in rounds[-1]:
            say(f"{one.number} receivers: {one.rate:,.0f} messages/s")
    gains = tuple(one[1].rate / one[0].rate for one in rounds)
    return _outcome(
        "Number of receivers: the whole server, TCP, SQLite, text of 44 samples, 32 devices",
        "receivers",
        rounds,
        Ratio("stored batches/s, 2 receivers / 1", gains),
        f"{os.cpu_count() or 1} cores for receivers, load generator and everything else: more receivers than",
        "cores show what oversubscription costs, not what more cores would bring.",
    )


def _with_devices(number: int, effort: Effort) -> _Measured:
    plan = LoadPlan(devices=number, connections=min(number, 8), rate=_RATE)
    messages = int(_RATE * effort.seconds)
    return _measure("devices", number, effort, plan, WARM_UP_MESSAGES // 4, messages)


def _with_receivers(number: int, effort: Effort) -> _Measured:
    plan = LoadPlan(devices=32, connections=32, window=32)
    return _measure("receivers", number, effort, plan, WARM_UP_MESSAGES, None)


def _measure(
    what: str, number: int, effort: Effort, plan: LoadPlan, warm_up: int, messages: int | None
) -> _Measured:
    """Offer ``messages`` (None: as many as fit into the time, at the speed of the warm-up)."""
    receivers = number if what == "receivers" else 1
    with effort.fresh_folder() as folder:
        program, port = this_server(folder, receivers=receivers, whole=what == "receivers")
        with program:
            warm, warm_sent, _ = offer(program, renewed(plan, port=port, messages=warm_up))
            before = program.usage()
            messages = messages or int(warm.per_second * effort.seconds)
            report, sent, elapsed_s = offer(program, renewed(plan, port=port, messages=messages))
            used = program.usage()
            shares = [page.figures()["stored"] for page in program.pages]
        rows = count_rows(program.storage, [warm_sent, sent])
    rate = report.answered / elapsed_s
    cpu_us = 1e6 * (used.cpu_s - before.cpu_s) / report.messages
    row: dict[str, Value] = {
        what: f"{number:,}",
        "messages/s": rate,
        "CPU µs/message": cpu_us,
        "peak MB": used.peak_mb,
        "p50 ms": report.latency_ms["p50"],
        "p99 ms": report.latency_ms["p99"],
        "busiest receiver's share": max(shares) / sum(shares),
    }
    name = f"{number} {what}"
    return _Measured(number, rate, cpu_us, row, (*not_answered(name, report), *in_words(name, rows.faults())))


def _outcome(
    title: str, what: str, rounds: Sequence[Sequence[_Measured]], ratio: Ratio, *notes: str
) -> Outcome:
    measured = [one for each in rounds for one in each]
    rows = [one.row for one in measured]
    faults = [fault for one in measured for fault in one.faults]
    return Outcome(title, medians(rows, what), [ratio], faults, notes, rows)
