"""Keeps the workers running until a stop is requested, then stops them in order.

The loop looks, decides and waits; the decisions are made by pure code (restart_policy.py, stop_plan.py).

Rules:

1. A worker has a fixed name and page; its processes come and go (child.py). Between a death and the next
   start, the supervisor writes the page, which then says why the process died.
2. The start is complete when every worker has been ready (or degraded) once. If a worker fails to boot before
   it ever was ready, the server ends: everything is stopped, exit code 2.
3. A worker that hangs is killed, and treated like one that died.
4. Time during which the supervisor itself did not run does not count, so that a machine that was suspended
   does not kill all its workers when it wakes up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from time import monotonic

from ec_server.account.worker_page import WorkerPage
from ec_server.supervision.child import Child, Outcome
from ec_server.supervision.plan import ChildPlan
from ec_server.supervision.restart_policy import (
    Life,
    Limits,
    RestartHistory,
    cannot_boot,
    why_hung,
)
from ec_server.supervision.sd_notify import ServiceState
from ec_server.supervision.stop_plan import StopPlan
from ec_server.supervision.stop_signals import StopSignals
from utilities.exit_codes import EXIT_CONFIGURATION

TICK_S = 0.5
"""How often the pages are checked while nothing happens; deaths and signals are noticed at once."""
BOOT_TICK_S = 0.02
"""The same while a worker is starting."""

_log = logging.getLogger(__name__)


class Worker:
    """A worker's name, page and history, and its present process."""

    def __init__(self, plan: ChildPlan) -> None:
        self.plan = plan
        self.child: Child | None = None
        self.history = RestartHistory()
        self.due_s = 0.0
        self.died_s: float | None = None
        self.was_ready = False
        """Whether one of its processes has been ready."""
        self._open_page()

    def _open_page(self) -> None:
        self.page = WorkerPage.create(self.plan.page, self.plan.figures)
        self._file = _identity(self.plan.page)

    def look_at_page(self) -> tuple[str, str]:
        """State and reason, from the page that the process writes, even if it has made a new one."""
        if _identity(self.plan.page) not in {self._file, None}:
            former = self.page
            self.page, self._file = WorkerPage.open(self.plan.page), _identity(self.plan.page)
            former.close()
        return self.page.state()

    def prepare_page(self) -> None:
        """Prepare the page for a process about to start; only while there is none."""
        if _identity(self.plan.page) != self._file:
            former = self.page
            self._open_page()
            former.close()
        self.page.set_state("starting")
        self.page.beat()


class Supervisor:
    """Runs the planned workers; ``run`` returns the exit code. For the main thread only."""

    def __init__(
        self,
        plans: Sequence[ChildPlan],
        environ: Mapping[str, str],
        signals: StopSignals,
        *,
        up_line: str,
        keep_open: Sequence[int] = (),
        service: ServiceState | None = None,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
    ) -> None:
        """Raises OSError if a page cannot be created."""
        self._workers = [Worker(plan) for plan in plans]
        self._environ, self._signals, self._keep_open = environ, signals, tuple(keep_open)
        self._up_line, self._limits = up_line, limits
        self._service = service or ServiceState(None)
        self._up = False
        self._stop: StopPlan | None = None
        self._exit_code = 0
        self._seen_requests = 0
        self._awake_since = self._last_look = monotonic()

    def run(self) -> int:
        """Start everything, and keep it running until the stop.

        Returns 0 if every process ended cleanly, 1 if one was killed or failed at its end, 2 if the start
        failed.
        """
        while True:
            now = monotonic()
            self._note_gap(now)
            self._service.alive(now)
            self._hear_signals(now)
            self._reap(now)
            if self._stop is None:
                self._watch(now)
                self._start_due(now)
                self._announce()
            else:
                self._service.stopping()
                if self._go_on_stopping(self._stop, now):
                    return self._exit_code
            self._signals.wait(self._pause_s())

    # --- one look -------------------------------------------------------------------------

    def _note_gap(self, now: float) -> None:
        if now - self._last_look > self._limits.asleep_s:
            _log.warning(
                "did not run for %.1f s: the workers' time limits start again", now - self._last_look
            )
            self._awake_since = now
        self._last_look = now

    def _hear_signals(self, now: float) -> None:
        requests, self._seen_requests = self._signals.requests - self._seen_requests, self._signals.requests
        if requests <= 0:
            return
        if self._stop is None:
            _log.info("%s: stopping; receivers drain first", self._signals.last)
            self._stop, requests = StopPlan(self._limits, now), requests - 1
        if requests:
            _log.warning(
                "%s again: ending everything within %g s", self._signals.last, self._limits.hurried_stop_s
            )
            self._stop = self._stop.hurried(now)

    def _reap(self, now: float) -> None:
        for worker in self._workers:
            outcome = worker.child.outcome() if worker.child else None
            if outcome is not None:
                self._bury(worker, outcome, now)

    def _watch(self, now: float) -> None:
        for worker in self._workers:
            child = worker.child
            if child is None or child.killed:
                continue
            state, reason = worker.look_at_page()
            if state in {"ready", "degraded"}:
                self._note_ready(worker, child, now)
            awake_s = now - self._awake_since
            hung = why_hung(
                state,
                reason,
                min(now - child.started_s, awake_s),
                min(worker.page.silent_for_s(), awake_s),
                self._limits,
            )
            if hung:
                _log.error("%s (process %d) %s: killed", worker.plan.name, child.pid, hung)
                child.kill()

    def _start_due(self, now: float) -> None:
        for worker in self._workers:
            if self._stop is None and worker.child is None and now >= worker.due_s:
                self._start(worker, now)

    def _announce(self) -> None:
        if not self._up and all(worker.was_ready for worker in self._workers):
            self._up = True
            self._service.ready(self._up_line)
            _log.info("%s", self._up_line)

    def _pause_s(self) -> float:
        now = monotonic()
        booting = any(w.child is not None and w.child.ready_s is None for w in self._workers)
        pauses = [BOOT_TICK_S if booting and self._stop is None else TICK_S]
        if self._stop is not None:
            pauses += [self._stop.kill_s() - now] if not self._stop.kills(now) else []
        else:
            pauses += [w.due_s - now for w in self._workers if w.child is None]
        return max(0.001, min(pauses))

    # --- one worker -----------------------------------------------------------------------

    def _start(self, worker: Worker, now: float) -> None:
        try:
            worker.prepare_page()
            worker.child = Child(worker.plan, self._environ, self._keep_open)
        except OSError as error:
            worker.page.set_state("dead", str(error))
            pause = self._plan_restart(worker, Life(now, None, now), 1, str(error))
            _log.error("%s cannot be started: %s; %s", worker.plan.name, error, pause)

    def _note_ready(self, worker: Worker, child: Child, now: float) -> None:
        if child.ready_s is not None:
            return
        child.saw_ready(now)
        worker.was_ready = True
        if worker.died_s is not None:
            back_s = now - worker.died_s
            _log.info("%s is back after %.2f s (process %d)", worker.plan.name, back_s, child.pid)

    def _bury(self, worker: Worker, outcome: Outcome, now: float) -> None:
        """Note that a process has ended, and plan what follows."""
        state, reason = worker.look_at_page()
        if outcome.life.ready_s is None and state in {"ready", "degraded"} and worker.child:
            self._note_ready(worker, worker.child, now)
            outcome = worker.child.outcome() or outcome
        worker.child, worker.died_s = None, now
        why = f"{outcome.text}: {reason}" if reason else outcome.text
        worker.page.set_state("dead", why)
        if self._stop is None:
            pause = self._plan_restart(worker, outcome.life, outcome.code, why)
            _log.error(
                "%s (process %d, %.1f s old) %s; %s",
                worker.plan.name,
                outcome.pid,
                outcome.lived_s,
                why,
                pause,
            )
        elif not outcome.clean:
            self._exit_code = self._exit_code or 1
            _log.error("%s (process %d) %s", worker.plan.name, outcome.pid, why)

    def _plan_restart(self, worker: Worker, life: Life, code: int, why: str) -> str:
        """Note a death and plan the restart; returns the plan in words, for the log."""
        worker.history = worker.history.after(life)
        if not worker.was_ready and cannot_boot(worker.history, code):
            _log.critical("the start failed: %s cannot start: %s", worker.plan.name, why)
            self._exit_code = EXIT_CONFIGURATION
            self._stop = StopPlan(self._limits, life.ended_s)
            return "no further start"
        pause_s = worker.history.pause_s()
        worker.due_s = life.ended_s + pause_s
        return f"next start in {pause_s:.1f} s" if pause_s else "next start at once"

    # --- the end --------------------------------------------------------------------------

    def _go_on_stopping(self, stop: StopPlan, now: float) -> bool:
        """Stop the processes whose turn it is; returns whether all have ended."""
        alive = [(worker, worker.child) for worker in self._workers if worker.child]
        receivers_left = sum(worker.plan.receives for worker, _ in alive)
        for worker, child in alive:
            if worker.plan.receives or stop.tells_others(now, receivers_left):
                child.ask_to_stop()
            if stop.kills(now) and not child.killed:
                _log.error("%s (process %d) did not end in time: killed", worker.plan.name, child.pid)
                child.kill()
        if not alive:
            _log.info("stopped after %.1f s", max(0.0, now - stop.asked_s))
        return not alive


def _identity(path: os.PathLike[str]) -> tuple[int, int] | None:
    """Distinguishes a file from one that has its name later; None if there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino
