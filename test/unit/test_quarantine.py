"""The file of messages with a wrong clock: what it holds, its bound, and disks that refuse."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from needs import unavailable

from ec_server.ingest.quarantine import Quarantine
from utilities.model import RawMessage, RejectReason

BODY = bytes(range(256)) + b"|\xff||"
MESSAGE = RawMessage(BODY, "10.0.0.7:5060", 1_772_366_400_123_456)
AHEAD = RejectReason.TIME_TOO_FAR_AHEAD


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def test_a_line_holds_the_exact_bytes_and_where_they_came_from(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    assert Quarantine(path, 10_000).keep(MESSAGE, AHEAD)
    (line,) = lines(path)
    assert line == {
        "received": "2026-03-01T12:00:00.123456+00:00",
        "sender": "10.0.0.7:5060",
        "reason": "time_too_far_ahead",
        "body": base64.b64encode(BODY).decode(),
    }


def test_nothing_is_made_before_the_first_message(tmp_path: Path) -> None:
    Quarantine(tmp_path / "quarantine.jsonl", 10_000)
    assert list(tmp_path.iterdir()) == []


def test_a_full_file_takes_no_more_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, 2_000)
    kept = [quarantine.keep(MESSAGE, AHEAD) for _ in range(20)]
    assert kept == sorted(kept, reverse=True), "once full it stays full"
    assert 0 < sum(kept) < 20
    assert path.stat().st_size <= 2_000
    assert len(lines(path)) == sum(kept)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "full" in caplog.text


def test_it_takes_again_after_the_file_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, 1_000)
    while quarantine.keep(MESSAGE, AHEAD):
        pass
    path.rename(tmp_path / "repaired.jsonl")
    assert quarantine.keep(MESSAGE, AHEAD)
    assert len(lines(path)) == 1


def test_a_limit_of_zero_keeps_nothing(tmp_path: Path) -> None:
    assert not Quarantine(tmp_path / "quarantine.jsonl", 0).keep(MESSAGE, AHEAD)


def test_a_disk_that_refuses_is_logged_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quarantine = Quarantine(tmp_path / "missing" / "quarantine.jsonl", 10_000)
    assert [quarantine.keep(MESSAGE, AHEAD) for _ in range(3)] == [False] * 3
    assert len(caplog.records) == 1


def test_a_full_disk_is_no_error() -> None:
    if not Path("/dev/full").exists():
        unavailable("no /dev/full on this system")
    assert not Quarantine(Path("/dev/full"), 10_000).keep(MESSAGE, AHEAD)


def test_a_line_cut_by_a_full_disk_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    path.write_bytes(b'{"received":"2026-')
    assert Quarantine(path, 10_000).keep(MESSAGE, AHEAD)
    assert json.loads(path.read_text("ascii").splitlines()[1])["sender"] == "10.0.0.7:5060"


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    program = (
        "import sys; from pathlib import Path\n"
        "from ec_server.ingest.quarantine import Quarantine\n"
        "from utilities.model import RawMessage, RejectReason\n"
        "q = Quarantine(Path(sys.argv[1]), 10_000_000)\n"
        "m = RawMessage(sys.argv[2].encode() * 500, sys.argv[2], 0)\n"
        "assert all(q.keep(m, RejectReason.TIME_TOO_FAR_BACK) for _ in range(200))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), name], cwd=root)
        for name in ("aaa", "bbb")
    ]
    assert [writer.wait(30) for writer in writers] == [0, 0]
    found = lines(path)
    assert len(found) == 400
    assert all(base64.b64decode(line["body"]) == line["sender"].encode() * 500 for line in found)
