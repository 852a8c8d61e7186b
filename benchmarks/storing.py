"""Checks and stores message bodies with the server's own code, in one thread of any program.

So a comparison with the server measures only what comes before that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.message_body import Limits
from ec_server.ingest.message_group import GroupParser
from ec_server.ingest.minute_ledger import MinuteLedger
from ec_server.storage.contract import Store
from utilities.model import Batch, CommitMark, RawMessage
from utilities.utc import day_of

A_COMMIT = 1_000
"""The most batches per transaction, as in the server's default."""


class Storing:
    """The same check, rows, digests and account as in the server. Not thread-safe."""

    def __init__(self, store: Store, page: WorkerPage, writer: str) -> None:
        self._store, self._page, self._writer = store, page, writer
        self._parser, self._ledger, self._sequence = GroupParser(Limits()), MinuteLedger(), 0
        self.digests_cpu_s = 0.0
        """Processor time spent on digests."""

    def store(self, bodies: Sequence[bytes]) -> None:
        """Store a group; it is committed on return. ValueError for a rejected body: there should be none."""
        now_us = time.time_ns() // 1000
        messages = [RawMessage(body, "", now_us) for body in bodies]
        found = self._parser.parse(messages, now_us // 1_000_000)
        batches = [batch for batch in found if isinstance(batch, Batch)]
        if len(batches) < len(found):
            raise ValueError(f"{len(found) - len(batches)} messages were rejected")
        for _, of_day in groupby(sorted(batches, key=_day), key=_day):
            self._commit(list(of_day))

    def finish(self) -> None:
        """Publish the remaining digests."""
        self._store.publish(self._ledger.end_all())

    def _commit(self, batches: list[Batch]) -> None:
        self._sequence += 1
        result = self._store.ingest(batches, CommitMark(self._writer, self._sequence))
        self._page.apply({"stored": result.stored, "duplicate": result.duplicate, "commits": 1})
        began = time.thread_time()
        changed = [batch for batch, is_new in zip(batches, result.changed) if is_new]
        finished = self._ledger.add(changed, result.opened, time.monotonic())
        if finished:
            self._store.publish(finished)
        self.digests_cpu_s += time.thread_time() - began


def _day(batch: Batch) -> int:
    return day_of(batch.second)
