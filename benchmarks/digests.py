"""The cost of computing the synchronization's digests while batches are stored.

The time that a storing thread spends on the ledger of digests and on publishing them is compared with the
total cost of a message in a receiver. Both are processor time, so other programs disturb them little.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.competitors import TEXT_FROM_EIGHT, renewed, server_with
from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.storing import A_COMMIT, Storing
from ec_server.account.figures import RECEIVER_FIGURES
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.sqlite_store import SqliteStore

Say = Callable[[str], None]

_MESSAGES_A_SECOND = 20_000
"""Messages for each of ``effort.seconds``."""


def run(effort: Effort, say: Say) -> Outcome:
    """Share of a message's cost that is spent on computing digests."""
    rows: list[dict[str, Value]] = []
    shares: list[float] = []
    faults: list[str] = []
    receiver = server_with("receiver", {})
    for number in effort.each_round():
        digests_us = _digests_us(effort)
        whole = receiver(effort)
        whole_us = sum(whole.cpu_us.values())
        faults += whole.faults
        shares.append(digests_us / whole_us)
        say(f"round {number + 1} of {effort.rounds}: {digests_us:.2f} of {whole_us:.1f} µs a message")
        rows += [
            {"what": "digests kept up", "CPU µs/message": digests_us},
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


def _digests_us(effort: Effort) -> float:
    """Processor microseconds per message that a storing thread spends on digests."""
    plan = renewed(TEXT_FROM_EIGHT, port=1, messages=int(_MESSAGES_A_SECOND * effort.seconds))
    bodies = [f"{device_id}|{second}|{text}||".encode() for device_id, second, text in plan.batches()]
    with effort.fresh_folder() as folder, SqliteStore(folder) as store:
        page = WorkerPage.create(folder / "storing.page", RECEIVER_FIGURES)
        storing = Storing(store, page, "storing")
        for first in range(0, len(bodies), A_COMMIT):
            storing.store(bodies[first : first + A_COMMIT])
        storing.finish()
        stored = page.figures()["stored"]
        page.close()
    if stored != len(bodies):
        raise AssertionError(f"{stored} of {len(bodies)} batches were stored")
    return 1e6 * storing.digests_cpu_s / len(bodies)
