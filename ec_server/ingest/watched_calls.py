"""A thread for calls that may wait for a disk or a database, while the caller continues its heartbeat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ec_server.ingest.call_watch import CallWatch, activity_of
from ec_server.ingest.troubles import Troubles

_LOOK_INTERVAL_S = 0.5


class WatchedCalls:
    """``begin`` a call, then ``end`` it; one at a time, from one thread."""

    def __init__(self, beat: Callable[[], None], troubles: Troubles) -> None:
        """``beat`` is called about twice a second while waiting for a call, unless it is stuck."""
        self._beat = beat
        self._troubles = troubles
        self._pool = ThreadPoolExecutor(1, "write")
        self._thread_id: int | None = None
        self._under_way: Future[None] | None = None
        self._began_s = 0.0
        self._steps = 0

    def count_step(self) -> None:
        """Report progress of the current call, such as waiting for a database known to be unavailable."""
        self._steps += 1

    def begin(self, call: Callable[[], None]) -> None:
        """Start ``call``; the previous one must have ended."""
        self._began_s = time.monotonic()
        self._under_way = self._pool.submit(self._run, call)

    def _run(self, call: Callable[[], None]) -> None:
        self._thread_id = threading.get_native_id()
        call()

    def end(self) -> None:
        """Wait for the current call, if there is one; raises what it raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        watch, was_slow = CallWatch(self._began_s), False
        while wait((under_way,), _LOOK_INTERVAL_S).not_done:
            now_s = time.monotonic()
            watch.look(now_s, activity_of(self._thread_id, self._steps))
            if trouble := watch.trouble(now_s):
                was_slow = True
                self._troubles.say("slow", trouble)
            if not watch.is_stuck(now_s):
                self._beat()
        if was_slow:
            self._troubles.say("slow", "")
        under_way.result()

    def run(self, call: Callable[[], None]) -> None:
        """``begin`` and ``end``."""
        self.begin(call)
        self.end()

    def close(self) -> None:
        """Wait for the current call, and accept no more."""
        self._pool.shutdown()
