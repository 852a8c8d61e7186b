"""The Kamailio of deploy/kamailio with the files there, on free ports and in a folder of its own."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

import trustme
from free_ports import free_ports
from needs import need, unavailable

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy" / "kamailio"
LOOPBACK = "127.0.0.1"


class Front:
    """Kamailio between a test's meters and a receiver; a context manager."""

    def __init__(self, folder: Path, receiver_port: int, *, more: dict[str, str] | None = None) -> None:
        """``more``: text of site.cfg to what stands there instead."""
        self.program = need("kamailio", "kamailio")
        if not list(Path("/usr/lib").glob("*/kamailio/modules/tls.so")):
            unavailable("Kamailio's TLS module is missing: apt-get install kamailio-tls-modules")
        self.folder = folder
        self.tls_port, self.plain_port, self.inner_port = free_ports(3)
        (folder / "run").mkdir(parents=True)
        self._copy("kamailio.cfg", {})
        self._copy("tls.cfg", {"/etc/kamailio": str(folder)})
        self._copy(
            "site.cfg",
            {
                "tls:0.0.0.0:5061": f"tls:{LOOPBACK}:{self.tls_port}",
                "##!define": "#!define",
                "0.0.0.0:5060": f"{LOOPBACK}:{self.plain_port}",
                "5070": str(self.inner_port),
                "127.0.0.1:34567": f"{LOOPBACK}:{receiver_port}",
                "/etc/kamailio": str(folder),
                "/run/kamailio": str(folder / "run"),
                **(more or {}),
            },
        )
        authority = trustme.CA()
        issued = authority.issue_cert(LOOPBACK)
        authority.cert_pem.write_to_path(folder / "ca.pem")
        issued.private_key_pem.write_to_path(folder / "server.key")
        for pem in issued.cert_chain_pems:
            pem.write_to_path(folder / "server.pem", append=True)
        self.add_device("nobody")  # so that there is a table
        self.process: subprocess.Popen[bytes] | None = None

    def _copy(self, name: str, changes: dict[str, str]) -> None:
        text = (DEPLOY / name).read_text()
        for old, new in changes.items():
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        (self.folder / name).write_text(text)

    def add_device(self, device_id: str) -> str:
        """Give a device a password, as an operator does; before the start."""
        command = [str(DEPLOY / "add-device"), device_id, str(self.folder / "credentials")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def __enter__(self) -> Front:
        command = [self.program, "-DD", "-E", "-f", str(self.folder / "kamailio.cfg")]
        command += ["-Y", str(self.folder / "run"), "-P", str(self.folder / "run" / "pid")]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        until = time.monotonic() + 30
        while not self._listens():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.05)
        return self

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.tls_port), 1):
            return True
        return False

    def __exit__(self, *_exc: object) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def reload(self) -> None:
        """Read the credentials again, as README.md says."""
        self.ask_kamailio("htable.reload", "ha1")

    def ask_kamailio(self, *words: str) -> str:
        """The answer to a command of kamcmd; fails where there is none."""
        kamcmd = shutil.which("kamcmd", path="/usr/sbin:/usr/bin") or "kamcmd"
        control = f"unix:{self.folder / 'run' / 'kamailio_ctl'}"
        command = [kamcmd, "-s", control, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class FrontPeer:
    """A connection to the front whose every byte the test decides; speaks TLS 1.3 unless told otherwise."""

    def __init__(
        self, front: Front, *, plain: bool = False, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> None:
        connection = socket.create_connection((LOOPBACK, front.plain_port if plain else front.tls_port), 10)
        if plain:
            self.socket: socket.socket = connection
        else:
            context = ssl.create_default_context(cafile=front.folder / "ca.pem")
            context.minimum_version = context.maximum_version = version
            self.socket = context.wrap_socket(connection, server_hostname=LOOPBACK)
        self._transport = "TCP" if plain else "TLS"
        self._waiting = b""

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> FrontPeer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def ask(
        self,
        device_id: str,
        body: bytes,
        *,
        credentials: str = "",
        method: str = "MESSAGE",
        kind: str = "text/plain",
        more: str = "",
        to_tag: str = "",
    ) -> str:
        """Send one request; the answer, head and all."""
        host, port = self.socket.getsockname()
        call_id = uuid.uuid4().hex
        head = (
            f"{method} sip:ecserver@{LOOPBACK} SIP/2.0\r\n"
            f"Via: SIP/2.0/{self._transport} {host}:{port};rport;branch=z9hG4bK{call_id}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{device_id}@{LOOPBACK}>;tag=1\r\n"
            f"To: <sip:ecserver@{LOOPBACK}>{to_tag}\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n"
            f"{credentials}{more}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + body)
        while b"\r\n\r\n" not in self._waiting:
            read = self.socket.recv(65_536)
            if not read:
                return ""
            self._waiting += read
        answer, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
        return answer.decode()

    def prove(self, device_id: str, password: str, body: bytes, user: str = "") -> str:
        """Be challenged, then answer that; the second answer. ``user``: whose credentials, if another's."""
        challenge = self.ask(device_id, body)
        assert status(challenge) == 407, challenge
        return self.ask(device_id, body, credentials=credentials(challenge, user or device_id, password))


def credentials(challenge: str, user: str, password: str) -> str:
    """The Proxy-Authorization line that answers a challenge (RFC 2617 without qop)."""

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    given = dict(re.findall(r'(realm|nonce)="([^"]*)"', challenge))
    uri = f"sip:ecserver@{LOOPBACK}"
    who, what = md5(f"{user}:{given['realm']}:{password}"), md5(f"MESSAGE:{uri}")
    response = md5(f"{who}:{given['nonce']}:{what}")
    return (
        f'Proxy-Authorization: Digest username="{user}", realm="{given["realm"]}", '
        f'nonce="{given["nonce"]}", uri="{uri}", response="{response}"\r\n'
    )


def status(answer: str) -> int:
    """The status code of an answer; 0 for none."""
    return int(answer.split(" ", 2)[1]) if answer else 0
