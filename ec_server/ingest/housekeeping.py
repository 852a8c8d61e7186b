"""A writer's periodic work: live figures, recording devices, idle minutes, the database's health."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ec_server.ingest.live_figures import MOST_DEVICES, LiveFigures
from ec_server.ingest.published_minutes import PublishedMinutes
from ec_server.ingest.spooling import Spooling
from ec_server.ingest.store_handle import StoreHandle
from ec_server.ingest.troubles import Troubles
from ec_server.storage.contract import Store
from utilities.errors import StorageError
from utilities.log import RateLimit

_INTERVAL_S = 1.0
_MOST_KNOWN = 2 * MOST_DEVICES
"""Device ids that are remembered as known; beyond this, all are forgotten and looked up again."""
_MOST_TOLD = 50
"""New devices per interval that are looked up and logged; there may be thousands of invented ids."""

_log = logging.getLogger(__name__)


class Housekeeping:
    """Not thread-safe."""

    def __init__(
        self,
        handle: StoreHandle,
        minutes: PublishedMinutes,
        live: LiveFigures,
        troubles: Troubles,
        spooling: Spooling | None,
    ) -> None:
        self._handle = handle
        self._minutes = minutes
        self._live = live
        self._troubles = troubles
        self._spooling = spooling
        self._next_s = 0.0
        self._known: set[str] = set()
        """Devices from which this process has received before."""
        self._newcomers = RateLimit(burst=20)

    def is_due(self, now_s: float) -> bool:
        """Whether ``do`` has something to do."""
        return now_s >= self._next_s

    def do(self, now_s: float) -> None:
        """Called once per second; an unavailable database is reported, and tried again the next time."""
        self._next_s = now_s + _INTERVAL_S
        seen = self._live.write_when_due(now_s)
        self._minutes.end_idle(now_s)
        if self._spooling is not None and self._spooling.engaged:
            self._troubles.say("health", "")  # the drainer reports the state of the database
            return
        try:
            store = self._handle.store()
            if seen:
                self._tell_newcomers(store, seen)
                store.note_devices({device_id: int(s * 1e6) for device_id, s in seen.items()})
            self._troubles.say("health", store.health().detail)
        except StorageError as error:
            self._troubles.say("health", str(error))

    def _tell_newcomers(self, store: Store, seen: Iterable[str]) -> None:
        """Log the first contact of each unknown device, at a limited rate."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        newcomers = sorted(set(seen) - self._known)
        self._known.update(newcomers)
        for device_id in newcomers[:_MOST_TOLD]:
            if store.device(device_id) is None and self._newcomers.allow("newcomer")[0]:
                _log.info("heard for the first time", extra={"device": device_id})
