"""A small SIP registrar on UDP: digest authentication as RFC 3261 and 2617 have it, one user."""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass

REALM = "meters"
_COPIED = ("via", "from", "to", "call-id", "cseq")
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Registered:
    """One REGISTER that was granted."""

    contact: str
    expires: int
    source: tuple[str, int]


class Registrar:
    """Answers until ``close``; ``failures`` REGISTERs are refused with 503 first."""

    def __init__(self, user: str, password: str, failures: int = 0) -> None:
        self.granted: list[Registered] = []
        self.refused = 0
        self._user, self._password, self._failures = user, password, failures
        self._nonce = secrets.token_hex(8)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    def wait_for(self, granted: int) -> Registered:
        """The newest grant, once there are so many."""
        deadline = time.monotonic() + 20
        while len(self.granted) < granted:
            assert time.monotonic() < deadline, f"{len(self.granted)} granted, {self.refused} refused"
            time.sleep(0.02)
        return self.granted[granted - 1]

    def close(self) -> None:
        self._closing.set()
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                packet, source = self._socket.recvfrom(65_536)
            except TimeoutError:
                continue
            lines = packet.decode().split("\r\n\r\n")[0].split("\r\n")
            if lines[0].startswith("REGISTER "):
                headers = [line.partition(": ") for line in lines[1:]]
                status = self._judge({name.lower(): value for name, _, value in headers}, source)
                copied = [f"{name}: {value}" for name, _, value in headers if name.lower() in _COPIED]
                answer = "\r\n".join([f"SIP/2.0 {status}", *copied, "Content-Length: 0", "", ""])
                self._socket.sendto(answer.encode(), source)

    def _judge(self, headers: dict[str, str], source: tuple[str, int]) -> str:
        if self._failures:
            self._failures -= 1
            self.refused += 1
            return "503 Service Unavailable"
        given = {
            k: quoted or plain for k, quoted, plain in _PARAMETER.findall(headers.get("authorization", ""))
        }
        if not given:
            return f'401 Unauthorized\r\nWWW-Authenticate: Digest realm="{REALM}", nonce="{self._nonce}"'
        if given["response"] != self._response(given["uri"]) or given["username"] != self._user:
            self.refused += 1
            return "403 Forbidden"
        expires = int(headers["expires"])
        self.granted.append(Registered(headers["contact"], expires, source))
        return f"200 OK\r\nContact: {headers['contact']};expires={expires}\r\nExpires: {expires}"

    def _response(self, uri: str) -> str:
        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()

        who = md5(f"{self._user}:{REALM}:{self._password}")
        return md5(f"{who}:{self._nonce}:{md5(f'REGISTER:{uri}')}")
