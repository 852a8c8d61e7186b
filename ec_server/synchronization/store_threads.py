"""Runs the steps of rounds in a few threads, each with its own database connection, in short turns.

Rules:

1. A generator runs in one thread at a time, until its next command for the network or its next pause. Then it
   queues again behind those of other devices. So a device with a week to recover gets no more turns than
   the others.
2. A Store is opened by the thread that uses it, and closed by ``close``.
3. The number of threads is small: they share one interpreter, and the database has one writer at a time,
   which should mostly be ingest.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from ec_server.storage.contract import Store
from ec_server.synchronization.steps import Ask, Collect, Command, Note, Pause, Steps, Use
from utilities.errors import StorageError

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Finished(Generic[_Result]):
    """The end of a generator, with its return value."""

    value: _Result


@dataclass(frozen=True, slots=True)
class Turn(Generic[_Result]):
    """The result of one turn, and the notes it made on the way."""

    command: Ask | Collect | Pause | Finished[_Result]
    notes: tuple[Note, ...]


class StoreThreads:
    """The threads; used from one event loop."""

    def __init__(self, open_store: Callable[[], Store], count: int) -> None:
        self._open_store = open_store
        self._local = threading.local()
        self._stores: list[Store] = []
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="store")
        self._waiting = 0

    @property
    def busy(self) -> bool:
        """Whether turns are running or waiting."""
        return self._waiting > 0

    async def turn(self, steps: Steps[_Result], result: Any) -> Turn[_Result]:
        """Send ``result`` into the generator and run it to its next command for the network.

        Raises what the generator or the database raised. If the caller is cancelled, it gets CancelledError
        only once the thread has released the generator.
        """
        return await self._run(lambda: self._advance(steps, result))

    async def use(self, call: Callable[[Store], _Result]) -> _Result:
        """Make one call with a Store; queues like everything else."""
        return await self._run(lambda: call(self._store()))

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # asyncio logs those that nobody has asked for
            raise
        finally:
            self._waiting -= 1

    def _advance(self, steps: Steps[_Result], result: Any) -> Turn[_Result]:
        notes: list[Note] = []
        go_on: Callable[[], Command] = partial(steps.send, result)
        while True:
            try:
                command = go_on()
            except StopIteration as stop:
                return Turn(Finished(stop.value), tuple(notes))
            if isinstance(command, Use):
                go_on = self._use(steps, command)
            elif isinstance(command, Note):
                notes.append(command)
                go_on = partial(steps.send, None)
            else:
                return Turn(command, tuple(notes))

    def _use(self, steps: Steps[_Result], command: Use) -> Callable[[], Command]:
        """Continue the generator with the call's result, or with its error, which it may handle."""
        try:
            return partial(steps.send, command.call(self._store()))
        except StorageError as error:
            return partial(steps.throw, error)

    def _store(self) -> Store:
        store: Store | None = getattr(self._local, "store", None)
        if store is None:
            store = self._local.store = self._open_store()
            self._stores.append(store)
        return store

    def close(self) -> None:
        """Wait for running turns, drop waiting ones, and close every Store."""
        self._pool.shutdown(cancel_futures=True)
        for store in self._stores:
            store.close()
