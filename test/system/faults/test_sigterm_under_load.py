"""SIGTERM at any moment of full load: the server ends with exit code 0, and what it answered is stored."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from system.faults.oracle import check_files, check_log
from system.faults.subject import Subject, wait_until
from system.faults.watch import RECEIVED, check_account, figures_of

from ec_server.storage.sqlite_store import SqliteStore
from reference_client.load_generator import run_load
from reference_client.load_plan import LoadPlan
from utilities.utc import DAY_S

STOPS = int(os.environ.get("EC_TEST_SIGTERMS", "100"))
MESSAGES = {"tcp": 400_000, "udp": 5_000}
"""More than are sent before the stop; over UDP the sender cannot tell that nobody is there any more."""
SETTINGS = {"EC_SIP_RECEIVERS": "2", "EC_STORAGE_MIN_FREE_MB": "1", "EC_LOG_LEVEL": "warning"}


def stored_of(folder: Path, plan: LoadPlan) -> set[tuple[str, int, str]]:
    with SqliteStore(folder, read_only=True) as store:
        return {
            (row.batch.device_id, row.batch.second, row.batch.values)
            for device in range(plan.devices)
            for row in store.rows(plan.device_id(device), plan.start - DAY_S, plan.start + DAY_S)
        }


def received_by(subject: Subject) -> int:
    answer = subject.get("/metrics")
    return figures_of(answer.text)[RECEIVED] if answer else 0


def load_until_stopped(subject: Subject, wait_s: float, transport: str) -> tuple[LoadPlan, set[int], float]:
    """As much as is answered until SIGTERM; the numbers answered, and how long the end took."""
    plan = LoadPlan(
        port=subject.sip_port,
        transport=transport,
        devices=8,
        messages=MESSAGES[transport],
        give_up_s=0.5,
        connections=8,
    )
    with ThreadPoolExecutor(1) as thread:
        load = thread.submit(run_load, plan)
        wait_until(lambda: received_by(subject), 30, "load", "the first message to be received")
        time.sleep(wait_s)
        took_s = subject.end()
        report = load.result()
    return plan, set(range(plan.messages)) - set(report.unanswered), took_s


@pytest.mark.soak
@pytest.mark.timeout(60 + 30 * STOPS)
def test_sigterm_under_full_load_ends_clean_and_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    choose, answered_in_all, longest_s = random.Random(2026), 0, 0.0
    for number in range(STOPS):
        folder = tmp_path / str(number)
        folder.mkdir()
        subject = Subject(folder, SETTINGS)
        try:
            subject.start()
            transport = choose.choice(("tcp", "tcp", "tcp", "udp"))
            wait_s = choose.uniform(0.1, 1.5 if transport == "tcp" else 0.5)
            plan, answered, took_s = load_until_stopped(subject, wait_s, transport)
            stored = stored_of(subject.data, plan)
            missing = {n for n in answered if plan.batch(n) not in stored}
            assert not missing, f"stop {number}: {len(missing)} of {len(answered)} answered are not stored"
            assert len(stored) >= len(answered) > 0
            check_files(subject.data)
            check_log(subject.log())
            if number % 10 == 0:  # the account goes on in the next run of the same folder
                subject.start()
                answer = subject.get("/metrics")
                assert answer is not None
                figures = figures_of(answer.text)
                check_account(figures)
                assert figures["ec_batches_stored_total"] == len(stored)
                assert figures["ec_queue_batches"] == figures["ec_batches_lost_total"] == 0
                subject.end()
        finally:
            subject.clean_up()
        answered_in_all, longest_s = answered_in_all + len(answered), max(longest_s, took_s)
    print(f"\n{STOPS} stops, {answered_in_all} messages answered, the longest stop took {longest_s:.1f} s")
