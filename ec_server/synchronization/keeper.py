"""Maintenance of the database in the background: digests of closed minutes, retention.

Rules:

1. Low priority: one minute at a time, followed by a pause as long as the work took, and nothing while rounds
   run. Digests that are not computed here are computed when they are needed.
2. It has its own thread and database connection, so that no device waits for it.
3. Retention depends on the stored data as well as on the clock; see retention.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from ec_server.storage.contract import Store
from ec_server.synchronization.coverage import RoundRules, closed_before
from ec_server.synchronization.retention import SteadyClock, first_kept_day
from ec_server.synchronization.store_threads import StoreThreads
from utilities.errors import PermanentStorageError, StorageError
from utilities.utc import MINUTE_S, minute_text

LOOK_S = 20.0
_BUSY_S = 0.2

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


def _uptime_s() -> float:
    """Seconds since the machine started, including those in suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Keeper:
    """Runs until it is cancelled."""

    def __init__(
        self,
        rounds: StoreThreads,
        open_store: Callable[[], Store],
        rules: RoundRules,
        count: Callable[[Mapping[str, int]], None],
        clock: Callable[[], float],
        uptime: Callable[[], float] = _uptime_s,
    ) -> None:
        self._rounds, self._rules, self._count = rounds, rules, count
        self._clock, self._uptime, self._steady = clock, uptime, SteadyClock()
        self._thread = StoreThreads(open_store, 1)
        self._kept_from: int | None = None

    async def run(self) -> None:
        """Look for work every LOOK_S."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Do what is due; a failure stops nothing else, and is tried again at the next look."""
        for work in (self._remove_old_days, self._cache_digests):
            try:
                await work()
            except StorageError as error:
                _log.warning("maintenance of the database is postponed: %s", error)
            except Exception:
                _log.exception("maintenance of the database failed; trying again later")

    async def _remove_old_days(self) -> None:
        days = self._rules.retention_days
        now_s = self._steady.now(self._clock(), self._uptime())
        # The newest data is looked up only if, by the clock, a day may have to be removed.
        if not days or first_kept_day(now_s, int(now_s), days) == self._kept_from:
            return
        latest = await self._thread.use(lambda store: store.latest_second())
        if latest is None or (keep_from := first_kept_day(now_s, latest, days)) == self._kept_from:
            return
        removed = await self._thread.use(lambda store: store.remove_before(keep_from))
        self._kept_from = keep_from
        if removed:
            _log.info("removed %s: older than %d days", ", ".join(removed), days)

    async def _cache_digests(self) -> None:
        before = closed_before(self._clock(), self._rules)
        for device_id, minute in await self._thread.use(lambda store: store.minutes_without_digest(before)):
            while self._rounds.busy:
                await asyncio.sleep(_BUSY_S)
            begun = time.monotonic()
            try:
                await self._thread.use(_caching(device_id, minute))
                self._count({"digests_computed": 1})
            except PermanentStorageError as error:
                _log.warning("cannot compute the digest of %s %s: %s", device_id, minute_text(minute), error)
            await asyncio.sleep(time.monotonic() - begun)

    def close(self) -> None:
        """Wait for running work, and close the database."""
        with suppress(StorageError):
            self._thread.close()


def _caching(device_id: str, minute: int) -> Callable[[Store], object]:
    return lambda store: store.minute_digests(device_id, minute, minute + MINUTE_S)
