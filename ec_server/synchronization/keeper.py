"""What the database needs now and then, done in the background: digests of closed minutes, retention.

Rules:

1. Low priority: one minute at a time, with a pause as long as the work, and nothing while rounds are
   at work. What is left undone is computed when a round or a person asks for it.
2. It has a thread and a database of its own, so that no device waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from ec_server.storage.contract import Store
from ec_server.synchronization.round import RoundRules, closed_before
from ec_server.synchronization.store_threads import StoreThreads
from utilities.errors import StorageError
from utilities.utc import DAY_S, MINUTE_S, day_of

LOOK_S = 20.0
_BUSY_S = 0.2

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


class Keeper:
    """Runs until it is cancelled."""

    def __init__(
        self,
        rounds: StoreThreads,
        open_store: Callable[[], Store],
        rules: RoundRules,
        count: Callable[[Mapping[str, int]], None],
        clock: Callable[[], float],
    ) -> None:
        self._rounds, self._rules, self._count, self._clock = rounds, rules, count, clock
        self._thread = StoreThreads(open_store, 1)
        self._kept_from: int | None = None

    async def run(self) -> None:
        """Look for work every LOOK_S; what fails is tried again at the next look."""
        while True:
            try:
                await self._remove_old_days()
                await self._seal_minutes()
            except StorageError as error:
                _log.warning("keeping the database is put off: %s", error)
            except Exception:
                _log.exception("keeping the database failed; it is tried again")
            await asyncio.sleep(LOOK_S)

    async def _remove_old_days(self) -> None:
        days = self._rules.retention_days
        keep_from = day_of(int(self._clock())) - days * DAY_S
        if days and keep_from != self._kept_from:
            removed = await self._thread.use(lambda store: store.remove_before(keep_from))
            self._kept_from = keep_from
            if removed:
                _log.info("removed %s: older than %d days", ", ".join(removed), days)

    async def _seal_minutes(self) -> None:
        before = closed_before(self._clock(), self._rules)
        for device_id, minute in await self._thread.use(lambda store: store.minutes_without_digest(before)):
            while self._rounds.busy:
                await asyncio.sleep(_BUSY_S)
            begun = time.monotonic()
            await self._thread.use(_sealing(device_id, minute))
            self._count({"digests_computed": 1})
            await asyncio.sleep(time.monotonic() - begun)

    def close(self) -> None:
        """Wait for the work that runs, and close the database."""
        with suppress(StorageError):
            self._thread.close()


def _sealing(device_id: str, minute: int) -> Callable[[Store], object]:
    return lambda store: store.minute_digests(device_id, minute, minute + MINUTE_S)
