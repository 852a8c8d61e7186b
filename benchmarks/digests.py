"""What it costs to keep the synchronization's digests up while batches are stored.

The writer works off a prepared queue, alone in this process, in turns with its ledger of digests and with
one that does nothing. The difference is set against what a message costs a receiver in all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.competitors import server_with
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from configuration.devices import DeviceDirectory
from ec_server.ingest.admission import Admission
from ec_server.ingest.intake_queue import IntakeQueue
from ec_server.ingest.message_body import Limits
from ec_server.ingest.minute_ledger import MinuteLedger
from ec_server.ingest.quarantine import Quarantine
from ec_server.ingest.writer import Writer, WriterSettings
from ec_server.model import Batch, RawMessage
from ec_server.status.figures import RECEIVER_FIGURES
from ec_server.status.worker_page import WorkerPage
from ec_server.storage.contract import FinishedMinute
from ec_server.storage.sqlite_store import SqliteStore
from reference_client.load_plan import LoadPlan

Say = Callable[[str], None]

_MESSAGES_A_SECOND = 10_000
"""So many for each of ``effort.seconds``."""
_TURNS = 3


class _NoLedger(MinuteLedger):
    """Keeps nothing up."""

    def add(
        self, batches: Iterable[Batch], opened: Collection[tuple[str, int]], now_s: float
    ) -> list[FinishedMinute]:
        return []


def run(effort: Effort, say: Say) -> Outcome:
    """Share of a message's cost that is spent on keeping digests up."""
    rows: list[dict[str, Value]] = []
    shares: list[float] = []
    faults: list[str] = []
    receiver = server_with("receiver", {}, LoadPlan(devices=8, connections=4))
    for number in effort.each_round():
        messages = _messages(int(_MESSAGES_A_SECOND * effort.seconds))
        without_us, with_us = _least(messages, effort)
        whole = receiver(effort)
        whole_us = sum(whole.cpu_us.values())
        faults += whole.faults
        shares.append((with_us - without_us) / whole_us)
        say(f"round {number + 1} of {effort.rounds}: {with_us - without_us:.2f} of {whole_us:.1f} µs")
        rows += [
            {"what": "writer without digests", "CPU µs/message": without_us},
            {"what": "writer with digests", "CPU µs/message": with_us},
            {"what": "receiver in all", "CPU µs/message": whole_us},
        ]
    return Outcome(
        "Digests kept up: text of 44 samples, 8 devices",
        medians(rows, "what"),
        [Ratio("digests kept up / whole cost of a message", tuple(shares), at_most=0.1)],
        faults,
        (),
        rows,
    )


def _least(messages: Sequence[RawMessage], effort: Effort) -> tuple[float, float]:
    """Without and with digests, in turns, the least of a few: whatever disturbs can only add."""
    pairs = [
        (_work_off(messages, effort, _NoLedger()), _work_off(messages, effort, MinuteLedger()))
        for _ in range(_TURNS)
    ]
    return min(without_us for without_us, _ in pairs), min(with_us for _, with_us in pairs)


def _messages(count: int) -> list[RawMessage]:
    plan = LoadPlan(devices=8, messages=count)
    now_us = time.time_ns() // 1000
    return [
        RawMessage(f"{device_id}|{second}|{text}||".encode(), "127.0.0.1:5060", now_us)
        for device_id, second, text in plan.batches()
    ]


def _work_off(messages: Sequence[RawMessage], effort: Effort, ledger: MinuteLedger) -> float:
    """Processor microseconds a message, all threads of this process."""
    with effort.fresh_folder() as folder:
        queue = IntakeQueue(len(messages))
        for message in messages:
            queue.put(message)
        queue.close()
        page = WorkerPage.create(folder / "receiver-0.page", RECEIVER_FIGURES)
        writer = _writer(folder, queue, page)
        writer._ledger = ledger
        began = time.process_time()
        writer.run()
        used_s = time.process_time() - began
        stored = page.figures()["stored"]
        page.close()
    if stored != len(messages):
        raise AssertionError(f"{stored} of {len(messages)} messages were stored")
    return 1e6 * used_s / len(messages)


def _writer(folder: Path, queue: IntakeQueue, page: WorkerPage) -> Writer:
    return Writer(
        WriterSettings("receiver-0", folder, Limits()),
        queue,
        page,
        partial(SqliteStore, folder),
        Admission(DeviceDirectory()),
        Quarantine(folder / "quarantine.jsonl", 0),
        lambda trouble: None,
    )
