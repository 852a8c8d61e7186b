"""Between writer and database where the database may be away: engaged, everything goes to the spool.

Rules:

1. From the first group that the database did not take until the spool is empty again, every group
   goes to the spool: so they reach the database in the order in which they came.
2. The spool is drained by a thread with a store of its own, oldest first. A group leaves the spool
   after it was committed, so a death in between repeats a write and loses nothing.
3. A row that the database refuses for itself (it takes its neighbours) is set aside and counted.
4. ``append`` may raise where the spool is full; the writer then holds the group, and the senders wait.

The writer's thread calls ``append`` and ``engaged``, the drainer's thread ``run``, any thread ``stop``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ec_server.ingest.spool import Spool, SpooledGroup
from ec_server.storage.contract import Store
from utilities.errors import PermanentStorageError, RetryableStorageError, StorageError
from utilities.model import Batch, StoredRow

_log = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What became of one group that left the spool: batches by outcome."""

    stored: int
    duplicate: int
    set_aside: int
    samples_stored: int


class Spooling:
    """One worker's spool with the thread that drains it."""

    def __init__(
        self,
        spool: Spool,
        open_store: Callable[[], Store],
        on_drained: Callable[[Drained], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        """``on_drained`` and ``on_trouble`` ("" once it is over) are called in the drainer's thread."""
        self._spool = spool
        self._open_store = open_store
        self._on_drained = on_drained
        self._on_trouble = on_trouble
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._store: Store | None = None
        if len(spool):
            self._wake.set()

    @property
    def engaged(self) -> bool:
        """Whether batches wait in the spool, so that new ones have to wait behind them."""
        return len(self._spool) > 0

    @property
    def waiting(self) -> int:
        """Batches in the spool."""
        return len(self._spool)

    def append(self, batches: Sequence[Batch], inserted_us: int) -> None:
        """Keep batches of one UTC day on disk. RetryableStorageError where the spool is full."""
        with self._lock:
            self._spool.append(batches, inserted_us)
        self._wake.set()

    def stop(self) -> None:
        """End the drainer's thread after the group in its hands; what waits stays on disk."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Drain whenever something waits, until stopped. The drainer thread's body."""
        wait_s = _FIRST_WAIT_S
        try:
            while not self._stop.is_set():
                self._wake.wait()
                try:
                    self._drain()
                except StorageError as error:
                    waiting = f"{len(self._spool)} batches wait in the spool"
                    self._on_trouble(f"the database takes nothing, {waiting}: {error}")
                    self._close_store(only_if=isinstance(error, PermanentStorageError))
                    self._stop.wait(wait_s)
                    wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                else:
                    wait_s = _FIRST_WAIT_S
        finally:
            self._close_store(only_if=True)
            with self._lock:
                self._spool.close()

    def _drain(self) -> None:
        """Everything that waits, group by group; raises where the database does not take it."""
        began_s, drained = time.monotonic(), 0
        while not self._stop.is_set():
            with self._lock:
                group = self._spool.peek()
                if group is None:
                    self._wake.clear()
                    break
            if self._store is None:
                self._store = self._open_store()
            self._on_drained(self._move(self._store, group))
            drained += len(group.batches)
        if drained:
            _log.info("%d batches went from the spool in %.1f s", drained, time.monotonic() - began_s)
            self._on_trouble("")

    def _move(self, store: Store, group: SpooledGroup) -> Drained:
        try:
            result = store.replay(_rows_of(group))
        except RetryableStorageError:
            raise
        except PermanentStorageError as error:
            return self._move_singly(store, group, error)
        with self._lock:
            self._spool.remove(group.token)
        samples = sum(b.count for b, changed in zip(group.batches, result.changed) if changed)
        return Drained(result.stored, result.duplicate, 0, samples)

    def _move_singly(self, store: Store, group: SpooledGroup, first: PermanentStorageError) -> Drained:
        """Find the rows that are refused for themselves; raises where every one is."""
        stored = duplicate = samples = 0
        poison: list[Batch] = []
        for row in _rows_of(group):
            batch = row.batch
            try:
                result = store.replay([row])
            except PermanentStorageError:
                poison.append(batch)
                continue
            stored += result.stored
            duplicate += result.duplicate
            samples += batch.count * result.stored
        if len(poison) == len(group.batches) > 1:
            raise first  # it is not the rows
        with self._lock:
            self._spool.set_aside(group.token, poison, str(first))
        for batch in poison:
            _log.error("set aside: %s", first, extra={"device": batch.device_id})
        return Drained(stored, duplicate, len(poison), samples)

    def _close_store(self, *, only_if: bool) -> None:
        if only_if and self._store is not None:
            self._store.close()
            self._store = None


def _rows_of(group: SpooledGroup) -> list[StoredRow]:
    """The group's batches with the moments of their insertion, one microsecond apart, in their order."""
    moments = range(group.inserted_us, group.inserted_us + len(group.batches))
    return [StoredRow(batch, at_us, at_us) for batch, at_us in zip(group.batches, moments)]
