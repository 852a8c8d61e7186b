"""The SIP stack (PJSUA2) as a meter uses it: sends MESSAGEs, and counts what became of them.

Rules:

1. One thread creates, polls and destroys the client; every callback runs in it.
2. An answer 200 says received, nothing more; a message without one may have been received too.
3. Nothing is sent again here, beyond what SIP itself does over UDP. What is lost on the way is made
   good by the synchronization.

Two things that PJSUA2 has no door for go through the C functions that its extension module exports:

* A body is a C++ string made from Python text, so PJSUA2 takes no bytes that are not UTF-8. The
  original devices' binary bodies are such, so messages are handed to ``pjsua_im_send`` below it.
* Over UDP an answered transaction is kept 5 s for answers that come twice (timer K), at 11.5 KB. At
  8,000 messages a second that is too much: kept 0.5 s here.

All accounts of one client share one connection. A process has one client at a time.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Mapping
from ctypes import byref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pjsua2 as pj

from utilities.errors import EcServerError
from utilities.sip_library import TRANSPORTS, Text, endpoint_config, library, tune

MOST_ACCOUNTS = 8
"""Meters a client at most: what PJSUA is built for."""

_TIMER_K_MS = 500
_code_of = pj._pjsua2.OnInstantMessageStatusParam_code_get

_log = logging.getLogger(__name__)


class SipClientError(EcServerError):
    """The stack refuses the options: no such file, no free port, an address that is none."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files. Without an ``authority`` the server's certificate is not checked."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Where messages go. ``to`` is the address of record, where it is not the server itself."""

    host: str
    port: int
    transport: str
    tls: ClientTls = ClientTls()
    to: str = ""
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By device id: for a proxy that asks for digest authentication."""

    @property
    def uri(self) -> str:
        """The request URI of every message."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.to or f'sip:ecserver@{host}:{self.port}'};transport={self.transport}"


class SipClient:
    """Sends messages for some devices. Everything is called by one thread."""

    def __init__(self, options: ClientOptions) -> None:
        """Nothing is opened before ``start``."""
        self._options = options
        self._endpoint: Any = None
        self._accounts: list[_Account] = []
        self._buddies: list[_Server] = []
        self._to, self._type = Text.of(options.uri.encode()), Text.of(b"text/plain")
        self.sent = 0
        self.acknowledged = 0
        """Answered with 200."""
        self.failed: Counter[int] = Counter()
        """Final answers other than 200, by status; 408 and 503 also stand for no answer at all."""

    @property
    def waiting(self) -> int:
        """Sent, and neither answered nor given up yet."""
        return self.sent - self.acknowledged - self.failed.total()

    @property
    def running(self) -> bool:
        """Whether it may be polled."""
        return self._endpoint is not None

    def start(self) -> None:
        """Open one transport on a free port of the address that leads to the server."""
        config = endpoint_config("energy-consumption-meter")
        endpoint = self._endpoint = pj.Endpoint()
        endpoint.libCreate()
        try:
            endpoint.libInit(config)
            transport, version_6 = self._options.transport, ":" in self._options.host
            endpoint.transportCreate(TRANSPORTS[transport, version_6], self._transport_config())
            endpoint.libStart()
            endpoint.audDevManager().setNullDev()
        except pj.Error as error:
            self.stop()
            raise SipClientError(
                f"cannot send over {self._options.transport} to {self._options.host}:"
                f"{self._options.port}: {error.reason}"
            ) from None
        tune(client_ms=_TIMER_K_MS)

    def add(self, device_id: str) -> int:
        """Make an account for a device; what ``send`` calls it by."""
        config = pj.AccountConfig()
        config.idUri = f"sip:{device_id}@{_local_address(self._options)}"
        if password := self._options.passwords.get(device_id):
            config.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", device_id, 0, password))
        account = _Account(self)
        account.create(config)
        self._accounts.append(account)
        return int(account.getId())

    def send(self, account: int, body: bytes) -> None:
        """Send one message; its outcome is counted in a later ``poll``, or at once where it cannot go."""
        content = Text.of(body)
        self.sent += 1
        if library().pjsua_im_send(account, byref(self._to), byref(self._type), byref(content), None, None):
            self.failed[503] += 1

    def poll(self, wait_ms: int) -> None:
        """Let the stack work: answers, retransmissions. Waits so long at most, without the GIL."""
        self._endpoint.libHandleEvents(wait_ms)

    def subscribe(self) -> None:
        """Ask the server for its presence, for each account; see ``present``."""
        for account in self._accounts:
            config = pj.BuddyConfig()
            config.uri, config.subscribe = self._options.uri, True
            server = _Server()
            server.create(account, config)
            self._buddies.append(server)

    @property
    def present(self) -> bool:
        """Whether the server told every account that has subscribed that it is open."""
        return all(server.open for server in self._buddies)

    def stop(self) -> None:
        """Close everything; what still waits for an answer stays without."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        self._buddies.clear()
        for account in self._accounts:
            account.shutdown()
        self._accounts.clear()
        endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)

    def settle(self, code: int) -> None:
        """A message has its final answer; called by the account."""
        if code == 200:
            self.acknowledged += 1
        elif code > 200:
            self.failed[code] += 1

    def _transport_config(self) -> Any:
        config = pj.TransportConfig()
        config.boundAddress = _local_address(self._options, in_uri=False)
        if self._options.transport != "udp":
            config.sockOptParams.sockOpts.append(pj.SockOpt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
        if self._options.transport == "tls":
            files = self._options.tls
            config.tlsConfig.method = pj.PJSIP_TLSV1_2_METHOD
            config.tlsConfig.CaListFile = str(files.authority or "")
            config.tlsConfig.certFile = str(files.certificate or "")
            config.tlsConfig.privKeyFile = str(files.key or "")
            config.tlsConfig.verifyServer = files.authority is not None
        return config


class _Account(pj.Account):  # type: ignore[misc]
    def __init__(self, client: SipClient) -> None:
        super().__init__()
        self._client = client

    def onInstantMessageStatus(self, prm: Any) -> None:  # noqa: N802
        try:
            self._client.settle(_code_of(prm))
        except BaseException:  # one that left a callback would end the process
            _log.exception("an answer could not be counted")


class _Server(pj.Buddy):  # type: ignore[misc]
    """The server as somebody whose presence is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.open = False

    def onBuddyState(self) -> None:  # noqa: N802
        try:
            self.open = self.getInfo().presStatus.status == pj.PJSUA_BUDDY_STATUS_ONLINE
        except BaseException:
            _log.exception("the server's presence could not be noted")


def _local_address(options: ClientOptions, *, in_uri: bool = True) -> str:
    """The address of this machine from which the server is reached."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((options.host, options.port))
        address = str(probe.getsockname()[0])
    return f"[{address}]" if in_uri and ":" in address else address
