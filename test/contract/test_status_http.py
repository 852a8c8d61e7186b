"""The answers of the status port as the outside world sees them: the real process, real pages on disk."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest
from status_process import Running, ask, until

from ec_server.account.figures import REJECTED
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import md5_hex
from utilities.model import Batch, MinuteState, Verdict
from utilities.utc import minute_of, minute_text


def samples_of(port: int) -> dict[str, int]:
    text = ask(port, "/metrics")[2].decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("ec_"))
    return {name: int(value) for name, value in pairs if value.isdigit()}


def test_everything_is_healthy_if_all_workers_work(running: Running) -> None:
    for path in ("/healthz", "/readyz"):
        assert running.get(path) == (200, {"status": "ok", "reasons": []})


def test_a_degraded_worker_fails_health_by_name_and_reason(running: Running) -> None:
    running.pages["receiver-1"].set_state("degraded", "cannot write: disk full")
    for path in ("/healthz", "/readyz"):
        status, answer = running.get(path)
        assert status == 503
        assert answer == {"status": "failing", "reasons": ["receiver-1 is degraded: cannot write: disk full"]}
    running.pages["receiver-1"].set_state("ready")
    assert running.get("/healthz")[0] == 200


def test_a_silent_worker_fails_health(running: Running) -> None:
    page = running.pages["sync"]
    running.beat()
    page._cells[page._HEARTBEAT_NS] -= 60 * 10**9  # a minute passes
    status, _, body = ask(running.port, "/healthz")
    assert status == 503
    assert "sync has not answered for 60 s" in body.decode()


def test_a_worker_without_a_page_fails_health(running: Running) -> None:
    (running.folder / "run" / "receiver-1.page").unlink()
    status, answer = running.get("/readyz")
    assert status == 503
    assert "receiver-1" in answer["reasons"][0]


def test_the_account_adds_up_while_receivers_work(running: Running) -> None:
    for number in range(300):
        page = running.pages[f"receiver-{number % 2}"]
        page.count_received()
        if number % 3:
            outcome = ("stored", "duplicate", "lost", "spooled", *REJECTED.values())[number % 22]
            page.apply({outcome: 1})
        if number % 30 == 0:
            found = samples_of(running.port)
            rejected = sum(n for name, n in found.items() if name.startswith("ec_messages_rejected_total"))
            assert found["ec_messages_received_total"] == number + 1
            assert found["ec_messages_received_total"] == rejected + sum(
                found[name]
                for name in (
                    "ec_batches_stored_total",
                    "ec_batches_duplicate_total",
                    "ec_batches_lost_total",
                    "ec_queue_batches",
                    "ec_spool_batches",
                )
            )


def test_metrics_are_prometheus_text(running: Running) -> None:
    _, headers, body = ask(running.port, "/metrics")
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\nec_messages_received_total 0\n" in body


def batch(device: str, second: int) -> Batch:
    return Batch(device, second, 0, 22, "000000,1.5;000022,2", 2, md5_hex("000000,1.5;000022,2"))


def test_devices_join_the_database_and_what_arrives_now(running: Running) -> None:
    now = time.time()
    minute = minute_of(int(now)) - 300
    with SqliteStore(running.folder) as store:
        store.ingest([batch("meter-a", minute), batch("meter-a", minute + 60)])
        store.note_devices({"meter-a": minute * 1_000_000})
        seen = dict(store.minute_digests("meter-a", minute, minute + 120))
        verdicts = [
            Verdict(minute, MinuteState.PROVEN, seen[minute]),
            Verdict(minute + 60, MinuteState.UNRESOLVED, seen[minute + 60]),
        ]
        store.record_verdicts("meter-a", verdicts, int(now * 1e6))
        store.note_coverage("meter-a", minute)
    live = {
        "written": now,
        "devices": {
            "meter-a": {"last_seen": now, "samples_per_second": 43999.96},
            "meter-b": {"last_seen": now, "samples_per_second": 10.0},
        },
    }
    (running.folder / "run" / "receiver-0.devices.json").write_text(json.dumps(live))

    def found() -> list[dict[str, Any]]:
        devices = running.get("/api/devices")[1]
        return [device for device in devices if device["device_id"] in ("meter-a", "meter-b")]

    until(lambda: found() and found()[0]["verified_through"], "the record of meter-a")
    first, second = found()
    assert (first["device_id"], second["device_id"]) == ("meter-a", "meter-b")
    assert first["verified_through"] == minute_text(minute + 60)
    assert first["unresolved_minutes"] == 1
    assert first["samples_per_second"] == 44000.0
    assert abs(datetime.fromisoformat(first["last_seen"]).timestamp() - now) < 0.001
    assert datetime.fromisoformat(first["first_seen"]).timestamp() == minute
    assert (second["verified_through"], second["unresolved_minutes"]) == (None, 0)


def test_a_silent_device_has_no_samples_per_second(running: Running) -> None:
    with SqliteStore(running.folder) as store:
        store.note_devices({"meter-silent": 1_700_000_000_000_000})

    def found() -> dict[str, Any] | None:
        devices = running.get("/api/devices")[1]
        return next((device for device in devices if device["device_id"] == "meter-silent"), None)

    device = until(found, "the device")
    assert device["samples_per_second"] == 0
    assert device["last_seen"] == "2023-11-14T22:13:20.000000+00:00"


def test_a_broken_database_is_an_answer_and_not_a_crash(own: Running) -> None:
    (own.folder / "progress.db").write_bytes(b"this is no database" * 1000)
    until(lambda: own.get("/api/devices")[0] == 503, "the error")
    status, answer = own.get("/api/devices")
    assert "progress.db" in answer["error"]
    assert own.get("/healthz")[0] == 503
    assert samples_of(own.port)["ec_storage_writable"] == 0
    status, _, page = ask(own.port, "/")
    assert status == 200
    assert "The database does not answer" in page.decode()
    (own.folder / "progress.db").unlink()
    until(lambda: own.get("/api/devices")[0] == 200, "the database's return")


def test_the_overview_says_what_the_page_says(running: Running) -> None:
    running.pages["receiver-0"].count_received()
    status, answer = running.get("/api/overview")
    assert status == 200
    assert answer["account"]["received"] == answer["account"]["queued"] == 1
    assert answer["verdict"]["headline"] in ask(running.port, "/")[2].decode()
    assert [worker["name"] for worker in answer["workers"]] == ["receiver-0", "receiver-1", "sync", "status"]


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/metrics", "/api/devices", "/page.css", "/devices/nobody", "/nowhere"]
)
def test_every_answer_has_the_security_headers(running: Running, path: str) -> None:
    headers = ask(running.port, path)[1]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/api/devices"])
def test_head_is_get_without_the_body(running: Running, path: str) -> None:
    running.beat()
    status, headers, body = ask(running.port, path, "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


def test_what_is_not_there_is_404_in_json(running: Running) -> None:
    status, headers, body = ask(running.port, "/api/nothing")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(body) == {"error": "Not Found"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(running: Running, method: str) -> None:
    status, headers, body = ask(running.port, "/api/devices", method)
    assert status == 405
    assert "GET" in headers["allow"]
    assert json.loads(body) == {"error": "Method Not Allowed"}


def test_a_device_name_cannot_write_into_the_page(running: Running) -> None:
    live = {
        "written": time.time(),
        "devices": {"<script>alert(1)</script>": {"last_seen": time.time(), "samples_per_second": 1.0}},
    }
    (running.folder / "run" / "receiver-0.devices.json").write_text(json.dumps(live))
    page = ask(running.port, "/")[2].decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
