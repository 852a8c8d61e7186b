"""What prevents a writer from storing, by cause: reported to the SIP process, and logged on changes.

Causes are independent: the end of one does not hide another. Thread-safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

CAUSES = ("database", "spool", "slow", "health")
"""In the order of reporting: database and spool refuse, a call takes long, the disk is full."""

_log = logging.getLogger(__name__)


class Troubles:
    """The present troubles."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """``tell`` is called with the text at first and whenever it changes; "" if there is no trouble."""
        self._tell = tell
        self._texts = dict.fromkeys(CAUSES, "")
        self._told: str | None = None
        self._lock = threading.Lock()

    def say(self, cause: str, text: str) -> None:
        """Set the trouble of ``cause``, one of CAUSES; "" if there is none."""
        with self._lock:
            self._texts[cause] = text
            now = "; ".join(filter(None, self._texts.values()))
            if now == self._told:
                return
            if now:
                _log.error("cannot store as usual: %s", now)
            elif self._told:
                _log.info("storing again")
            self._told = now
            self._tell(now)
