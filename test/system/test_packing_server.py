"""The whole server packs what is old enough, and its users see no difference."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import ROOT, RunningServer, wait_for

from reference_client.load_generator import run_load
from reference_client.load_plan import LoadPlan
from utilities.utc import ec_date, ec_time, minute_of, minute_text

MESSAGES = 2000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path) as server:
        yield server


def command(server: RunningServer, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=server.folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **server.environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_old_minutes_are_packed_by_the_server_and_nobody_sees_a_difference(server: RunningServer) -> None:
    old_minutes_are_packed(server)
    assert 'ec_stored_bytes{kind="blocks"} 0\n' not in server.get("/metrics").text


def old_minutes_are_packed(server: RunningServer) -> tuple[str, int]:
    """Load, pack, and compare what every command says; a device and the first minute of it."""
    server.start(EC_STORAGE_PACK_AFTER_HOURS="0")
    plan = LoadPlan(port=server.sip_port, devices=2, messages=MESSAGES, connections=2, prefix="packed")
    assert run_load(plan).answered == MESSAGES
    server.wait_for_figure("ec_batches_stored_total", MESSAGES)
    device, minute = plan.device_id(0), minute_of(plan.start)
    span = (device, "--from", minute_text(minute), "--to", minute_text(minute + 120))
    check = (str(ROOT / "test" / "test.py"), "-i", device, "-d", ec_date(minute) + ec_time(minute), "--json")
    samples, report = command(server, "-m", "ec_server.export", *span), command(server, *check)
    assert server.figure("ec_packed_samples_total") == 0
    assert server.stop() == 0

    server.start(EC_STORAGE_PACK_AFTER_HOURS="0.02")
    server.wait_for_figure("ec_packed_samples_total", MESSAGES * 44, 120)
    assert command(server, "-m", "ec_server.export", *span) == samples
    assert command(server, *check) == report
    assert 'ec_stored_bytes{kind="blocks"}' in server.get("/metrics").text
    wait_for(lambda: server.figure("ec_pack_backlog_minutes") == 0, "the backlog to be empty")
    url = f"/api/devices/{device}/minutes?from={minute_text(minute)}&to={minute_text(minute + 60)}"
    assert server.get(url).json()[0]["packed"] is True

    out = server.folder / "day.sqlite"
    command(
        server, "-m", "ec_server.storage.unpack", "-d", ec_date(minute), "-o", str(out), "--device", device
    )
    rows = sqlite3.connect(out).execute("SELECT count(*) FROM ec_consumption").fetchone()[0]
    assert rows == MESSAGES / 2
    assert server.account_is_exact()
    return device, minute
