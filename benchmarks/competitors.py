"""Measures each competitor once: alone on the machine with the load generator, with its own data.

Stored batches per second are counted from the first message sent to the last row committed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from benchmarks.effort import Effort
from benchmarks.measured_program import (
    PYTHON,
    MeasuredProgram,
    answers,
    free_port,
)
from benchmarks.mosquitto import MosquittoPair
from benchmarks.mqtt_publisher import publish
from benchmarks.outcome import Value
from benchmarks.own_node import KEYSPACE, OwnNode
from benchmarks.questdb import QuestDb, write_lines
from benchmarks.stored_rows import RowCount, Sent, count_rows
from benchmarks.storing_program import StoringProgram, this_server
from reference_client.load_generator import LoadReport, run_load
from reference_client.load_plan import LoadPlan

WARM_UP_MESSAGES = 4_000
_QUESTDB_MESSAGES_A_SECOND = 40_000
"""QuestDB's approximate speed in rows; determines how many rows to send."""
_QUESTDB_WARM_UP_MESSAGES = 20_000
"""A warm-up, in which Java compiles what it runs often."""
_DRIVER_ROWS_A_SECOND = 15_000
"""The driver's approximate speed with large requests; determines how many rows to send."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement of one competitor."""

    competitor: str
    messages: int
    per_second: float
    """Messages stored per second; for the bare callback, answered."""
    samples_per_second: float
    generator_us: float
    """The load generator's processor time per message."""
    cpu_us: Mapping[str, float]
    """Each program's processor time per message."""
    peak_mb: Mapping[str, float]
    faults: tuple[str, ...] = ()
    figures: Mapping[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, Value]:
        """The row of the table."""
        return {
            "competitor": self.competitor,
            "messages/s": self.per_second,
            "samples/s": self.samples_per_second,
            "its CPU µs/message": sum(self.cpu_us.values()),
            "its peak MB": sum(self.peak_mb.values()),
            "generator CPU µs/message": self.generator_us,
        }


Competitor = Callable[[Effort], Measured]
"""Measures once, for about ``effort.seconds``."""

TEXT_FROM_EIGHT = LoadPlan(devices=8, transport="tcp", format="text44", connections=4)
"""The load in every comparison: over TCP, text of 44 samples, from 8 devices."""


def bare_callback(effort: Effort) -> Measured:
    """The SIP stack with an empty callback."""
    plan = TEXT_FROM_EIGHT
    port = free_port()
    with effort.fresh_folder() as folder:
        command = [PYTHON, "-m", "benchmarks.bare_callback", str(port)]
        with MeasuredProgram("the bare callback", command, folder / "program.log") as program:
            program.wait_until(lambda: "ready" in program.said() and answers(port))
            warm = run_load(renewed(plan, port=port, messages=WARM_UP_MESSAGES))
            before = program.usage()
            chosen = renewed(plan, port=port, messages=int(warm.per_second * effort.seconds))
            report = run_load(chosen)
            used = program.usage()
    return Measured(
        "bare callback",
        report.messages,
        report.per_second,
        report.per_second * samples_a_message(plan),
        report.cpu_us_per_message,
        {"callback": 1e6 * (used.cpu_s - before.cpu_s) / report.messages},
        {"callback": used.peak_mb},
        not_answered("bare callback", report),
    )


def server_with(
    name: str,
    options: Mapping[str, str],
    plan: LoadPlan = TEXT_FROM_EIGHT,
    count: Callable[[Sequence[Sent]], RowCount] | None = None,
) -> Competitor:
    """One receiver of this server, alone, with ``options``; ``count`` is needed if rows are not in SQLite."""

    def measure(effort: Effort) -> Measured:
        with effort.fresh_folder() as folder:
            program, port = this_server(folder, options=options)
            with program:
                warm, warm_sent, warm_s = offer(program, renewed(plan, port=port, messages=WARM_UP_MESSAGES))
                before, main_before = program.usage(), program.main_thread_cpu_s()
                messages = int(effort.seconds * warm.answered / warm_s)
                report, sent, elapsed_s = offer(program, renewed(plan, port=port, messages=messages))
                used, figures = program.usage(), program.figures()
                sip_us = 1e6 * (program.main_thread_cpu_s() - main_before) / report.messages
            all_sent = [warm_sent, sent]
            rows = count(all_sent) if count else count_rows(program.storage, all_sent)
        cpu_us = 1e6 * (used.cpu_s - before.cpu_s) / report.messages
        return Measured(
            name,
            report.messages,
            report.answered / elapsed_s,
            samples_a_message(plan) * report.answered / elapsed_s,
            report.cpu_us_per_message,
            {"SIP": sip_us, "writer": cpu_us - sip_us},
            {"receiver": used.peak_mb},
            (*not_answered(name, warm), *not_answered(name, report), *in_words(name, rows.faults())),
            figures,
        )

    return measure


def driver_alone(name: str, node: OwnNode, rows_a_request: int) -> Competitor:
    """The Cassandra driver alone, with rows made beforehand."""
    messages = _DRIVER_ROWS_A_SECOND if rows_a_request > 1 else _DRIVER_ROWS_A_SECOND // 3

    def measure(effort: Effort) -> Measured:
        plan = renewed(TEXT_FROM_EIGHT, port=1, messages=int(messages * effort.seconds))
        command = [PYTHON, "-m", "benchmarks.driver_alone", str(node.port), KEYSPACE, plan.prefix,
                   str(plan.start), str(plan.messages), str(rows_a_request)]  # fmt: skip
        with effort.fresh_folder() as folder:
            program = MeasuredProgram(name, command, folder / "program.log")
            with program:
                program.wait_until(lambda: program.said().endswith("}"), 60 + 10 * effort.seconds)
                peak_mb = program.usage().peak_mb
            found = json.loads(program.said())
        rows = node.count_rows([Sent(plan)])
        per_second = found["rows"] / found["elapsed_s"]
        return Measured(
            name,
            found["rows"],
            per_second,
            samples_a_message(plan) * per_second,
            0.0,
            {"driver": 1e6 * found["cpu_s"] / found["rows"]},
            {"driver": peak_mb},
            in_words(name, rows.faults()),
        )

    return measure


def mosquitto(effort: Effort) -> Measured:
    """Mosquitto and a paho subscriber with the same writer."""
    name, plan = "mosquitto and paho", TEXT_FROM_EIGHT
    with effort.fresh_folder() as folder, ExitStack() as stack:
        pair = stack.enter_context(MosquittoPair(folder))
        warm_plan = renewed(plan, port=pair.port, messages=WARM_UP_MESSAGES)
        began = publish(warm_plan).began
        warm_s = pair.subscriber.wait_until_settled(WARM_UP_MESSAGES) - began
        before = pair.usage()
        messages = int(effort.seconds * WARM_UP_MESSAGES / warm_s)
        chosen = renewed(plan, port=pair.port, messages=messages)
        report = publish(chosen)
        elapsed_s = pair.subscriber.wait_until_settled(WARM_UP_MESSAGES + messages) - report.began
        used, figures = pair.usage(), pair.subscriber.figures()
        stack.close()
        rows = count_rows(pair.subscriber.storage, [Sent(warm_plan), Sent(chosen)])
    return Measured(
        name,
        messages,
        messages / elapsed_s,
        samples_a_message(plan) * messages / elapsed_s,
        1e6 * report.cpu_s / messages,
        {part: 1e6 * (used[part].cpu_s - before[part].cpu_s) / messages for part in used},
        {part: usage.peak_mb for part, usage in used.items()},
        in_words(name, rows.faults()),
        figures,
    )


def questdb(name: str, *, deduplication: bool) -> Competitor:
    """QuestDB, one row per sample over its line protocol, the lines made beforehand."""

    def measure(effort: Effort) -> Measured:
        plan = renewed(TEXT_FROM_EIGHT, port=1, messages=int(_QUESTDB_MESSAGES_A_SECOND * effort.seconds))
        with effort.fresh_folder() as folder:
            files = [folder / f"{connection}.lines" for connection in range(plan.connections)]
            shares = [map(plan.batch, plan.numbers(connection)) for connection in range(plan.connections)]
            samples = sum(write_lines(path, share) for path, share in zip(files, shares))
            warm_up = renewed(plan, port=1, messages=_QUESTDB_WARM_UP_MESSAGES)
            warm_samples = write_lines(folder / "warm-up.lines", warm_up.batches())
            with QuestDb(folder, deduplication=deduplication) as server:
                server.send([folder / "warm-up.lines"])
                server.wait_for(warm_samples)
                before, own, began = server.usage(), time.process_time(), time.monotonic()
                server.send(files)
                sending_s = time.process_time() - own
                elapsed_s = server.wait_for(warm_samples + samples) - began
                used = server.usage()
        return Measured(
            name,
            plan.messages,
            plan.messages / elapsed_s,
            samples / elapsed_s,
            1e6 * sending_s / plan.messages,
            {"QuestDB": 1e6 * (used.cpu_s - before.cpu_s) / plan.messages},
            {"QuestDB": used.peak_mb},
        )

    return measure


def offer(program: StoringProgram, plan: LoadPlan) -> tuple[LoadReport, Sent, float]:
    """Send a plan; returns its report, and the seconds until the last batch was committed."""
    received_before = program.figure("received")
    began = time.monotonic()
    report = run_load(plan)
    took_s = time.monotonic() - began
    settled = program.wait_until_settled(received_before + report.answered)
    return report, Sent(plan, report.unanswered), settled - began - (took_s - report.elapsed_s)


def renewed(plan: LoadPlan, *, port: int, messages: int) -> LoadPlan:
    """The same kind of load for another server, with new devices."""
    fresh = LoadPlan()
    return replace(plan, port=port, messages=max(messages, 1000), prefix=fresh.prefix, start=fresh.start)


def samples_a_message(plan: LoadPlan) -> float:
    """Average samples per message; the last message of a second may be shorter."""
    return 44_000 / plan.messages_per_second


def not_answered(name: str, report: LoadReport) -> tuple[str, ...]:
    """A fault if not every message was answered with 200."""
    if report.answered == report.messages:
        return ()
    missing = report.messages - report.answered
    return (f"{name}: {missing} of {report.messages} messages were not answered 200", *refused(name, report))


def refused(name: str, report: LoadReport) -> tuple[str, ...]:
    """A fault if messages were answered with anything but 200, as every load here is valid."""
    return tuple(f"{name}: {count} messages were answered {status}" for status, count in report.other.items())


def in_words(name: str, faults: list[str]) -> tuple[str, ...]:
    """Faults, preceded by the name."""
    return tuple(f"{name}: {fault}" for fault in faults)
