"""Runs the processes of meters: starts them together, prints their reports, ends them together.

Exit code 0 if all ended well and, if messages were due, at least one was acknowledged; 1 otherwise.
"""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from reference_client.meter_figures import Figures, all_in_vain, describe, line, total
from reference_client.meter_process import Begin, run
from reference_client.plan import ProcessPlan

_READY_S = 60.0
_AHEAD_S = 0.3
_END_S = 10.0


class Fleet:
    """All processes of meters, and their reports."""

    def __init__(self, plans: Sequence[ProcessPlan]) -> None:
        self._plans = plans
        self._stop = False
        self._processes: dict[Connection, SpawnProcess] = {}
        self._figures: dict[str, Figures] = {}
        self._names: dict[Connection, str] = {}

    def run(self) -> int:
        """Start all processes, print one line per second, and end them."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by the children, so that they ignore Ctrl-C
        try:
            for plan in self._plans:
                self._start(plan)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._asked_to_stop)
            self._begin()
            self._watch()
        finally:
            self._end()
        done = total(self._figures.values())
        print(describe(done), flush=True)
        if all_in_vain(done):
            sip = self._plans[0].sip
            print(
                f"no message was acknowledged: does a server listen on {sip.host} port {sip.port} "
                f"over {sip.transport}?",
                file=sys.stderr,
            )
            return 1
        return 0 if all(process.exitcode == 0 for process in self._processes.values()) else 1

    def _start(self, plan: ProcessPlan) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=run, args=(plan, theirs), name=plan.name, daemon=True)
        process.start()
        theirs.close()
        self._processes[ours], self._names[ours] = process, plan.name

    def _asked_to_stop(self, *_: object) -> None:
        self._stop = True

    def _begin(self) -> None:
        """Wait until every process is ready or has ended, then let all begin at the same time."""
        deadline, waiting = time.monotonic() + _READY_S, set(self._processes)
        while waiting and not self._stop and time.monotonic() < deadline:
            for pipe in multiprocessing.connection.wait(list(waiting), 0.1):
                if isinstance(pipe, Connection):
                    self._take(pipe)
                    waiting.discard(pipe)
        begin = begin_of(self._plans[0].start, time.time() + _AHEAD_S)
        for pipe in self._processes:
            with suppress(OSError):  # it has ended; _watch notices that
                pipe.send(begin)

    def _watch(self) -> None:
        before, print_at = Figures(), time.monotonic() + 1
        open_pipes = set(self._processes)
        while open_pipes and not self._stop:
            wait_s = max(0.0, min(0.2, print_at - time.monotonic()))
            for pipe in multiprocessing.connection.wait(list(open_pipes), wait_s):
                if isinstance(pipe, Connection) and not self._take(pipe):
                    open_pipes.discard(pipe)
            if time.monotonic() >= print_at:
                now = total(self._figures.values())
                print(line(len(self._devices), before, now), flush=True)
                before, print_at = now, print_at + 1

    def _take(self, pipe: Connection) -> bool:
        """Take one report; False if the process has ended."""
        try:
            word = pipe.recv()
        except (EOFError, OSError):
            return False
        if isinstance(word, Figures):
            self._figures[self._names[pipe]] = word
        return True

    def _end(self) -> None:
        for pipe in self._processes:
            with suppress(OSError):
                pipe.send("stop")
        deadline = time.monotonic() + _END_S
        for pipe, process in self._processes.items():
            while pipe.poll(max(0.0, deadline - time.monotonic())) and self._take(pipe):
                pass
            process.join(max(0.1, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    @property
    def _devices(self) -> list[str]:
        return [device_id for plan in self._plans for _, device_id in plan.devices]


def begin_of(start: int | None, at: float) -> Begin:
    """Recording from ``start`` begins at once; from now (None), at the next whole second."""
    return Begin(math.ceil(at), float(math.ceil(at))) if start is None else Begin(start, at)
