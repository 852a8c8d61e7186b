"""An hour at 70 % of capacity with a round every minute, packing on and a fault every minute.

Memory, descriptors and threads of each process stay flat, and every minute ends proven.
What a meter could not send within five seconds it does not send later; the next round fetches it.
Capacity is what the server takes while it packs as much: PACKING of what it is measured to take at first.
``EC_TEST_SOAK_MINUTES`` is how long (60), ``EC_TEST_SOAK_RATE`` how many messages per second (0: 70 % of
capacity).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path
from statistics import median

import psutil
import pytest
from needs import unavailable
from system.faults.actions import ACTIONS, Stage
from system.faults.oracle import check_files, check_log
from system.faults.plan import Fault
from system.faults.planned_recording import PlannedRecording
from system.faults.preloaded import Preloaded, can_fail_calls
from system.faults.subject import Subject, wait_until
from system.faults.watch import check_account, figures_of

from ec_server.storage.sqlite_store import SqliteStore
from reference_client.load_generator import run_load
from reference_client.load_plan import LoadPlan
from reference_client.sync_answerer import SyncAnswerer, SyncSettings
from utilities.model import MinuteState
from utilities.utc import MINUTE_S

MINUTES = float(os.environ.get("EC_TEST_SOAK_MINUTES", "60"))
RATE = float(os.environ.get("EC_TEST_SOAK_RATE", "0"))
SHARE, DEVICES = 0.7, 8
CALIBRATION_MESSAGES = 600_000
"""Many times what the server may have received and not stored yet."""
PACKING = 0.75
"""What packing that keeps pace leaves at least (``python -m benchmarks pace``)."""
LOOK_S, FAULT_EVERY_S = 5.0, 60.0
SETTINGS = {
    "EC_SIP_RECEIVERS": "1",
    "EC_SYNC_SYNCFREQ": "1",
    "EC_STORAGE_PACK_AFTER_HOURS": "0.02",
    "EC_STORAGE_MIN_FREE_MB": "1",
}
FAULTS = (
    ("kill", "writer", 0.0),
    ("freeze", "sync", 2.0),
    ("write-error", "writer", 2.0),
    ("kill", "receiver", 0.0),
    ("locked", "", 3.0),
    ("kill", "sync", 0.0),
    ("sync-error", "writer", 2.0),
    ("freeze", "writer", 2.0),
    ("kill", "status", 0.0),
    ("some-errors", "sync", 2.0),
    ("freeze", "receiver", 1.0),
)
ROLES = ("launcher", "receiver", "writer", "sync", "status")

Use = tuple[float, int, int]
"""Resident megabytes, descriptors, threads."""


class Faults:
    """One fault after the other, at a random moment of each minute."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._kinds, self._choose = stage, cycle(FAULTS), random.Random(1)
        self._due_s = time.monotonic() + FAULT_EVERY_S / 2
        self.done = 0

    def act_when_due(self) -> None:
        if time.monotonic() < self._due_s:
            return
        kind, target, for_s = next(self._kinds)
        fault = Fault(kind, target, self._due_s, for_s, self._choose.random())
        begin, end = ACTIONS[kind]
        begin(self._stage, fault)
        time.sleep(for_s)
        end(self._stage, fault)
        self.done += 1
        self._due_s += FAULT_EVERY_S * self._choose.uniform(0.8, 1.2)


def use_of(pid: int) -> Use:
    process = psutil.Process(pid)
    memory = process.memory_info()
    return (memory.rss - memory.shared) / 2**20, process.num_fds(), process.num_threads()


def look(subject: Subject, seen: dict[str, list[Use]]) -> None:
    for role in ROLES:
        for pid in subject.pids(role):
            with suppress(psutil.Error):
                seen[role].append(use_of(pid))
    answer = subject.get("/metrics")
    if answer is not None and answer.status_code == 200:
        check_account(figures_of(answer.text))


def assert_flat(role: str, uses: list[Use]) -> None:
    """The last third is no more than the middle third, but for a little."""
    third = len(uses) // 3
    middle, last = uses[third : 2 * third], uses[2 * third :]
    for what, index, slack in (("megabytes", 0, 24.0), ("descriptors", 1, 6), ("threads", 2, 2)):
        before, after = (median(sorted(use[index] for use in part)) for part in (middle, last))
        assert after <= before * 1.15 + slack, f"{role}: {what} went from {before} to {after}"


def capacity(subject: Subject) -> float:
    """Messages per second that the server takes while it packs as much."""
    plan = LoadPlan(port=subject.sip_port, devices=DEVICES, messages=CALIBRATION_MESSAGES, prefix="warm")
    return PACKING * run_load(plan).per_second


def unproven(subject: Subject, recording: PlannedRecording) -> list[int]:
    minutes = recording.minutes()
    with SqliteStore(subject.data, read_only=True) as store:
        records = store.minutes(recording.device_id, minutes[0], minutes[-1] + MINUTE_S)
    proven = {record.minute for record in records if record.state is MinuteState.PROVEN}
    return [minute for minute in minutes if minute not in proven]


@pytest.mark.soak
@pytest.mark.timeout(int(MINUTES * 60) + 1800)
def test_an_hour_of_load_with_a_fault_every_minute_stays_flat_and_ends_proven(tmp_path: Path) -> None:
    if not can_fail_calls():
        unavailable("fiu-ctrl is missing: apt-get install fiu-utils")
    preloaded = Preloaded(tmp_path, calls=True, clock=False)
    subject = Subject(tmp_path, {**SETTINGS, **preloaded.environ})
    seen: dict[str, list[Use]] = defaultdict(list)
    with ExitStack() as ended:
        ended.callback(subject.clean_up)
        subject.start()
        rate = RATE or SHARE * capacity(subject)
        plan = LoadPlan(
            port=subject.sip_port,
            devices=DEVICES,
            messages=int(rate * MINUTES * 60),
            rate=rate,
            start=int(time.time()) - int(MINUTES * 60 * max(1.0, rate / DEVICES / 1000)) - 3600,
            give_up_s=5.0,
            late_s=5.0,
        )
        own_process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        load = ended.enter_context(own_process).submit(run_load, plan)  # meters that answer must not slow it
        began_s = time.monotonic()
        recordings = [PlannedRecording(plan, device, began_s) for device in range(DEVICES)]
        for recording in recordings:
            settings = SyncSettings("127.0.0.1", subject.sync_port, recording.device_id, longest_wait_s=2.0)
            meter = SyncAnswerer(settings, recording)
            meter.start()
            ended.callback(meter.stop)
        faults = Faults(Stage(subject, preloaded, {}, tmp_path / "devices.ini"))
        while not load.done():
            faults.act_when_due()
            look(subject, seen)
            time.sleep(LOOK_S)
        report = load.result()
        for recording in recordings:
            wait_until(
                lambda r=recording: not unproven(subject, r),  # type: ignore[misc]
                300,
                "equal",
                f"every minute of {recording.device_id} to be proven",
            )
        answer = subject.get("/metrics")
        assert answer is not None
        figures = figures_of(answer.text)
        check_account(figures)
        assert figures["ec_batches_lost_total"] == 0
        assert figures["ec_packed_samples_total"] > 0
        subject.end()
        check_files(subject.data)
        check_log(subject.log())
    minutes = sum(len(recording.minutes()) for recording in recordings)
    print(f"\n{report.as_dict()}\n{faults.done} faults, {minutes} minutes proven at {rate:.0f} messages/s")
    for role, uses in seen.items():
        print(role, "first, middle, last:", uses[0], uses[len(uses) // 2], uses[-1])
    for role, uses in seen.items():
        assert_flat(role, uses)
