"""What prevents a writer from storing, by cause: reported to the SIP process, and logged when it changes.

Causes are independent: the end of one does not hide another. Threads may share it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

CAUSES = ("database", "spool", "slow", "health")
"""In the order in which they are reported: database and spool refuse, a call takes long, the disk is full."""

_log = logging.getLogger(__name__)


class Troubles:
    """The troubles of the moment."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """``tell`` is given the text whenever it changes, "" once all is well; at first, too."""
        self._tell = tell
        self._texts = dict.fromkeys(CAUSES, "")
        self._told: str | None = None
        self._lock = threading.Lock()

    def say(self, cause: str, text: str) -> None:
        """What ``cause``, one of CAUSES, is at the moment; "" if nothing is wrong."""
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
