"""A worker's page shared by two threads: the one that commits and the one that drains the spool."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from ec_server.account.worker_page import WorkerPage


class LockedPage:
    """``apply`` may be called from any thread."""

    def __init__(self, page: WorkerPage) -> None:
        self.page = page
        self._lock = threading.Lock()

    def apply(self, changes: Mapping[str, int]) -> None:
        """Add to several figures in one step."""
        with self._lock:
            self.page.apply(changes)
