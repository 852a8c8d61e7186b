"""Uses the spool while the database is unavailable, and drains it afterwards.

Rules:

1. From the first group that the database does not accept until the spool is empty again, every group goes to
   the spool, so that groups reach the database in the order in which they came.
2. Spools are drained by a thread with its own store, oldest groups first. They leave the spool after their
   commit: if the process dies in between, the write is repeated and nothing is lost.
3. A row that the database itself refuses (while it accepts other rows) is set aside and counted.
4. If the spool is full, ``append`` raises; the writer then keeps the group, and the senders wait.
5. Spools of workers that are no longer configured are drained in place, whenever the worker's own spool is
   empty, and counted in those workers' own accounts. Nothing is moved, so nothing can be left half moved.

The writer thread calls ``append`` and ``engaged``, the drainer thread ``run``, any thread ``stop``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ec_server.account.figures import RECEIVER_FIGURES
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.group_settlement import spool_agreement
from ec_server.ingest.spool import Drained, Spool, SpooledRows, drained_unnoticed
from ec_server.ingest.troubles import Troubles
from ec_server.storage.contract import Store
from utilities.errors import PermanentStorageError, RetryableStorageError, StorageError
from utilities.model import Batch, StoredRow

_log = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
_TOGETHER = 1_000
"""Rows of small groups that are stored by one call: a call costs as much as hundreds of rows."""


class AccountedSpool:
    """A spool with its account; two threads may share it.

    ``position`` is the account's ``spool_position``, whether or not it agrees with the spool already.
    """

    def __init__(self, spool: Spool, account: Callable[[Mapping[str, int]], None], position: int = 0) -> None:
        last = spool.last_drained
        self._position = last[0] if last else position
        self._spool = spool
        self._account = account
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Batches that wait."""
        return len(self._spool)

    @property
    def is_done_with(self) -> bool:
        """Whether no batch is waiting and none was set aside."""
        return not len(self._spool) and not self._spool.set_aside_count

    def append(self, batches: Sequence[Batch], inserted_us: int) -> None:
        """``Spool.append``; the caller updates the account."""
        with self._lock:
            self._spool.append(batches, inserted_us)

    def peek(self) -> SpooledRows | None:
        """The oldest groups, as many as are stored together."""
        with self._lock:
            return self._spool.peek(_TOGETHER)

    def remove(
        self, found: SpooledRows, drained: Drained, poison: Sequence[StoredRow] = (), why: str = ""
    ) -> None:
        """Remove what was committed, set ``poison`` aside, and update the account."""
        with self._lock:
            self._spool.remove(found.token, drained, poison, why)
        self._account({**drained.figures(), "spool_position": found.token - self._position})
        self._position = found.token

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._spool.close()


class LeftSpool:
    """The spool of a worker that is no longer configured, with that worker's page."""

    def __init__(self, path: Path, run_folder: Path, limit_bytes: int) -> None:
        self._path = path
        self._run_folder = run_folder
        self._limit_bytes = limit_bytes
        self._lock: int | None = None
        self._page: WorkerPage | None = None

    def open(self) -> AccountedSpool | None:
        """The spool, after its account was made to agree; None if a process of that worker is still alive.

        Raises StorageError if the file cannot be used.
        """
        name = self._path.stem
        lock = os.open(self._run_folder / f"{name}.writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        try:
            spool = Spool(self._path, self._limit_bytes)
        except StorageError:
            os.close(lock)
            raise
        self._lock = lock
        page = self._page = WorkerPage.create(self._run_folder / f"{name}.page", RECEIVER_FIGURES)
        page.apply(drained_unnoticed(page.figures()["spool_position"], spool.last_drained))
        page.apply(spool_agreement(page.figures()["spooled"], len(spool), 0)[0])
        _log.info("%s is no longer configured; storing the %d batches in its spool", name, len(spool))
        return AccountedSpool(spool, page.apply, page.figures()["spool_position"])

    def close(self, spool: AccountedSpool) -> None:
        """Close everything; delete the file if it is empty."""
        spool.close()
        if self._page is not None:
            self._page.close()
        if spool.is_done_with:
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)


class Spooling:
    """A worker's spool with the thread that drains it, and spools that former workers left."""

    def __init__(
        self,
        own: AccountedSpool,
        left: Sequence[LeftSpool],
        open_store: Callable[[], Store],
        troubles: Troubles,
    ) -> None:
        self._own = own
        self._left = list(left)
        self._open_left: tuple[LeftSpool, AccountedSpool] | None = None
        self._open_store = open_store
        self._troubles = troubles
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._store: Store | None = None
        if len(own) or left:
            self._wake.set()

    @property
    def engaged(self) -> bool:
        """Whether batches wait in the spool, so that new ones must queue after them."""
        return len(self._own) > 0

    def append(self, batches: Sequence[Batch], inserted_us: int) -> None:
        """Store batches of one UTC day in the spool. RetryableStorageError if it is full."""
        self._own.append(batches, inserted_us)
        self._wake.set()

    def stop(self) -> None:
        """End the drainer thread after its current group; waiting groups stay on disk."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """The drainer thread: drain whenever something is waiting, until stopped."""
        wait_s = _FIRST_WAIT_S
        try:
            while not self._stop.is_set():
                self._wake.wait()
                try:
                    self._drain()
                except StorageError as error:
                    self._wake.set()  # groups are still waiting, even if no new one ever comes
                    self._say(
                        f"the database takes nothing, {len(self._own)} batches wait in the spool: {error}"
                    )
                    self._close_store(only_if=isinstance(error, PermanentStorageError))
                    self._stop.wait(wait_s)
                    wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                else:
                    wait_s = _FIRST_WAIT_S
        finally:
            self._close_store(only_if=True)
            self._close_left()
            self._own.close()

    def _drain(self) -> None:
        """Store all waiting groups; raises if the database does not accept one."""
        began_s, drained = time.monotonic(), 0
        while not self._stop.is_set():
            self._wake.clear()
            found = self._next()
            if found is None:
                break
            spool, waiting = found
            if self._store is None:
                self._store = self._open_store()
            _move(self._store, spool, waiting)
            drained += len(waiting.rows)
            self._wake.set()
        if drained:
            _log.info("stored %d batches from the spool in %.1f s", drained, time.monotonic() - began_s)
            self._say("")

    def _next(self) -> tuple[AccountedSpool, SpooledRows] | None:
        """The oldest groups of the worker's own spool, else of one that a former worker left."""
        if found := self._own.peek():
            return self._own, found
        while True:
            if self._open_left is None:
                if not self._left:
                    return None
                left = self._left[-1]
                opened = left.open()
                self._left.pop()
                if opened is None:
                    continue
                self._open_left = (left, opened)
            if found := self._open_left[1].peek():
                return self._open_left[1], found
            self._close_left()

    def _close_left(self) -> None:
        if self._open_left is not None:
            left, spool = self._open_left
            self._open_left = None
            left.close(spool)

    def _say(self, text: str) -> None:
        self._troubles.say("database", text)

    def _close_store(self, *, only_if: bool) -> None:
        if only_if and self._store is not None:
            self._store.close()
            self._store = None


def _move(store: Store, spool: AccountedSpool, waiting: SpooledRows) -> None:
    """Store rows, then remove them from their spool."""
    try:
        result = store.replay(waiting.rows)
    except RetryableStorageError:
        raise
    except PermanentStorageError as error:
        _move_singly(store, spool, waiting, error)
    else:
        samples = sum(row.batch.count for row, changed in zip(waiting.rows, result.changed) if changed)
        spool.remove(waiting, Drained(result.stored, result.duplicate, 0, samples))


def _move_singly(
    store: Store, spool: AccountedSpool, waiting: SpooledRows, first: PermanentStorageError
) -> None:
    """Store rows one by one, to find those that are refused; raises if all are."""
    stored = duplicate = samples = 0
    poison: list[StoredRow] = []
    for row in waiting.rows:
        try:
            result = store.replay([row])
        except PermanentStorageError:
            poison.append(row)
            continue
        stored += result.stored
        duplicate += result.duplicate
        samples += row.batch.count * result.stored
    if len(poison) == len(waiting.rows) > 1:
        raise first  # the rows are not the reason
    spool.remove(waiting, Drained(stored, duplicate, len(poison), samples), poison, str(first))
    for row in poison:
        _log.error("set aside: %s", first, extra={"device": row.batch.device_id})
