"""Load from half to five times the capacity: how much is stored, and with how much memory.

How the load is offered: the generator has a core of its own, so that generating the flood does not slow down
the server. Over UDP, messages are sent at the rate independently of answers, and sent again as RFC 3261
requires; those without an answer after two seconds are given up, as a meter could not keep them. Over TCP,
senders are blocked if the server does not read: the rate is what they try, with thousands of open messages
per connection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.competitors import WARM_UP_MESSAGES, in_words, offer, refused, renewed
from benchmarks.course import Course
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.stored_rows import Sent, count_rows
from benchmarks.storing_program import StoringProgram, this_server
from reference_client.load_generator import LoadReport, run_load
from reference_client.load_plan import LoadPlan

Say = Callable[[str], None]

TIMES_CAPACITY = (0.5, 1.0, 2.0, 5.0)
_IN_EACH_ROUND = (0.5, 5.0)
_ALL_IN_ROUNDS = 2
"""The levels between are only for the overview, so the first rounds are enough for them."""
_GIVE_UP_S: Mapping[str, float] = {"tcp": 32.0, "udp": 2.0}
_OPEN_MESSAGES: Mapping[str, int] = {"tcp": 2_000, "udp": 50_000}
_INTAKE_HOLDS = 20_000
_PROBE_MS = 100.0
_PROBE_AGAIN_S = 0.05
_STILL_NOT_S = 30.0


@dataclass(frozen=True, slots=True)
class Level:
    """The result of one offered rate."""

    goodput: float
    peak_mb: float
    row: dict[str, Value]
    faults: tuple[str, ...]


def run(effort: Effort, say: Say) -> Outcome:
    """Goodput and memory at 0.5, 1, 2 and 5 times the server's capacity; time to recover."""
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    ratios: list[Ratio] = []
    middle_s = (time.monotonic() + effort.until_s) / 2
    for transport, until_s in (("tcp", middle_s), ("udp", effort.until_s)):
        rounds = []
        half = replace(effort, until_s=until_s)
        for number in half.each_round():
            chosen = TIMES_CAPACITY if number < _ALL_IN_ROUNDS else _IN_EACH_ROUND
            capacity, levels = _round(transport, chosen, effort)
            rounds.append((capacity, levels))
            rows += [level.row for level in levels.values()]
            faults += [fault for level in levels.values() for fault in level.faults]
            reached = ", ".join(f"{times:g} x: {level.goodput:,.0f}/s" for times, level in levels.items())
            say(f"round {number + 1} of {effort.rounds}: {transport}: {reached}")
        ratios += _ratios(transport, rounds)
    return Outcome(
        "Overload: text of 44 samples, 8 devices, one receiver; the generator on a core of its own",
        medians(rows, "offered"),
        ratios,
        faults,
        [
            "capacity is what eight connections get stored with a window of unanswered messages each.",
            "offered/s is what the generator brought out; over TCP no more than was taken.",
            "recovery: from the generator's end (over UDP it sends again for 2 s more) until 20 messages",
            f"are answered within {_PROBE_MS:.0f} ms each.",
        ],
        rows,
    )


def _ratios(transport: str, rounds: list[tuple[float, dict[float, Level]]]) -> list[Ratio]:
    name = transport.upper()
    return [
        Ratio(
            f"goodput at 5 times offered load / peak goodput, {name}",
            tuple(
                levels[5.0].goodput / max(capacity, *(level.goodput for level in levels.values()))
                for capacity, levels in rounds
            ),
            at_least=0.95,
        ),
        Ratio(
            f"peak memory at 5 times offered load / at half load, {name}",
            tuple(levels[5.0].peak_mb / levels[0.5].peak_mb for _, levels in rounds),
            at_most=1.3,
        ),
    ]


def _round(transport: str, chosen: Sequence[float], effort: Effort) -> tuple[float, dict[float, Level]]:
    """The capacity, measured with a closed loop, and the levels, each with its own server."""
    plan = LoadPlan(transport=transport, devices=8, connections=8)
    with effort.fresh_folder() as folder:
        program, port = this_server(folder)
        with program, apart(program):
            warm, _, _ = offer(program, renewed(plan, port=port, messages=WARM_UP_MESSAGES))
            messages = int(warm.per_second * effort.seconds)
            report, _, elapsed_s = offer(program, renewed(plan, port=port, messages=messages))
    capacity = report.answered / elapsed_s
    return capacity, {times: _level(plan, times, capacity, effort) for times in chosen}


def _level(plan: LoadPlan, times: float, capacity: float, effort: Effort) -> Level:
    """Offer ``times`` the capacity to a new server, then measure how soon it answers normally again."""
    with effort.fresh_folder() as folder:
        program, port = this_server(folder)
        with program, apart(program):
            chosen = _offered(plan, times, capacity, effort.seconds, port)
            with Course(program) as course:
                report = run_load(chosen)
            recovery_s, probes = time_to_recover(program, port)
            program.wait_until_settled(report.answered)
            peak_mb, figures = course.peak_mb(), program.figures()
        rows = count_rows(program.storage, [Sent(chosen, report.unanswered), *probes])
    lasts_s = _lasts_s(chosen, report)
    goodput = course.goodput(0.2 * lasts_s, lasts_s)
    title = f"{plan.transport.upper()} {times:g} x"
    row: dict[str, Value] = {
        "offered": title,
        "offered/s": _brought_out(chosen, report),
        "goodput/s": goodput,
        "answered": report.answered,
        "rows": rows.stored,
        "answered, not stored": rows.missing,
        "sent again": report.retransmitted,
        "most queued": course.most_queued(),
        "peak MB": peak_mb,
        "p99 ms": report.latency_ms["p99"],
        "recovery s": round(recovery_s, 3),
    }
    name = f"overload {title}"
    faults = (*in_words(name, rows.faults() + account_faults(figures)), *refused(name, report))
    return Level(goodput, peak_mb, row, faults)


def _offered(plan: LoadPlan, times: float, capacity: float, seconds: float, port: int) -> LoadPlan:
    """Over UDP, all messages due within ``seconds``; over TCP, as many as are accepted in about that time.

    At least as many as the ring holds, so that its memory is in use at each level.
    """
    taken = times if plan.transport == "udp" else min(times, 1.2)
    return replace(
        renewed(plan, port=port, messages=max(int(capacity * seconds * taken), _INTAKE_HOLDS)),
        rate=times * capacity,
        window=_OPEN_MESSAGES[plan.transport],
        give_up_s=_GIVE_UP_S[plan.transport],
    )


def _brought_out(plan: LoadPlan, report: LoadReport) -> float:
    """Messages per second that the generator really sent, each counted once."""
    if plan.transport == "tcp" or not report.lost:
        return report.messages / report.elapsed_s
    return report.messages / max(_lasts_s(plan, report), report.elapsed_s - plan.give_up_s)


def _lasts_s(plan: LoadPlan, report: LoadReport) -> float:
    """How long the load lasts: over UDP according to the rate, over TCP until all of it was accepted."""
    assert plan.rate is not None
    return plan.messages / plan.rate if plan.transport == "udp" else report.elapsed_s


def account_faults(figures: Mapping[str, int]) -> list[str]:
    """Errors in a settled account, in which everything received must be stored or duplicate."""
    settled = figures["stored"] + figures["duplicate"]
    if figures["received"] == settled:
        return []
    return [f"{figures['received']} messages were received, {settled} are stored or duplicate"]


def time_to_recover(program: StoringProgram, port: int) -> tuple[float, list[Sent]]:
    """Seconds from now until the queue is empty and a few messages are answered immediately."""
    began, probes = time.monotonic(), []
    while (waited_s := time.monotonic() - began) < _STILL_NOT_S:
        plan = LoadPlan(port=port, messages=20, devices=1, connections=1, window=1)
        report = run_load(plan)
        probes.append(Sent(plan, report.unanswered))
        if report.answered == 20 and report.latency_ms["max"] < _PROBE_MS and program.queued() < 100:
            break
        time.sleep(_PROBE_AGAIN_S)
    return waited_s, probes


@contextmanager
def apart(program: StoringProgram) -> Iterator[None]:
    """Within the context, this process, the generator, has one core, and the program all others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield
        return
    for pid in program.pids():
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores[:-1])
    os.sched_setaffinity(0, cores[-1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
