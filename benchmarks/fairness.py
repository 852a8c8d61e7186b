"""A normal device beside one that floods: the share of its 44,000 samples per second that arrives in time."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from benchmarks.competitors import in_words, offer, refused, renewed
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.stored_rows import Sent, count_rows
from benchmarks.storing_program import this_server
from reference_client.load_generator import LoadReport, run_load
from reference_client.load_plan import LoadPlan

Say = Callable[[str], None]

_RATE = 1_000.0
"""Messages of 44 samples per second: one meter in real time."""
_LEAST_S = 4.0
"""If it were shorter, the wait for the last answer would distort the share."""
_FLOOD_CONNECTIONS = 8
_FLOOD_LASTS = 1.5
"""Factor by which the flood lasts longer, so that the normal device never sends alone."""


def run(effort: Effort, say: Say) -> Outcome:
    """Share of its offered load that a 44 kHz device keeps beside one that floods, TCP and UDP."""
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    shares: dict[str, list[float]] = {"tcp": [], "udp": []}
    for number in effort.each_round():
        for transport, found in shares.items():
            row, faults_here = _measure(transport, effort)
            share = row["share kept"]
            assert isinstance(share, float)
            found.append(share)
            rows.append(row)
            faults += faults_here
            say(f"round {number + 1} of {effort.rounds}: {transport}: {share:.3f}")
    return Outcome(
        "Fair share: one device with 1,000 messages/s beside one that floods over 8 connections",
        medians(rows, "transport"),
        [
            Ratio(f"share of its load that a 44 kHz device keeps beside a flooding one, {name.upper()}",
                  tuple(found), at_least=0.95)
            for name, found in shares.items()
        ],
        faults,
        ["share kept: messages answered a second / 1,000, until the last answer came."],
        rows,
    )  # fmt: skip


def _measure(transport: str, effort: Effort) -> tuple[dict[str, Value], tuple[str, ...]]:
    plan = LoadPlan(transport=transport, devices=1, connections=1)
    seconds = max(effort.seconds, _LEAST_S)
    context = multiprocessing.get_context("spawn")
    with effort.fresh_folder() as folder, ProcessPoolExecutor(1, mp_context=context) as other:
        program, port = this_server(folder)
        with program:
            wide = replace(plan, connections=_FLOOD_CONNECTIONS, spread=True)
            warm, warm_sent, _ = offer(program, renewed(wide, port=port, messages=4_000))
            other.submit(run_load, replace(plan, port=port, messages=0)).result()  # so that it is running
            flood = renewed(wide, port=port, messages=int(warm.per_second * _FLOOD_LASTS * seconds))
            light = replace(renewed(plan, port=port, messages=int(_RATE * seconds)), rate=_RATE, window=2_000)
            beside, of_flood = _together(other, light, flood)
            program.wait_until_settled(warm.answered + beside.answered + of_flood.answered)
        sent = [warm_sent, Sent(light, beside.unanswered), Sent(flood, of_flood.unanswered)]
        rows = count_rows(program.storage, sent)
    row: dict[str, Value] = {
        "transport": transport.upper(),
        "share kept": beside.answered / max(beside.elapsed_s * _RATE, beside.messages),
        "its p50 ms": beside.latency_ms["p50"],
        "its p99 ms": beside.latency_ms["p99"],
        "its messages sent again": beside.retransmitted,
        "its messages lost": beside.lost,
        "flood/s": of_flood.per_second,
    }
    name = f"fairness {transport}"
    faults = (*in_words(name, rows.faults()), *refused(name, beside), *refused(name, of_flood))
    return row, faults


def _together(other: ProcessPoolExecutor, light: LoadPlan, flood: LoadPlan) -> tuple[LoadReport, LoadReport]:
    """Flood from this process while the other process sends the normal device's messages."""
    of_flood: list[LoadReport] = []
    flooding = threading.Thread(target=lambda: of_flood.append(run_load(flood)))
    flooding.start()
    beside = other.submit(run_load, light).result()
    flooding.join()
    return beside, of_flood[0]
