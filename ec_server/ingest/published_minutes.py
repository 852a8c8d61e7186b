"""Publishes the digests of the minute ledger to the store, so that rows need not be read again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from ec_server.ingest.minute_ledger import MinuteLedger
from ec_server.ingest.store_handle import StoreHandle
from ec_server.storage.contract import FinishedMinute
from utilities.errors import StorageError
from utilities.model import Batch
from utilities.utc import minute_of

_log = logging.getLogger(__name__)


class PublishedMinutes:
    """Not thread-safe. If digests cannot be written, nothing is lost: they are computed from the rows."""

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle
        self._ledger = MinuteLedger()

    def add(self, changed: Sequence[Batch], opened: Collection[tuple[str, int]], now_s: float) -> None:
        """Add committed batches that changed something; ``opened`` are minutes that they began."""
        self._publish(self._ledger.add(changed, opened, now_s))

    def forget(self, batches: Sequence[Batch]) -> None:
        """Stop following the minutes of these batches, as it is not known whether they were committed."""
        self._ledger.forget({(batch.device_id, minute_of(batch.second)) for batch in batches})

    def end_idle(self, now_s: float) -> None:
        """Publish the minutes for which nothing has arrived lately."""
        self._publish(self._ledger.idle(now_s))

    def end_all(self) -> None:
        """Publish all minutes, as the writer stops."""
        self._publish(self._ledger.end_all())

    def _publish(self, finished: Sequence[FinishedMinute]) -> None:
        if finished and self._handle.is_open:
            try:
                self._handle.store().publish(finished)
            except StorageError as error:
                _log.warning(
                    "cannot store digests, they will be computed from the rows when needed: %s", error
                )
