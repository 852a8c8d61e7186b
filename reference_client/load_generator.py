"""Offers a server the load of many meters, at a much lower cost than a SIP stack.

    python -m reference_client.load_generator --server 127.0.0.1:34567 --transport tcp --messages 100000

It is a minimal but conforming user agent client (RFC 3261). Each message is a separate transaction with its
own branch and Call-ID. Over UDP it is sent again after 0.5 s, 1.5 s, 3.5 s and so on until it is answered
(timer E), over TCP never. In both cases it counts as lost if there is no answer within 32 s (timer F), or if
its connection broke. A broken TCP connection is opened again, and the run continues.

Every message is counted once: messages = answered 200 + other answers + lost + unsent.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import select
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from reference_client.load_connections import CONNECTIONS, Tally, TcpConnection, UdpConnection
from reference_client.load_plan import FORMATS, WINDOWS, LoadPlan, prepared

# With more unanswered messages than this, answers are fetched at intervals, not one by one.
_BUSY, _NAP_S = 32, 0.0004


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The result of a plan. Latencies are from the first transmission to the final answer."""

    messages: int
    answered: int
    """Answered with 200, which means received, not stored."""
    other: Mapping[int, int]
    """Final answers other than 200, by status."""
    lost: int
    unsent: int
    """Not sent because the server could not be reached any more, or because it was too late for it."""
    retransmitted: int
    reconnected: int
    elapsed_s: float
    """From the first transmission to the last answer."""
    cpu_s: float
    """Processor time of all processes of the generator, without preparing the values."""
    latency_ms: Mapping[str, float]
    unanswered: tuple[int, ...] = field(repr=False)
    """The numbers of messages without a 200 (lost, answered otherwise, or unsent), ascending."""

    @property
    def per_second(self) -> float:
        """Messages answered with 200 per second."""
        return self.answered / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def cpu_us_per_message(self) -> float:
        """Processor time of the generator per answered message."""
        return 1e6 * self.cpu_s / self.answered if self.answered else 0.0

    def as_dict(self) -> dict[str, object]:
        """The report for output, without the list of numbers."""
        names = ("messages", "answered", "lost", "unsent", "retransmitted", "reconnected")
        return {
            **{name: getattr(self, name) for name in names},
            "other": {str(status): n for status, n in sorted(self.other.items())},
            "elapsed_s": round(self.elapsed_s, 3),
            "per_second": round(self.per_second, 1),
            "latency_ms": {name: round(value, 2) for name, value in self.latency_ms.items()},
            "cpu_s": round(self.cpu_s, 3),
            "cpu_us_per_message": round(self.cpu_us_per_message, 2),
        }


def run_load(plan: LoadPlan) -> LoadReport:
    """Send a complete plan and wait for the answers. Starts ``plan.processes - 1`` more processes."""
    if plan.processes == 1:
        return _report(plan, [_run_share(plan, 0)])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan.processes, mp_context=context) as pool:
        return _report(plan, list(pool.map(_run_share, [plan] * plan.processes, range(plan.processes))))


def _run_share(plan: LoadPlan, process: int) -> Tally:
    """Send the share of one process; runs in that process."""
    tally = Tally()
    prepared(plan.format)
    kind = CONNECTIONS[plan.transport]
    mine = [kind(plan, index, tally) for index in range(process, plan.connections, plan.processes)]
    for connection in mine:
        connection.connect(time.monotonic())
    cpu_before = time.process_time()
    tally.began = tally.ended = time.monotonic()
    try:
        _drive(mine, tally.began)
    finally:
        for connection in mine:
            connection.close()
    tally.cpu_s = time.process_time() - cpu_before
    return tally


def _drive(connections: Sequence[TcpConnection | UdpConnection], began: float) -> None:
    expire_at = began
    unfinished = list(connections)
    while unfinished:
        now = time.monotonic()
        reachable = [connection for connection in unfinished if connection.connect(now)]
        for connection in reachable:
            connection.leave_out_late(now, began)
            connection.send(connection.room(now, began), now)
        _wait(reachable)
        now = time.monotonic()
        for connection in reachable:
            if connection.socket is not None:
                connection.receive(now)
        if now >= expire_at:
            expire_at = now + 0.02
            for connection in unfinished:
                connection.expire(now)
            unfinished = [connection for connection in unfinished if not connection.finished]


def _wait(connections: Sequence[TcpConnection | UdpConnection]) -> None:
    """Wait for an answer, or until something may be sent; under load, for several answers."""
    if sum([connection.unanswered for connection in connections]) > _BUSY:
        time.sleep(_NAP_S)
        return
    poll = select.poll()
    for connection in connections:
        if connection.socket is not None:
            poll.register(connection.socket, select.POLLIN)
    poll.poll(1)


def _report(plan: LoadPlan, tallies: Sequence[Tally]) -> LoadReport:
    other: Counter[int] = sum((tally.other for tally in tallies), Counter())
    latencies_ms = 1000 * np.concatenate([np.asarray(tally.latencies_s) for tally in tallies])
    points = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
    unanswered = [n for tally in tallies for n in (*tally.lost, *tally.unsent, *tally.otherwise)]
    return LoadReport(
        messages=plan.messages,
        answered=sum(tally.answered for tally in tallies),
        other=dict(other),
        lost=sum(len(tally.lost) for tally in tallies),
        unsent=sum(len(tally.unsent) for tally in tallies),
        retransmitted=sum(tally.retransmitted for tally in tallies),
        reconnected=sum(tally.reconnected for tally in tallies),
        elapsed_s=max(tally.ended for tally in tallies) - min(tally.began for tally in tallies),
        cpu_s=sum(tally.cpu_s for tally in tallies),
        latency_ms={
            name: float(np.percentile(latencies_ms, point)) if len(latencies_ms) else 0.0
            for name, point in points.items()
        },
        unanswered=tuple(sorted(unanswered)),
    )


def plan_from_arguments(arguments: Sequence[str]) -> tuple[LoadPlan, bool]:
    """``(plan, whether to print JSON)``; ends the program with a message if an argument is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    host, _, port = given.server.rpartition(":")
    chosen = {"start": given.start, "prefix": given.id_prefix}
    try:
        plan = LoadPlan(
            host=host,
            port=int(port),
            transport=given.transport,
            devices=given.devices,
            messages=given.messages,
            rate=None if given.rate == "max" else float(given.rate),
            format=given.format,
            connections=given.connections,
            spread=given.spread,
            window=given.window,
            late_s=given.late,
            processes=given.processes,
            give_up_s=given.give_up,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except ValueError as error:
        parser.error(str(error))
    return plan, given.json


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference_client.load_generator", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--server", default="127.0.0.1:34567", metavar="HOST:PORT", help="default: 127.0.0.1:34567")
    add("--transport", choices=tuple(WINDOWS), default="tcp", help="default: tcp")
    add("--devices", type=int, default=8, help="number of meters to simulate (default: 8)")
    add("--messages", type=int, default=100_000, help="number of messages in all (default: 100000)")
    add("--rate", default="max", help="messages per second, of all devices together, or max")
    add("--format", choices=tuple(FORMATS), default="text44", help="form, and samples per message")
    add("--connections", type=int, default=4, help="sockets (default: 4)")
    add("--spread", action="store_true", help="send each device's messages over all connections in turn")
    add(
        "--window", type=int, default=0, help="unanswered messages per connection (default: 128, over UDP 16)"
    )
    add("--processes", type=int, default=1, help="processes that share the sockets (default: 1)")
    add("--start", type=int, help="epoch second of each device's first message (default: an hour ago)")
    add("--id-prefix", help="device ids are PREFIX-0000 and so on (default: a new prefix in each run)")
    add(
        "--give-up",
        type=float,
        default=32.0,
        metavar="SECONDS",
        help="time after which a missing answer counts as lost",
    )
    add(
        "--late",
        type=float,
        metavar="SECONDS",
        help="leave out messages that cannot be sent this long after their time (default: send all)",
    )
    add("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one plan; returns 0 if every message was answered with 200, else 1."""
    plan, as_json = plan_from_arguments(arguments)
    try:
        report = run_load(plan)
    except KeyboardInterrupt:
        return 130
    described = {"devices": f"{plan.device_id(0)} ...", "start": plan.start, **report.as_dict()}
    print(json.dumps(described) if as_json else "\n".join(f"{k}: {v}" for k, v in described.items()))
    return 0 if report.answered == plan.messages else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
