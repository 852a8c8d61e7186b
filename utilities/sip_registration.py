"""Keeps a receiver registered with a registrar, so that devices can send to an address of record.

A separate thread sends REGISTER (RFC 3261, 10) and answers digest challenges (RFC 7616: MD5, SHA-256). Each
attempt has a time limit and its own socket, connected to the registrar, so that nobody else can answer. A
slow registrar or name service delays only this thread. The registrar, which the operator configures, is the
only address to which this server ever opens a connection over SIP.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from utilities.sip_request import END_OF_HEAD, address

_EXPIRES_S = 300
_RENEW_AT = 0.8
_ATTEMPT_S = 8.0
_UNREGISTER_S = 1.0
_AGAIN_S = (2.0, 60.0)
_FIRST_WAIT_S = 0.5
_PACKET_BYTES = 65_536
_DEFAULT_PORT = {"udp": 5060, "tcp": 5060, "tls": 5061}

_PARAMETER = re.compile(r'([a-zA-Z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_GRANTED = re.compile(r";[ \t]*expires[ \t]*=[ \t]*([0-9]{1,9})", re.IGNORECASE)
_HASHES: Mapping[str, Callable[[bytes], object]] = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registration:
    """Where to register, so that devices can send to an address of record."""

    registrar: str
    """``HOST[:PORT][;transport=udp|tcp|tls]``."""
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Contact:
    """Where the registrar finds the server, and the local address ``bind`` to send REGISTER from."""

    bind: str
    address: str
    over: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A registrar's final answer."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str:
        """The first header of this lower-case name; "" if there is none."""
        return next((value for one, value in self.headers if one == name), "")


class RegistrationThread:
    """Registers and renews; retries after a failure with growing pauses; unregisters at the end."""

    def __init__(self, registration: Registration, contact: Contact) -> None:
        self._registrar = _Registrar(registration, contact)
        self._name = registration.registrar
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Unregister, waiting briefly for the answer."""
        self._stop.set()
        self._thread.join(2 * _UNREGISTER_S)

    def _run(self) -> None:
        wait_s, joined, again_s = 0.0, False, _AGAIN_S[0]
        while not self._stop.wait(wait_s):
            found = self._try(_EXPIRES_S, _ATTEMPT_S)
            if found.status == 200 and (granted_s := granted(found)):
                if not joined:
                    _log.info("registered with %s for %d s, renewed before that", self._name, granted_s)
                joined, wait_s, again_s = True, _RENEW_AT * granted_s, _AGAIN_S[0]
                continue
            joined = False
            _log.warning(
                "registrar %s: %s %s; trying again in %.0f s",
                self._name, found.status or "", found.reason, again_s,
            )  # fmt: skip
            wait_s, again_s = again_s, min(2 * again_s, _AGAIN_S[1])
        if joined and (left := self._try(0, _UNREGISTER_S)).status != 200:
            _log.warning("registrar %s: cannot unregister: %s %s", self._name, left.status or "", left.reason)

    def _try(self, expires_s: int, for_s: float) -> Answer:
        try:
            return self._registrar.register(expires_s, time.monotonic() + for_s)
        except (OSError, ValueError) as error:
            return Answer(0, str(error) or type(error).__name__)


class _Registrar:
    """One registrar, which gets one REGISTER after the other with the same Call-ID."""

    def __init__(self, registration: Registration, contact: Contact) -> None:
        self._registration, self._contact = registration, contact
        bare, _, over = registration.registrar.partition(";transport=")
        self._over = over or ("tls" if bare.startswith("sips:") else "udp")
        self._where = bare.removeprefix("sips:").removeprefix("sip:")
        self._uri = f"sip:{self._where}" + ("" if self._over == "udp" else f";transport={self._over}")
        self._call_id, self._tag, self._sequence = secrets.token_hex(12), secrets.token_hex(6), 0

    def register(self, expires_s: int, until_s: float) -> Answer:
        """Register, answering a challenge; returns the final answer. Raises OSError or ValueError."""
        host, port = host_and_port(self._where, _DEFAULT_PORT[self._over])
        with _connected(self._over, host, port, self._contact.bind, until_s) as one:
            found = self._ask(one, expires_s, "", until_s)
            if found.status == 423 and expires_s and (least := found.header("min-expires")).isdecimal():
                expires_s = int(least)
                found = self._ask(one, expires_s, "", until_s)
            if found.status in (401, 407):
                name, credentials = answered_challenge(
                    found, self._registration.user, self._registration.password, "REGISTER", self._uri
                )
                found = self._ask(one, expires_s, f"{name}: {credentials}\r\n", until_s)
            return found

    def _ask(self, one: socket.socket, expires_s: int, more: str, until_s: float) -> Answer:
        self._sequence += 1
        request = self._request(one, expires_s, more)
        is_udp, wait_s = self._over == "udp", _FIRST_WAIT_S
        received = b""
        one.settimeout(_left(until_s))
        one.sendall(request)
        while True:
            one.settimeout(min(wait_s, _left(until_s)) if is_udp else _left(until_s))
            try:
                data = one.recv(_PACKET_BYTES)
            except TimeoutError:
                if not is_udp:
                    raise
                _left(until_s)
                one.send(request)
                wait_s = min(2 * wait_s, 4.0)
                continue
            if not data and not is_udp:
                raise ConnectionError("the registrar has closed the connection")
            received = data if is_udp else received + data
            while END_OF_HEAD in received:
                head, _, received = received.partition(END_OF_HEAD)
                found = read_answer(head, self._call_id, self._sequence)
                if found and found.status >= 200:
                    return found
                received = received if not is_udp else b""

    def _request(self, one: socket.socket, expires_s: int, more: str) -> bytes:
        own = address(*one.getsockname()[:2])
        user, contact = self._registration.user, self._contact
        over = "" if contact.over == "udp" else f";transport={contact.over}"
        record = f"sip:{user}@{self._where}"
        return (
            f"REGISTER {self._uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/{self._over.upper()} {own};rport;branch=z9hG4bK{secrets.token_hex(8)}\r\n"
            f"Max-Forwards: 70\r\nFrom: <{record}>;tag={self._tag}\r\nTo: <{record}>\r\n"
            f"Call-ID: {self._call_id}\r\nCSeq: {self._sequence} REGISTER\r\n"
            f"Contact: <sip:{user}@{contact.address}{over}>\r\nExpires: {expires_s}\r\n"
            f"User-Agent: energy-consumption-server\r\n{more}Content-Length: 0\r\n\r\n"
        ).encode()


def read_answer(head: bytes, call_id: str, sequence: int) -> Answer | None:
    """The answer to the REGISTER of this Call-ID and sequence; None if it is anything else."""
    lines = head.decode("utf-8", "replace").lstrip("\r\n").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    status, _, reason = rest.partition(" ")
    headers = tuple(
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(":") for line in lines[1:])
    )
    found = Answer(int(status) if status.isdecimal() else 0, reason, headers)
    known = (found.header("call-id") or found.header("i")) == call_id
    if version != "SIP/2.0" or not known or found.header("cseq").split()[:1] != [str(sequence)]:
        return None
    return found


def granted(found: Answer) -> int:
    """For how many seconds the registration was granted."""
    in_contact = _GRANTED.search(found.header("contact") or found.header("m"))
    text = in_contact[1] if in_contact else found.header("expires")
    return int(text) if text.isdecimal() else _EXPIRES_S


def answered_challenge(found: Answer, user: str, password: str, method: str, uri: str) -> tuple[str, str]:
    """Name and value of the header that answers a digest challenge; ValueError if none is supported."""
    asked, name = ("www-authenticate", "Authorization")
    if found.status == 407:
        asked, name = ("proxy-authenticate", "Proxy-Authorization")
    for header, value in found.headers:
        given = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(value)}
        algorithm = given.get("algorithm", "MD5").upper()
        if header == asked and value[:6].lower() == "digest" and algorithm in _HASHES and "nonce" in given:
            return name, _credentials(given, algorithm, user, password, method, uri)
    raise ValueError("the registrar asks for an authentication other than digest with MD5 or SHA-256")


def _credentials(
    given: Mapping[str, str], algorithm: str, user: str, password: str, method: str, uri: str
) -> str:
    def digest(text: str) -> str:
        return str(_HASHES[algorithm](text.encode()).hexdigest())  # type: ignore[attr-defined]

    realm, nonce = given.get("realm", ""), given["nonce"]
    who, what = digest(f"{user}:{realm}:{password}"), digest(f"{method}:{uri}")
    parts = [f'username="{user}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{uri}"']
    if "auth" in [one.strip() for one in given.get("qop", "").split(",")]:
        own = secrets.token_hex(8)
        response = digest(f"{who}:{nonce}:00000001:{own}:auth:{what}")
        parts += ["qop=auth", "nc=00000001", f'cnonce="{own}"']
    else:
        response = digest(f"{who}:{nonce}:{what}")
    parts += [f'response="{response}"', f"algorithm={algorithm}"]
    if "opaque" in given:
        parts.append(f'opaque="{given["opaque"]}"')
    return "Digest " + ", ".join(parts)


def host_and_port(where: str, default: int) -> tuple[str, int]:
    """The host and port of ``HOST``, ``HOST:PORT`` or ``[IPV6]:PORT``."""
    host, _, port = where.rpartition(":")
    if not port.isdecimal() or (where.startswith("[") and not host.endswith("]")):
        host, port = where, ""
    return host.strip("[]"), int(port) if port else default


def _connected(over: str, host: str, port: int, bind: str, until_s: float) -> socket.socket:
    """A socket connected to the registrar, whose certificate is not checked as no authority is configured."""
    kind = socket.SOCK_DGRAM if over == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    target = socket.getaddrinfo(host, port, family, kind)[0][4]
    one = socket.socket(family, kind)
    try:
        one.settimeout(_left(until_s))
        one.bind((bind, 0))
        one.connect(target)
        if over != "tls":
            return one
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(one, server_hostname=host)
    except BaseException:
        one.close()
        raise


def _left(until_s: float) -> float:
    """Seconds left until then; TimeoutError if it has passed."""
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no answer in time")
    return left_s
