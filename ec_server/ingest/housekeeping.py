"""What a writer does now and then: live figures, devices on record, silent minutes, the database's health."""

from __future__ import annotations

from ec_server.ingest.live_figures import LiveFigures
from ec_server.ingest.published_minutes import PublishedMinutes
from ec_server.ingest.spooling import Spooling
from ec_server.ingest.store_handle import StoreHandle
from ec_server.ingest.troubles import Troubles
from utilities.errors import StorageError

_INTERVAL_S = 1.0


class Housekeeping:
    """One thread at a time."""

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

    def is_due(self, now_s: float) -> bool:
        """Whether ``do`` has something to do."""
        return now_s >= self._next_s

    def do(self, now_s: float) -> None:
        """Once a second; a database that is away is told, and tried again the next time."""
        self._next_s = now_s + _INTERVAL_S
        seen = self._live.write_when_due(now_s)
        self._minutes.end_idle(now_s)
        if self._spooling is not None and self._spooling.engaged:
            self._troubles.say("health", "")  # the drainer tells what the database says
            return
        try:
            store = self._handle.store()
            if seen:
                store.note_devices({device_id: int(s * 1e6) for device_id, s in seen.items()})
            self._troubles.say("health", store.health().detail)
        except StorageError as error:
            self._troubles.say("health", str(error))
