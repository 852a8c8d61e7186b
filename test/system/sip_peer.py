"""SIP by plain sockets: a peer whose every byte the test decides, and the tap program as a process."""

from __future__ import annotations

import base64
import json
import queue
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from free_ports import free_ports

PATIENCE_S = 20.0
TAP = Path(__file__).with_name("sip_tap.py")


def request(
    method: str = "MESSAGE",
    body: bytes = b"",
    transport: str = "TCP",
    *,
    headers: str = "Content-Type: text/plain\r\n",
    length: int | None = None,
    call_id: str = "",
    local: str = "127.0.0.1:5999",
    to_tag: str = "",
) -> bytes:
    """One request; ``length`` other than the body's own makes it lie."""
    call_id = call_id or uuid.uuid4().hex
    head = (
        f"{method} sip:server@127.0.0.1 SIP/2.0\r\n"
        f"Via: SIP/2.0/{transport} {local};rport;branch=z9hG4bK{call_id}\r\n"
        "Max-Forwards: 70\r\n"
        f"From: <sip:meter@127.0.0.1>;tag=1\r\nTo: <sip:server@127.0.0.1>{to_tag and f';tag={to_tag}'}\r\n"
        f"Call-ID: {call_id}\r\nCSeq: 1 {method}\r\n"
        f"Contact: <sip:meter@{local};transport={transport}>\r\n{headers}"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


class Peer:
    """A connected socket of any kind that speaks SIP."""

    def __init__(
        self, transport: str, port: int, *, address: str = "127.0.0.1", context: ssl.SSLContext | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM
        plain = socket.socket(family, kind)
        plain.settimeout(PATIENCE_S)
        try:
            plain.connect((address, port))
            self.socket = context.wrap_socket(plain) if context else plain
        except BaseException:
            plain.close()
            raise
        self.transport = transport
        self._waiting = b""

    @property
    def name(self) -> str:
        """``ip:port`` as the receiver sees it."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def send(self, body: bytes = b"", method: str = "MESSAGE", **more: Any) -> None:
        self.socket.sendall(request(method, body, self.transport, local=self.name, **more))

    def receive(self) -> str:
        """The next SIP message, head and body; "" if the other side has closed."""
        while True:
            head, end, rest = self._waiting.partition(b"\r\n\r\n")
            if end:
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                if len(rest) >= length:
                    self._waiting = rest[length:]
                    return (head + end + rest[:length]).decode()
            more = self.socket.recv(65_536)
            if not more:
                return ""
            self._waiting += more

    def ask(self, body: bytes = b"", method: str = "MESSAGE", **more: Any) -> int:
        """Send, and the status of the answer; 0 if the other side closes instead."""
        self.send(body, method, **more)
        answer = self.receive()
        return int(answer.split(" ", 2)[1]) if answer else 0

    def hears_nothing(self, for_s: float) -> bool:
        """Whether no byte comes for so long."""
        return not select.select([self.socket], [], [], for_s)[0]

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Tap:
    """The tap program, started; ``stop`` it."""

    def __init__(self, **options: Any) -> None:
        given = {"public_addr": "127.0.0.1", "bind": "127.0.0.1", "transports": ["udp", "tcp"], **options}
        if "port" not in given:
            given["port"], given["tls_port"] = free_ports(2, given["bind"])
        self.port, self.tls_port = given["port"], given.get("tls_port", 0)
        self.process = subprocess.Popen(
            [sys.executable, str(TAP), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_log, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def started(self) -> Tap:
        """Itself, once it listens."""
        assert self.next() == {"ready": True}, "\n".join(self.log)
        return self

    def next(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The next line that it printed; a message's body as bytes."""
        line = self._lines.get(timeout=timeout_s)
        if "body" in line:
            line["body"] = base64.b64decode(line["body"])
        return line

    def go_on(self) -> None:
        """End the wait of a callback that was told to."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> int:
        """Tell it to stop, and its exit code; it has ended when this returns."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
            for thread in self._threads:
                thread.join(PATIENCE_S)
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                assert stream
                stream.close()

    def wait_for_log(self, text: str) -> str:
        """The first line of its log that holds ``text``."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for line in list(self.log):
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} in:\n" + "\n".join(self.log))

    def _read_lines(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def _read_log(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line.rstrip())
