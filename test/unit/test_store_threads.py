"""The threads that carry out rounds: what becomes of a turn that nobody waits for any more."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from ec_server.storage.contract import Store
from ec_server.storage.memory_store import MemoryStore
from ec_server.synchronization.store_threads import StoreThreads
from utilities.errors import RetryableStorageError


def test_an_error_of_the_database_after_the_connection_has_ended_is_nobody_s_fault() -> None:
    begun, may_fail = threading.Event(), threading.Event()
    told: list[dict[str, Any]] = []

    def fails(_store: Store) -> None:
        begun.set()
        may_fail.wait(10)
        raise RetryableStorageError("disk I/O error")

    async def connection_that_ends() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        threads = StoreThreads(MemoryStore, 1)
        serving = asyncio.create_task(threads.use(fails))
        await loop.run_in_executor(None, begun.wait, 10)
        serving.cancel()
        await asyncio.sleep(0)
        assert threads.busy, "the generator must not be released before the thread has left it"
        may_fail.set()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not threads.busy
        threads.close()
        del serving
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(connection_that_ends())
    assert told == []
