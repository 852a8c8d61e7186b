"""The supervisor with deliberately bad workers, all of them real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from ec_server.account.worker_page import WorkerPage

SCRIPT = Path(__file__).resolve().parent / "run_supervisor.py"
ROOT = SCRIPT.parent.parent.parent


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.005)


class Running:
    """A supervisor in a process of its own, and what its workers noted."""

    def __init__(self, folder: Path, workers: dict[str, str], **more: object) -> None:
        self.folder, self.names = folder, list(workers)
        program = more.pop("program", sys.executable)
        described = {
            name: {
                "behaviour": behaviour,
                "receives": name.startswith("receiver"),
                "program": program,
            }
            for name, behaviour in workers.items()
        }
        wanted = {"folder": str(folder), "workers": described, "mark": [0, 0, 0], **more}
        self.log_path = folder / f"log-{time.monotonic_ns()}"
        with self.log_path.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), json.dumps(wanted)],
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def log(self) -> str:
        return self.log_path.read_text()

    def events(self, name: str, event: str) -> list[tuple[float, int]]:
        path = self.folder / f"{name}.events"
        lines = path.read_text().splitlines() if path.exists() else []
        parts = [line.split(" ", 2) for line in lines if line.endswith(f" {event}")]
        return [(float(moment), int(pid)) for moment, pid, _ in parts]

    def pids(self) -> set[int]:
        return {pid for name in self.names for _, pid in self.events(name, "boot")}

    def alive(self) -> set[int]:
        return {pid for pid in self.pids() if is_alive(pid)}

    def wait_ready(self, name: str, times: int = 1) -> int:
        """The process id of the ``times``-th process that became ready."""
        wait_for(
            lambda: len(self.events(name, "ready")) >= times, f"{name} ready {times} times\n{self.log()}"
        )
        return self.events(name, "ready")[times - 1][1]

    def wait_log(self, text: str) -> None:
        wait_for(lambda: text in self.log(), f"{text!r} in the log:\n{self.log()}")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def page(self, name: str) -> WorkerPage:
        return WorkerPage.open(self.folder / f"{name}.page")


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(workers: dict[str, str], **more: object) -> Running:
        started.append(Running(tmp_path, workers, **more))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
    for running in started:
        for pid in running.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# --- starting -----------------------------------------------------------------------------


def test_the_server_is_up_when_every_worker_is_ready_or_degraded(run):
    running = run({"receiver-0": "good", "receiver-1": "degraded", "sync": "good"})
    running.wait_log("up: all of them")
    assert running.end() == 0
    assert running.log().count("up: all of them") == 1


@pytest.mark.parametrize("behaviour", ["refuse", "refuse_configuration"])
def test_a_worker_that_refuses_to_boot_ends_the_start_with_exit_2_and_nothing_left(run, behaviour):
    running = run({"receiver-0": "good", "receiver-1": behaviour, "sync": "good"})
    assert running.process.wait(20) == 2
    assert running.alive() == set()
    assert "the start failed: receiver-1 cannot start" in running.log()


def test_the_reason_on_the_page_is_part_of_the_message(run):
    running = run({"receiver-0": "refuse"})
    assert running.process.wait(20) == 2
    assert "receiver-0 cannot start: ended with exit code 78: port 34567 is in use" in running.log()


def test_a_worker_that_only_crashes_is_tried_a_few_times_before_the_start_fails(run):
    running = run({"receiver-0": "crash_at_once", "sync": "good"})
    assert running.process.wait(20) == 2
    boots = [moment for moment, _ in running.events("receiver-0", "boot")]
    assert len(boots) == 5
    pauses = [later - earlier for earlier, later in pairwise(boots)]
    assert all(pause >= least for pause, least in zip(pauses, (0.2, 0.4, 0.8, 1.6), strict=True)), pauses
    assert running.alive() == set()


def test_a_program_that_cannot_even_be_started_fails_the_start_and_is_named(run):
    running = run({"receiver-0": "good"}, program="/nowhere/python")
    assert running.process.wait(20) == 2
    assert "/nowhere/python" in running.log()


def test_a_worker_that_needs_a_third_try_at_the_start_gets_it(run):
    running = run({"receiver-0": "crash_twice_at_once"})
    running.wait_log("up: all of them")
    assert running.end() == 0


def test_a_worker_that_is_not_ready_in_time_is_killed_and_started_again(run):
    running = run({"receiver-0": "never_ready_once"}, limits={"boot_s": 0.5})
    running.wait_log("up: all of them")
    assert "is not ready" in running.log()
    assert running.end() == 0


def test_a_worker_that_says_what_it_waits_for_is_waited_for(run):
    running = run({"receiver-0": "wait_for_the_database"}, limits={"boot_s": 2.0})
    running.wait_log("up: all of them")
    assert len(running.events("receiver-0", "boot")) == 1
    assert running.end() == 0


# --- running ------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_within_milliseconds_and_its_sister_never_notices(run):
    running = run({"receiver-0": "good", "receiver-1": "good"})
    first, sister = running.wait_ready("receiver-0"), running.wait_ready("receiver-1")
    running.wait_log("up: all of them")
    killed_s = time.monotonic()
    os.kill(first, signal.SIGKILL)
    running.wait_ready("receiver-0", 2)
    assert running.events("receiver-0", "ready")[1][0] - killed_s < 1.0
    assert [pid for _, pid in running.events("receiver-1", "boot")] == [sister]
    assert "was killed by SIGKILL" in running.log()
    assert running.end() == 0


def test_a_worker_killed_eight_times_at_random_moments_is_back_within_two_seconds_each_time(run):
    running = run({"receiver-0": "good"})
    moments = random.Random(8)
    for times in range(1, 9):
        pid = running.wait_ready("receiver-0", times)
        time.sleep(moments.uniform(0, 0.1))
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        running.wait_ready("receiver-0", times + 1)
        assert running.events("receiver-0", "ready")[times][0] - killed_s < 2.0
    assert running.end() == 0


def test_a_worker_that_stops_answering_is_killed_and_replaced(run):
    running = run({"receiver-0": "hang_once"}, limits={"silent_s": 0.5})
    hung = running.wait_ready("receiver-0")
    assert running.wait_ready("receiver-0", 2) != hung
    assert not is_alive(hung)
    running.wait_log("has not answered for")
    assert running.end() == 0


def test_a_worker_that_crashes_in_a_loop_is_slowed_down_and_delays_nobody_else(run):
    running = run({"receiver-0": "crash_when_ready", "receiver-1": "good"})
    running.wait_log("next start in 0.2 s")
    sister = running.wait_ready("receiver-1")
    os.kill(sister, signal.SIGKILL)
    running.wait_ready("receiver-1", 2)
    assert running.events("receiver-1", "boot")[1][0] - running.events("receiver-1", "ready")[0][0] < 10
    assert running.log().count("receiver-1 (process") == 1
    assert "receiver-1" in running.log().partition("was killed by SIGKILL")[0].splitlines()[-1]
    assert running.end() == 0


def test_a_worker_that_refuses_to_boot_later_is_tried_again(run):
    running = run({"receiver-0": "refuse_second_boot"})
    running.wait_ready("receiver-0", 2)
    assert "next start in 0.2 s" in running.log()
    assert running.end() == 0


def test_a_degraded_worker_is_left_alone(run):
    running = run({"receiver-0": "degraded", "sync": "crash_when_ready"}, limits={"silent_s": 0.5})
    running.wait_ready("sync", 5)
    assert len(running.events("receiver-0", "boot")) == 1
    running.end()


def test_a_worker_that_makes_a_new_page_is_watched_by_the_new_one(run):
    running = run({"sync": "new_page"}, limits={"silent_s": 0.5, "stop_s": 1.0})
    running.wait_ready("sync", 2)
    assert "has not answered for" in running.log()


def test_a_supervisor_that_did_not_run_for_a_while_kills_nobody(run):
    running = run({"receiver-0": "good"}, limits={"silent_s": 0.8, "asleep_s": 0.7})
    worker = running.wait_ready("receiver-0")
    running.wait_log("up: all of them")
    running.process.send_signal(signal.SIGSTOP)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1.0)  # The one wait by time: what is tested is that time passes.
    running.process.send_signal(signal.SIGCONT)
    running.wait_log("the workers' time limits start again")
    os.kill(worker, signal.SIGCONT)
    assert running.end() == 0
    assert [pid for _, pid in running.events("receiver-0", "boot")] == [worker]


# --- stopping -----------------------------------------------------------------------------


@pytest.fixture
def hangups_are_heard() -> Iterator[None]:
    """Also where the tests themselves run under nohup, which what they start would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups_are_heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_receivers_drain_before_the_others_are_told(run, number):
    running = run({"receiver-0": "drain_slowly", "sync": "good", "status": "good"})
    running.wait_log("up: all of them")
    assert running.end(number) == 0
    drained_s = running.events("receiver-0", "end")[0][0]
    assert all(running.events(name, "end")[0][0] >= drained_s for name in ("sync", "status"))
    assert running.alive() == set()
    page = running.page("sync")
    assert page.state() == ("dead", "ended with exit code 0")
    page.close()


def test_a_worker_that_ignores_sigterm_is_killed_at_the_deadline_and_the_exit_code_says_so(run):
    running = run(
        {"receiver-0": "ignore_term", "sync": "good"}, limits={"stop_s": 1.0, "receivers_stop_s": 0.5}
    )
    running.wait_log("up: all of them")
    assert running.end() == 1
    assert running.alive() == set()
    assert "did not end in time: killed" in running.log()
    assert running.events("sync", "end")


def test_a_worker_that_fails_while_it_drains_makes_the_exit_code_1(run):
    running = run({"receiver-0": "fail_at_the_end", "sync": "good"})
    running.wait_log("up: all of them")
    assert running.end() == 1
    assert "ended with exit code 5" in running.log()


def test_a_second_interrupt_hurries_the_stop(run):
    running = run({"receiver-0": "ignore_term", "sync": "good"}, limits={"hurried_stop_s": 0.3})
    running.wait_log("up: all of them")
    running.process.send_signal(signal.SIGINT)
    running.wait_log("stopping")
    assert running.end(signal.SIGINT) == 1
    assert "SIGINT again" in running.log()
    assert running.alive() == set()


def test_a_stop_before_the_start_is_over_ends_cleanly(run):
    running = run({"receiver-0": "never_ready", "sync": "good"})
    running.wait_ready("sync")
    assert running.end() == 0
    assert running.alive() == set()


def test_a_ctrl_c_in_the_terminal_reaches_only_the_launcher(run):
    running = run({"receiver-0": "good"})
    worker = running.wait_ready("receiver-0")
    assert os.getsid(worker) == worker
    assert os.getpgid(worker) != os.getpgid(running.process.pid)
    assert running.end(signal.SIGINT) == 0
    assert running.events("receiver-0", "interrupted") == []


def test_sighup_is_ignored_where_it_was_ignored_at_the_start(run):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # What nohup does.
    try:
        running = run({"receiver-0": "good"})
    finally:
        signal.signal(signal.SIGHUP, former)
    running.wait_log("up: all of them")
    running.process.send_signal(signal.SIGHUP)
    os.kill(running.wait_ready("receiver-0"), signal.SIGKILL)
    running.wait_ready("receiver-0", 2)
    assert running.end() == 0


# --- the launcher's own death -------------------------------------------------------------


def test_no_worker_outlives_a_launcher_that_was_killed(run):
    running = run({"receiver-0": "good", "receiver-1": "good", "sync": "good"})
    running.wait_log("up: all of them")
    assert not any(running.events(name, "orphaned") for name in running.names)
    running.end(signal.SIGKILL)
    wait_for(lambda: not running.alive(), "no orphans")
    assert all(len(running.events(name, "orphaned")) == 1 for name in running.names)


def test_a_second_launcher_refuses_while_the_first_one_lives(run):
    first = run({"receiver-0": "good"})
    first.wait_log("up: all of them")
    second = run({"receiver-0": "good"})
    assert second.process.wait(20) == 1
    assert f"in use by another server, process {first.process.pid}" in second.log()
    assert first.end() == 0


def test_the_next_launcher_waits_for_the_orphans_of_one_that_was_killed(run):
    first = run({"receiver-0": "drain_slowly"})
    first.wait_log("up: all of them")
    first.end(signal.SIGKILL)
    second = run({"receiver-0": "good"})
    second.wait_log("up: all of them")
    ended_s = first.events("receiver-0", "end")[0][0]
    assert second.events("receiver-0", "boot")[1][0] > ended_s
    assert second.end() == 0


def test_the_next_launcher_kills_an_orphan_that_does_not_end(run):
    first = run({"receiver-0": "deaf"})
    first.wait_log("up: all of them")
    first.end(signal.SIGKILL)
    deaf = first.wait_ready("receiver-0")
    second = run({"receiver-0": "good"}, orphans_end_s=0.3)
    second.wait_log("up: all of them")
    assert not is_alive(deaf)
    assert f"process {deaf} of a server that was killed does not end" in second.log()
    assert second.end() == 0
