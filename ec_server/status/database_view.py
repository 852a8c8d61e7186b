"""Reads devices and health from the database, at most once per second, without blocking any page.

Rules:

1. A daemon thread owns the store, and opens it on the first query. Callers wait for that thread for at most
   ``patience_s``; if the database hangs, the answer has an ``error``.
2. One query at a time: callers that arrive while it runs share its answer, and those within ``max_age_s`` of
   an answer get the same one, so that frequent scraping costs little.
3. After an error the store is closed, and opened again for the next query.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ec_server.storage.contract import StorageHealth, Store
from utilities.errors import EcServerError
from utilities.model import DeviceRecord

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The database's answer, or the ``error`` that prevented it."""

    devices: tuple[DeviceRecord, ...] = ()
    health: StorageHealth | None = None
    error: str = ""


Question = tuple[asyncio.AbstractEventLoop, "asyncio.Future[DatabaseState]"]


class DatabaseView:
    """The database for one event loop; call ``state`` only from that loop."""

    def __init__(
        self, open_store: Callable[[], Store], max_age_s: float = 1.0, patience_s: float = 4.0
    ) -> None:
        self._open_store = open_store
        self._max_age_s, self._patience_s = max_age_s, patience_s
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: asyncio.Future[DatabaseState] | None = None
        self._latest = DatabaseState(error="the database has not been asked yet")
        self._answered_at = -1e9

    async def state(self) -> DatabaseState:
        """The latest answer, at most ``max_age_s`` old; with an ``error`` if there is none in time."""
        if time.monotonic() - self._answered_at < self._max_age_s:
            return self._latest
        if self._pending is None or self._pending.done():
            self._pending = self._ask()
        try:
            self._latest = await asyncio.wait_for(asyncio.shield(self._pending), self._patience_s)
        except TimeoutError:
            return DatabaseState(error=f"the database did not answer within {self._patience_s:g} s")
        self._answered_at = time.monotonic()
        return self._latest

    def close(self) -> None:
        """Let the thread close its store; a hanging thread ends with the process."""
        self._questions.put(None)
        if self._thread:
            self._thread.join(timeout=1.0)

    def _ask(self) -> asyncio.Future[DatabaseState]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="database-view", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[DatabaseState] = loop.create_future()
        self._questions.put((loop, answer))
        return answer

    def _run(self) -> None:
        store: Store | None = None
        while (question := self._questions.get()) is not None:
            loop, answer = question
            try:
                store = store or self._open_store()
                state = DatabaseState(tuple(store.devices()), store.health())
            except Exception as error:
                # The thread must survive any error: pages that wait for it would never get an answer.
                if not isinstance(error, EcServerError):
                    _log.exception("asking the database")
                _close(store)
                store, state = None, DatabaseState(error=str(error) or type(error).__name__)
            loop.call_soon_threadsafe(_answer, answer, state)
        _close(store)


def _answer(future: asyncio.Future[DatabaseState], state: DatabaseState) -> None:
    if not future.done():
        future.set_result(state)


def _close(store: Store | None) -> None:
    with contextlib.suppress(Exception):  # it has failed already; the next query opens it again
        if store:
            store.close()
