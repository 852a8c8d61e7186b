"""The SIP stack (PJSUA2) of a meter: sends MESSAGEs, and counts their outcomes.

Rules:

1. One thread creates, polls and destroys the client; every callback runs in it.
2. A 200 means received, nothing more; a message without an answer may have been received as well.
3. Nothing is sent again here, apart from SIP's own retransmissions over UDP. The synchronization recovers
   what is lost on the way.

Two things that PJSUA2 does not offer are done with C functions that its extension module exports:

* PJSUA2 creates a body from a Python string, so that it accepts only UTF-8. The binary bodies of the
  original devices are not UTF-8, so messages are sent with ``pjsua_im_send``.
* Over UDP, an answered transaction is kept for 5 s, for repeated answers (timer K), at 11.5 KB each. That is
  too much at 8,000 messages per second, so it is kept for 0.5 s here.

All accounts of a client share one connection. A process has one client at a time.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from ctypes import byref
from typing import Any

import pjsua2 as pj

from utilities.errors import EcServerError
from utilities.sip_client_options import ClientOptions
from utilities.sip_library import TRANSPORTS, Text, endpoint_config, library, tune

_TIMER_K_MS = 500
_code_of = pj._pjsua2.OnInstantMessageStatusParam_code_get

_log = logging.getLogger(__name__)


class SipClientError(EcServerError):
    """The stack refuses the options: no such file, no free port, not an address."""


class SipClient:
    """Sends the messages of some devices. All calls must come from one thread."""

    def __init__(self, options: ClientOptions) -> None:
        """Opens nothing before ``start``."""
        self._options = options
        self._endpoint: Any = None
        self._accounts: list[_Account] = []
        self._buddies: list[_Server] = []
        self._to, self._type = Text.of(options.uri.encode()), Text.of(b"text/plain")
        self.sent = 0
        self.acknowledged = 0
        """Messages answered with 200."""
        self.failed: Counter[int] = Counter()
        """Final answers other than 200, by status; 408 and 503 can also mean that there was no answer."""

    @property
    def waiting(self) -> int:
        """Messages that were sent and neither answered nor given up yet."""
        return self.sent - self.acknowledged - self.failed.total()

    @property
    def running(self) -> bool:
        """Whether ``poll`` may be called."""
        return self._endpoint is not None

    def start(self) -> None:
        """Open one transport, on a free port of the local address that leads to the server."""
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
        """Create an account for a device; returns its id for ``send``."""
        config = pj.AccountConfig()
        config.idUri = f"sip:{device_id}@{_local_address(self._options)}"
        if password := self._options.passwords.get(device_id):
            config.sipConfig.authCreds.append(pj.AuthCredInfo("digest", "*", device_id, 0, password))
        account = _Account(self)
        account.create(config)
        self._accounts.append(account)
        return int(account.getId())

    def send(self, account: int, body: bytes) -> None:
        """Send a message; its outcome is counted in a later ``poll``, or at once if it cannot be sent."""
        content = Text.of(body)
        self.sent += 1
        if library().pjsua_im_send(account, byref(self._to), byref(self._type), byref(content), None, None):
            self.failed[503] += 1

    def poll(self, wait_ms: int) -> None:
        """Let the stack work (answers, retransmissions) for at most ``wait_ms``, without holding the GIL."""
        self._endpoint.libHandleEvents(wait_ms)

    def subscribe(self) -> None:
        """Subscribe each account to the server's presence; see ``present``."""
        for account in self._accounts:
            config = pj.BuddyConfig()
            config.uri, config.subscribe = self._options.uri, True
            server = _Server()
            server.create(account, config)
            self._buddies.append(server)

    @property
    def present(self) -> bool:
        """Whether the server has told every subscribed account that it is open."""
        return all(server.open for server in self._buddies)

    def stop(self) -> None:
        """Close everything; answers that are still missing are not waited for."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        self._buddies.clear()
        for account in self._accounts:
            account.shutdown()
        self._accounts.clear()
        endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)

    def settle(self, code: int) -> None:
        """Count a message's final answer; called by the account."""
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
        except BaseException:  # an exception that leaves a callback would end the process
            _log.exception("an answer could not be counted")


class _Server(pj.Buddy):  # type: ignore[misc]
    """The server, as a contact whose presence is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.open = False

    def onBuddyState(self) -> None:  # noqa: N802
        try:
            self.open = self.getInfo().presStatus.status == pj.PJSUA_BUDDY_STATUS_ONLINE
        except BaseException:
            _log.exception("the server's presence could not be noted")


def _local_address(options: ClientOptions, *, in_uri: bool = True) -> str:
    """This machine's address from which the server is reached."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((options.host, options.port))
        address = str(probe.getsockname()[0])
    return f"[{address}]" if in_uri and ":" in address else address
