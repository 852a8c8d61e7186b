"""``--status`` asks the address of the configuration, and takes only this server's answer for one."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from configuration.settings import Settings
from ec_server.status.status_command import NEEDS_ATTENTION, NO_ANSWER, WELL, report_status

OVERVIEW: dict[str, Any] = {
    "verdict": {"headline": "Complete through 12:00 UTC"},
    "health": {"status": "ok", "reasons": []},
    "account": {"queued": 0, "spooled": 0},
    "samples_per_second": 0.0,
    "devices": 0,
}
Start = Callable[[dict[str, bytes]], tuple[int, list[bytes]]]


def http(body: object, status: str = "200 OK") -> bytes:
    text = json.dumps(body)
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts something that answers by path, with these bytes; its port, and the requests it gets."""
    servers: list[socketserver.TCPServer] = []

    def listen(answers: dict[str, bytes]) -> tuple[int, list[bytes]]:
        heads: list[bytes] = []

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += self.rfile.readline()
                heads.append(head)
                self.wfile.write(answers[head.split()[1].decode()])

        server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        return server.server_address[1], heads

    yield listen
    for server in servers:
        server.shutdown()
        server.server_close()


def own(overview: object = OVERVIEW, devices: object = ()) -> dict[str, bytes]:
    return {"/api/overview": http(overview), "/api/devices": http(list(devices))}  # type: ignore[call-overload]


def test_a_proxy_of_the_environment_is_not_asked(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    port, _ = start(own())
    code, text = report_status(Settings(status_port=port), as_json=False)
    assert (code, text.split("  ")[:3]) == (WELL, ["server", "ok", "Complete through 12:00 UTC"])


def test_a_token_of_any_letters_is_sent_as_the_server_compares_it(start: Start) -> None:
    port, heads = start(own())
    assert report_status(Settings(status_port=port, status_token="grün €"), as_json=False)[0] == WELL
    assert all("\r\nAuthorization: Bearer grün €\r\n".encode() in head for head in heads)


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}",
        http({}),
        http([]),
        http("hello"),
        http({"error": "busy"}, "503 Service Unavailable"),
        http({"error": "no"}, "404 Not Found"),
    ],
    ids=["no HTTP", "cut", "object", "list", "text", "503", "404"],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_another_program_there_is_no_server_that_answers(start: Start, answer: bytes, as_json: bool) -> None:
    port, _ = start({"/api/overview": answer, "/api/devices": answer})
    code, text = report_status(Settings(status_port=port), as_json=as_json)
    assert code == NO_ANSWER
    assert str(port) in (json.loads(text)["error"] if as_json else text)


def test_a_server_without_its_database_needs_attention_in_one_line(start: Start) -> None:
    health = {"status": "failing", "reasons": ["storage: cannot be opened:\n  a second line", "sync is dead"]}
    away = own(OVERVIEW | {"verdict": None, "health": health})
    port, _ = start(away | {"/api/devices": http({"error": "x"}, "503 Service Unavailable")})
    code, text = report_status(Settings(status_port=port), as_json=False)
    assert code == NEEDS_ATTENTION
    assert text.startswith(
        "server  failing: storage: cannot be opened: a second line; sync is dead  "
        "the database does not answer  "
    )
    assert "\n" not in text
