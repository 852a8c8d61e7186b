"""The SIP stack (PJSUA2) as one receiver uses it: transports, account, presence, registration.

Rules:

1. One thread creates, polls and destroys the endpoint, and every callback runs in it, within ``poll``.
2. An exception that leaves a callback ends the process: each callback catches everything.
3. A MESSAGE is answered 200 when it has been taken, and not before: a module of this process (see
   sip_library.py) sees it first, and answers without a transaction, so that nothing is kept of it.
   What is sent again is taken again: the same row once more.
4. What the module leaves alone (a MESSAGE within a dialog, one with an odd head), and every MESSAGE
   where the stack is not the one known, comes by the account's callback. PJSIP has then answered 200
   before, and keeps the transaction for timer J, 11.5 KB over UDP; 0.5 s of the standard's 32 here.
5. Taking may block. That is the back-pressure: TCP senders slow down, UDP senders send again.

Traps of PJSIP 2.15.1 that Python cannot close; each costs this process and what the stack has
in hand, and nothing else, because receivers share nothing and the ring outlives it:

* A malformed multipart body is read out of bounds by the parser, before any callback.
* A SUBSCRIBE with Expires 0 outside a subscription can use freed memory. It is refused in the
  callback, which narrows that down but comes after the stack has made the subscription.
* 62 TCP or TLS connections a process; the next one is reset. Idle ones are kept for 600 s. Many
  that come and go quickly would abort the process: sip_door.py makes them wait.
* Over IPv6 messages are taken, but a SUBSCRIBE is answered 400: the package is built without IPv6.

Where peers are not trusted, a SIP proxy belongs in front: it parses, authenticates and limits.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pjsua2 as pj

from utilities.answer_bundles import AnswerBundles
from utilities.errors import ConfigurationError, EcServerError
from utilities.log import RateLimit
from utilities.model import RawMessage
from utilities.sip_door import SipDoor
from utilities.sip_library import (
    LEAVE_TO_STACK,
    NO_ANSWER,
    RequestModule,
    add_request_module,
    raise_timer_limit,
    set_end_of_transactions,
    silence,
)
from utilities.sip_registration import Registrar, Registration, transport_of
from utilities.sip_tls import TlsFiles, common_name, set_tls
from utilities.unread_answers import UnreadAnswers

_TIMER_J_MS = 500
# Over UDP what waits longer than the sender's retransmission timer, 0.5 s, is answered for nothing.
_SOCKET_BUFFER_BYTES = {"udp": 512 << 10, "tcp": 4 << 20, "tls": 4 << 20}
_POLL_MS = 50
_TLS_RESERVE = 16
_REGISTRATION_S = 300
_ADDRESS_IN_USE = 120_000 + errno.EADDRINUSE  # PJ_ERRNO_START_SYS + errno

_TRANSPORTS = {
    ("udp", False): pj.PJSIP_TRANSPORT_UDP,
    ("tcp", False): pj.PJSIP_TRANSPORT_TCP,
    ("tls", False): pj.PJSIP_TRANSPORT_TLS,
    ("udp", True): pj.PJSIP_TRANSPORT_UDP6,
    ("tcp", True): pj.PJSIP_TRANSPORT_TCP6,
    ("tls", True): pj.PJSIP_TRANSPORT_TLS6,
}
_LEVELS = {0: logging.CRITICAL, 1: logging.WARNING, 2: logging.WARNING}
_CONTENT_LENGTH = re.compile(rb"^(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,9})", re.IGNORECASE | re.MULTILINE)
_EXPIRES_0 = re.compile(r"^expires[ \t]*:[ \t]*0+[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_MESSAGE, _END_OF_HEAD, _TAG = b"MESSAGE ", b"\r\n\r\n", b"tag="
_OK = 200
_END_MARK = b"||"
_IGNORED_AT_END = b" \r\n"

# The getters themselves: a property of a SWIG class costs a second call.
_body_of = pj._pjsua2.OnInstantMessageParam_msgBody_get
_data_of = pj._pjsua2.OnInstantMessageParam_rdata_get
_source_of = pj._pjsua2.SipRxData_srcAddress_get
_whole_of = pj._pjsua2.SipRxData_wholeMsg_get

_log = logging.getLogger(__name__)


class PortInUseError(EcServerError):
    """Another program has the port; a restart would meet it again."""


@dataclass(frozen=True, slots=True)
class SipOptions:
    """What one receiver listens to. ``bind`` is an IP address; ``tls`` is needed for ``tls`` alone."""

    public_addr: str
    bind: str
    port: int
    transports: tuple[str, ...]
    tls_port: int = 0
    tls: TlsFiles | None = None
    registration: Registration | None = None
    """None: another process, or nobody, registers."""


class SipReceiver:
    """Takes SIP MESSAGEs. Everything is called by one thread; a process has one receiver at a time."""

    def __init__(
        self, options: SipOptions, take: Callable[[RawMessage], object], *, takes_requests: bool = True
    ):
        """``take`` gets each message and may block; where it returns False the message is not answered.

        Without ``takes_requests`` every message comes by PJSUA2's own callback.
        """
        self._options = options
        self._takes_requests = takes_requests
        self._module: RequestModule | None = None
        self._take = take
        self._endpoint: Any = None
        self._accounts: list[Any] = []
        self._registered: Registrar | None = None
        self._log_writer: Any = None
        self._peer_names: dict[str, str] = {}
        self._door: SipDoor | None = None
        self._unread: UnreadAnswers | None = None
        self._bundles = AnswerBundles()

    def start(self) -> None:
        """Listen. Raises PortInUseError, or ConfigurationError where the stack refuses the options."""
        silence()
        endpoint = self._endpoint = _Endpoint(self._note_connection)
        endpoint.libCreate()
        endpoint.libInit(self._endpoint_config())
        try:
            for transport in self._options.transports:
                self._listen(transport)
            self._door = SipDoor(
                (self._options.port, self._options.tls_port),
                len(self._options.transports) + (self._options.registration is not None),
                _TLS_RESERVE if "tls" in self._options.transports else 0,
            )
            endpoint.libStart()
            endpoint.audDevManager().setNullDev()
            raise_timer_limit()
            set_end_of_transactions(server_ms=_TIMER_J_MS)
            if self._takes_requests:
                self._module = add_request_module(self._answer)
            self._open_account(_account_config(self._options), default=True)
            if self._options.registration:
                self._register(self._options.registration)
        except pj.Error as error:
            self.stop()
            raise ConfigurationError(f"the SIP stack refuses the configuration: {error.reason}") from None
        except BaseException:
            self.stop()
            raise

    def run(self, until: Callable[[], bool], on_tick: Callable[[], None], tick_s: float = 0.5) -> None:
        """Poll until ``until`` says so; ``on_tick`` is called at least every ``tick_s`` between polls."""
        poll, poll_ended, now = self._endpoint.libHandleEvents, self._bundles.poll_ended, time.monotonic
        next_tick, door = 0.0, self._door
        self._unread = UnreadAnswers()
        assert door is not None, "start comes first"
        while not until():
            if now() >= next_tick:
                on_tick()
                if self._registered:
                    self._registered.tick(now())
                next_tick = now() + tick_s
            if door.is_shut:
                door.look(now())
            poll(_POLL_MS)
            poll_ended()

    def stop(self) -> None:
        """Stop taking: leave the registrar, then close every socket. Nothing gets a 200 afterwards."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        if self._registered:
            self._registered.leave(endpoint)
        for account in self._accounts:
            account.shutdown()
        self._accounts.clear()
        self._registered = None
        endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)
        if self._door:
            self._door.close()
            self._door = None
        if self._unread:
            self._unread.close()
            self._unread = None
        self._log_writer = self._module = None

    # --- callbacks ------------------------------------------------------------------------

    def _answer(self, request: bytes, sender: str) -> int:
        """The status for a request that the stack has just parsed; a MESSAGE outside a dialog is ours."""
        end = request.find(_END_OF_HEAD)
        if end < 0 or not request.startswith(_MESSAGE) or request.count(_TAG, 0, end) != 1:
            return LEAVE_TO_STACK
        self._bundles.note(sender)
        message = self._read(request, request[end + len(_END_OF_HEAD) :], sender)
        return NO_ANSWER if self._take(message) is False else _OK

    def receive(self, prm: Any) -> None:
        """One MESSAGE that the stack has answered. Rule 2: whatever happens stays here."""
        try:
            data = _data_of(prm)
            body = _body_of(prm).encode("utf-8", "surrogateescape")
            whole = _whole_of(data).encode("utf-8", "surrogateescape")
            self._take(self._read(whole, body or whole.partition(_END_OF_HEAD)[2], _source_of(data)))
        except BaseException:
            _log.exception("a message could not be taken")

    def _read(self, request: bytes, body: bytes, sender: str) -> RawMessage:
        """The message; one without an end mark may have been cut, or have something behind it."""
        cut = False
        if body[-2:] != _END_MARK and not body.rstrip(_IGNORED_AT_END).endswith(_END_MARK):
            announced = _CONTENT_LENGTH.search(request.partition(_END_OF_HEAD)[0])
            if announced is not None:
                length = int(announced[1])
                cut, body = length > len(body), body[:length]
        if self._unread:
            self._unread.count()
        return RawMessage(body, sender, time.time_ns() // 1000, self._peer_names.get(sender, ""), cut)

    def _note_connection(self, prm: Any) -> None:
        """Count connections, and keep the certificate names of TLS peers while theirs last."""
        state = prm.state
        self._bundles.connections_changed()
        if prm.type.upper().startswith("UDP") or self._door is None:
            return
        if state == pj.PJSIP_TP_STATE_CONNECTED:
            self._door.handles.opened()
        elif state == pj.PJSIP_TP_STATE_DESTROY:
            self._door.handles.ended(time.monotonic())
        self._door.look(time.monotonic())
        if not (self._options.tls and self._options.tls.authority and prm.type.upper().startswith("TLS")):
            return
        tls = prm.tlsInfo
        if state == pj.PJSIP_TP_STATE_CONNECTED and not tls.remoteCertInfo.isEmpty():
            self._peer_names[tls.remoteAddr] = common_name(tls.remoteCertInfo.subjectInfo)
        elif state == pj.PJSIP_TP_STATE_DISCONNECTED:
            self._peer_names.pop(tls.remoteAddr, None)

    # --- parts of the start -----------------------------------------------------------------

    def _endpoint_config(self) -> Any:
        config = pj.EpConfig()
        config.uaConfig.threadCnt = 0
        config.uaConfig.mainThreadOnly = True
        config.uaConfig.maxCalls = 1
        config.uaConfig.userAgent = "energy-consumption-server"
        config.medConfig.threadCnt = 0
        config.medConfig.hasIoqueue = False
        config.logConfig.level = max(_LEVELS)
        config.logConfig.consoleLevel = max(_LEVELS)  # the one that the writer obeys
        config.logConfig.decor = 0
        config.logConfig.msgLogging = 0
        self._log_writer = _LogWriter()
        config.logConfig.writer = self._log_writer
        self._log_writer.this.disown()  # the endpoint deletes it
        return config

    def _listen(self, transport: str, port: int | None = None) -> int:
        """Open one transport and return its id; ``port`` None is the configured, shared one."""
        options = self._options
        config = pj.TransportConfig()
        config.boundAddress = options.bind
        config.port = port if port is not None else options.tls_port if transport == "tls" else options.port
        config.publicAddress = "" if port is not None else _published(options)
        socket_options = [
            (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),
            (socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES[transport]),
        ]
        if transport != "udp":  # else answers wait up to 40 ms for the peer to acknowledge earlier ones
            socket_options.append((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
        # The configuration holds pointers into these objects: they must live until the socket is there.
        kept = [pj.SockOpt(*option) for option in socket_options]
        for option in kept:
            config.sockOptParams.sockOpts.append(option)
        if transport == "tls":
            set_tls(config.tlsConfig, options.tls)
            config.tlsConfig.method = pj.PJSIP_TLSV1_2_METHOD
        try:
            return int(self._endpoint.transportCreate(_TRANSPORTS[transport, ":" in options.bind], config))
        except pj.Error as error:
            raise _start_error(error, transport, options.bind, config.port) from None

    def _open_account(self, config: Any, *, default: bool) -> Any:
        account = _Account(self)
        self._accounts.append(account)
        account.create(config, default)
        open_to_all = pj.PresenceStatus()
        open_to_all.status = pj.PJSUA_BUDDY_STATUS_ONLINE
        account.setOnlineStatus(open_to_all)
        return account

    def _register(self, registration: Registration) -> None:
        """Register from a port of this process's own.

        The answer to a request that leaves from the shared UDP port could reach another receiver.
        """
        over = transport_of(registration.registrar)
        transport_id = (
            self._listen(over, 0) if over == "udp" or over not in self._options.transports else None
        )
        config = _registering_account_config(self._options, registration, transport_id)
        self._registered = Registrar(registration.registrar)
        account = self._open_account(config, default=False)
        self._registered.account = account
        account.registrar = self._registered
        self._registered.tick(time.monotonic())


class _Endpoint(pj.Endpoint):  # type: ignore[misc]
    """Hands what happens to connections on."""

    def __init__(self, note: Callable[[Any], None]) -> None:
        super().__init__()
        self._note = note

    def onTransportState(self, prm: Any) -> None:  # noqa: N802
        try:
            self._note(prm)
        except BaseException:
            _log.exception("a connection's state could not be noted")


class _Account(pj.Account):  # type: ignore[misc]
    """Hands its callbacks on."""

    def __init__(self, receiver: SipReceiver) -> None:
        super().__init__()
        self._receiver = receiver
        self.onInstantMessage = receiver.receive
        self.registrar: Registrar | None = None

    def onIncomingSubscribe(self, prm: Any) -> None:  # noqa: N802
        try:
            if _EXPIRES_0.search(_head_of(prm.rdata.wholeMsg)):
                prm.code, prm.reason = 481, "No such subscription"
        except BaseException:
            _log.exception("a SUBSCRIBE could not be judged")

    def onRegState(self, prm: Any) -> None:  # noqa: N802
        try:
            if self.registrar:
                self.registrar.answered(prm.code, prm.reason, prm.expiration)
        except BaseException:
            _log.exception("a registrar's answer could not be noted")


class _LogWriter(pj.LogWriter):  # type: ignore[misc]
    """PJSIP's warnings and errors as lines of this process's log, at a limited rate."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit()

    def write(self, entry: Any) -> None:
        try:
            text = entry.msg.strip()
            write, held_back = self._limit.allow(text[:24])
            if held_back:
                _log.warning("SIP stack: %d more lines were held back", held_back)
            if write:
                _log.log(_LEVELS.get(entry.level, logging.DEBUG), "SIP stack: %s", text[:200])
        except BaseException:
            _log.exception("a line of the SIP stack could not be logged")


def _start_error(error: Any, transport: str, address: str, port: int) -> EcServerError:
    where = f"{transport} on {_in_uri(address)}:{port}"
    if error.status == _ADDRESS_IN_USE:
        return PortInUseError(
            f"cannot listen to {where}: the port is in use; end the other program or set sip.port"
        )
    return ConfigurationError(f"cannot listen to {where}: {error.reason}")


def _account_config(options: SipOptions) -> Any:
    config = pj.AccountConfig()
    config.idUri = f"sip:server@{_in_uri(options.public_addr)}:{options.port}"
    return config


def _registering_account_config(
    options: SipOptions, registration: Registration, transport_id: int | None
) -> Any:
    config = pj.AccountConfig()
    host = registration.registrar.removeprefix("sips:").removeprefix("sip:").partition(";")[0]
    config.idUri = f"sip:{registration.user}@{host}"
    config.regConfig.registrarUri = f"sip:{host};transport={transport_of(registration.registrar)}"
    config.regConfig.registerOnAdd = False
    config.regConfig.timeoutSec = _REGISTRATION_S
    config.regConfig.retryIntervalSec = 0
    config.sipConfig.contactForced = f"<{_contact(options, registration.user)}>"
    config.natConfig.contactRewriteUse = 0
    config.natConfig.viaRewriteUse = 0
    config.natConfig.sipOutboundUse = 0
    config.sipConfig.authCreds.append(
        pj.AuthCredInfo("digest", "*", registration.user, 0, registration.password)
    )
    if transport_id is not None:
        config.sipConfig.transportId = transport_id
    return config


def _published(options: SipOptions) -> str:
    """The public address, where PJSIP can use it: it must be an IP address of the family listened to."""
    try:
        public = ipaddress.ip_address(options.public_addr)
    except ValueError:
        return ""
    return str(public) if public.version == ipaddress.ip_address(options.bind).version else ""


def _contact(options: SipOptions, user: str) -> str:
    """Where the registrar finds the shared port."""
    over = next(transport for transport in ("udp", "tcp", "tls") if transport in options.transports)
    port = options.tls_port if over == "tls" else options.port
    return f"sip:{user}@{_in_uri(options.public_addr)}:{port}" + (
        "" if over == "udp" else f";transport={over}"
    )


def _in_uri(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _head_of(message: str) -> str:
    return message.partition("\r\n\r\n")[0]
