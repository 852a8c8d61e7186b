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
    """One thread at a time. Digests are a cache: where they cannot be written, the rows say the same."""

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle
        self._ledger = MinuteLedger()

    def add(self, changed: Sequence[Batch], opened: Collection[tuple[str, int]], now_s: float) -> None:
        """These were committed, and changed something; ``opened`` are minutes that they began."""
        self._publish(self._ledger.add(changed, opened, now_s))

    def forget(self, batches: Sequence[Batch]) -> None:
        """It is not known whether these were committed: their minutes are not followed any longer."""
        self._ledger.forget({(batch.device_id, minute_of(batch.second)) for batch in batches})

    def end_idle(self, now_s: float) -> None:
        """Publish the minutes that nothing came for lately."""
        self._publish(self._ledger.idle(now_s))

    def end_all(self) -> None:
        """Publish all of them: the writer stops."""
        self._publish(self._ledger.end_all())

    def _publish(self, finished: Sequence[FinishedMinute]) -> None:
        if finished and self._handle.is_open:
            try:
                self._handle.store().publish(finished)
            except StorageError as error:
                _log.warning(
                    "cannot store digests, they will be computed from the rows when needed: %s", error
                )
