"""The status port as the outside world sees it: the real process, real HTTP, real pages on disk."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

from ec_server.account.figures import RECEIVER_FIGURES, REJECTED, SYNC_FIGURES
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.sqlite_store import SqliteStore
from utilities.checksum_util import md5_hex
from utilities.model import Batch, MinuteState, Verdict
from utilities.utc import minute_of, minute_text

ROOT = Path(__file__).parents[2]
DEADLINE_S = 15.0

# The server's own serve() with a shorter deadline, over the simplest application.
IMPATIENT = """
import sys
from starlette.responses import PlainTextResponse
from ec_server.status import http_server
http_server.DEADLINE_S = float(sys.argv[2])
http_server.MOST_CONNECTIONS = int(sys.argv[3])
listener = http_server.listen("127.0.0.1", int(sys.argv[1]))
http_server.serve(PlainTextResponse("well"), listener, lambda: None, until_eof=False)
"""


def until(condition: Callable[[], object], what: str) -> Any:
    """Ask again until it holds; its value."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


def ask(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, answer.read()
    finally:
        connection.close()


def is_cut(client: socket.socket) -> bool:
    """Wait for the other side to end the connection; an answer is not the end."""
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def samples_of(port: int) -> dict[str, int]:
    text = ask(port, "/metrics")[2].decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("ec_"))
    return {name: int(value) for name, value in pairs if value.isdigit()}


@dataclass
class Running:
    """A status process over a data folder whose other workers are this test."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    pages: dict[str, WorkerPage] = field(default_factory=dict)

    def beat(self) -> None:
        for page in self.pages.values():
            page.beat()

    def get(self, path: str) -> tuple[int, Any]:
        self.beat()
        status, _, body = ask(self.port, path)
        return status, json.loads(body)


def launch(folder: Path, port: int, **environment: str) -> subprocess.Popen[bytes]:
    configuration = folder / "config.properties"
    configuration.write_text(
        f"[SIP]\nsip.receivers=2\n[Storage]\nstorage.path={folder / 'data'}\nstorage.min_free_mb=1\n"
        f"[Status]\nstatus.port={port}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "ec_server.status", "-c", str(configuration)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stderr):
        if stream:
            stream.close()


def make_pages(running: Running) -> None:
    """Pages of workers that are ready, all figures 0."""
    names = {"receiver-0": RECEIVER_FIGURES, "receiver-1": RECEIVER_FIGURES, "sync": SYNC_FIGURES}
    for name, figures in names.items():
        path = running.folder / "run" / f"{name}.page"
        path.unlink(missing_ok=True)
        if name in running.pages:
            running.pages[name].close()
        page = running.pages[name] = WorkerPage.create(path, figures)
        page.beat()
        page.set_state("ready")


def serving(folder: Path) -> Iterator[Running]:
    port = free_port()
    (folder / "data" / "run").mkdir(parents=True)
    running = Running(folder / "data", port, launch(folder, port))
    make_pages(running)
    until(lambda: running.get("/healthz")[0] == 200, "a healthy answer")
    yield running
    end(running.process)
    for page in running.pages.values():
        page.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serving(tmp_path_factory.mktemp("status"))


@pytest.fixture
def running(shared: Running) -> Running:
    """A process that the tests share, with pages of this test's own; its database keeps its devices."""
    make_pages(shared)
    for file in (shared.folder / "run").glob("*.devices.json"):
        file.unlink()
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A process of this test's own, for what spoils it."""
    yield from serving(tmp_path)


def test_all_is_well_where_all_work(running: Running) -> None:
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


def test_a_silent_device_has_no_samples_a_second(running: Running) -> None:
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


def test_idle_and_slow_clients_do_not_keep_others_waiting(running: Running) -> None:
    clients = []
    try:
        for number in range(80):
            client = socket.create_connection(("127.0.0.1", running.port), timeout=5)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: "[: number % 30])
            clients.append(client)
        running.beat()
        begun = time.monotonic()
        assert ask(running.port, "/healthz")[0] == 200
        assert ask(running.port, "/metrics")[0] == 200
        assert time.monotonic() - begun < 2
    finally:
        for client in clients:
            client.close()


@pytest.fixture
def start_impatient() -> Iterator[Callable[[float, int], int]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(deadline_s: float, most: int) -> int:
        port = free_port()
        arguments = [sys.executable, "-c", IMPATIENT, str(port), str(deadline_s), str(most)]
        started.append(subprocess.Popen(arguments, cwd=ROOT))
        until(lambda: ask(port, "/")[0] == 200, "an answer")
        return port

    yield start
    for process in started:
        end(process)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_that_never_finishes_its_request_is_cut(
    start_impatient: Callable[[float, int], int], sent: bytes
) -> None:
    port = start_impatient(0.3, 100)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(sent)
        assert is_cut(client)


def test_beyond_the_most_connections_newcomers_are_cut_and_the_others_served(
    start_impatient: Callable[[float, int], int],
) -> None:
    port = start_impatient(30.0, 5)
    until(lambda: ask(port, "/")[0] == 200, "room for five")
    held = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(5)]
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sixth:
            assert is_cut(sixth)
        held[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[0].recv(1000).startswith(b"HTTP/1.1 200")
    finally:
        for client in held:
            client.close()


def test_a_huge_request_head_is_refused_and_the_server_goes_on(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as client:
        try:
            client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 1_000_000)
            answer = client.recv(1000)
        except OSError:
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert running.get("/healthz")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_0_also_while_clients_are_connected(own: Running, number: int) -> None:
    with socket.create_connection(("127.0.0.1", own.port), timeout=5):
        own.process.send_signal(number)
        assert own.process.wait(DEADLINE_S) == 0


def test_under_the_launcher_the_end_of_stdin_ends_it(tmp_path: Path) -> None:
    port = free_port()
    process = launch(tmp_path, port, EC_SUPERVISED="1")
    try:
        until(lambda: ask(port, "/healthz"), "an answer")
        assert process.stdin
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
    finally:
        end(process)


def test_a_port_in_use_is_exit_78_with_the_reason_on_the_page(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = launch(tmp_path, taken.getsockname()[1])
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 78
    assert b"cannot listen" in said
    page = WorkerPage.open(tmp_path / "data" / "run" / "status.page")
    assert page.state()[0] == "dead"
    assert "cannot listen" in page.state()[1]
    page.close()


def test_a_faulty_configuration_is_exit_2(tmp_path: Path) -> None:
    process = launch(tmp_path, 99_999)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert b"status.port" in said


def test_it_beats_and_says_ready_on_its_own_page(running: Running) -> None:
    page = WorkerPage.open(running.folder / "run" / "status.page")
    assert page.state() == ("ready", "")
    assert page.pid() == running.process.pid
    page._cells[page._HEARTBEAT_NS] = 0
    until(lambda: page.silent_for_s() < 2, "a heartbeat")
    page.close()
