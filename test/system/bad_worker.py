"""A worker that behaves as it is told on its command line: ``bad_worker.py PAGE EVENTS BEHAVIOUR``.

It writes one line an event, ``MONOTONIC_S PID EVENT``, to the file EVENTS.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ec_server.account.figures import RECEIVER_FIGURES
from ec_server.account.worker_page import WorkerPage

PAGE, EVENTS, BEHAVIOUR = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def note(event: str) -> None:
    with EVENTS.open("a") as file:
        file.write(f"{time.monotonic()} {os.getpid()} {event}\n")


def earlier_boots() -> int:
    return EVENTS.read_text().count(" boot") - 1


class Worker:
    def __init__(self, ignore_term: bool = False, ignore_eof: bool = False) -> None:
        self.ignore_eof = ignore_eof
        self.asked = False
        handler = signal.SIG_IGN if ignore_term else self.ask
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, lambda *_: note("interrupted"))
        self.page = WorkerPage.create(PAGE, RECEIVER_FIGURES)

    def ask(self, *_: object) -> None:
        self.asked = True

    def ready(self, state: str = "ready") -> None:
        self.page.set_state(state)
        self.page.beat()
        note("ready")

    def work(self, for_s: float = 3600.0) -> None:
        """Beat until asked, until the launcher is gone, or for a while."""
        until = time.monotonic() + for_s
        while not self.asked and time.monotonic() < until:
            self.page.beat()
            readable = [] if self.ignore_eof else [0]
            if select.select(readable, [], [], 0.02)[0] and not os.read(0, 1):
                note("orphaned")
                return

    def end(self, code: int = 0) -> None:
        note("end")
        os._exit(code)


def good() -> None:
    worker = Worker()
    worker.ready()
    worker.work()
    worker.end()


def degraded() -> None:
    worker = Worker()
    worker.ready("degraded")
    worker.work()
    worker.end()


def hang_when_ready() -> None:
    worker = Worker(ignore_term=True)
    worker.ready()
    time.sleep(3600)


def hang_once() -> None:
    hang_when_ready() if earlier_boots() == 0 else good()


def never_ready() -> None:
    worker = Worker()
    worker.work()
    worker.end()


def never_ready_once() -> None:
    never_ready() if earlier_boots() == 0 else good()


def wait_for_the_database() -> None:
    worker = Worker()
    worker.page.set_state("starting", "the database is away")
    worker.work(2.5)
    worker.ready()
    worker.work()
    worker.end()


def crash_at_once() -> None:
    os._exit(1)


def crash_twice_at_once() -> None:
    os._exit(1) if earlier_boots() < 2 else good()


def crash_when_ready() -> None:
    worker = Worker()
    worker.ready()
    worker.work(0.05)
    worker.end(3)


def ignore_term() -> None:
    worker = Worker(ignore_term=True)
    worker.ready()
    worker.work()
    worker.end()


def deaf() -> None:
    worker = Worker(ignore_term=True, ignore_eof=True)
    worker.ready()
    worker.work()


def refuse() -> None:
    worker = Worker()
    worker.page.set_state("starting", "port 34567 is in use")
    worker.end(78)


def refuse_configuration() -> None:
    os._exit(2)


def refuse_second_boot() -> None:
    {0: crash_when_ready, 1: refuse}.get(earlier_boots(), good)()


def drain_slowly() -> None:
    worker = Worker()
    worker.ready()
    worker.work()
    time.sleep(0.3)
    worker.end()


def fail_at_the_end() -> None:
    worker = Worker()
    worker.ready()
    worker.work()
    worker.end(5)


def new_page() -> None:
    """Replace the page by one of another shape, as a program of another version would."""
    Worker().page.close()
    page = WorkerPage.create(PAGE, ("another",))
    page.set_state("ready")
    note("ready")
    time.sleep(3600)


BEHAVIOURS: dict[str, Callable[[], None]] = {
    name: value for name, value in list(globals().items()) if callable(value) and name.islower()
}

note("boot")
BEHAVIOURS[BEHAVIOUR]()
