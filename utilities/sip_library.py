"""What PJSUA2 has no call for: C functions that its extension module exports, called through ctypes.

Two things. *Tuning* that has no setting. And a *request module*, PJSIP's own way to extend its stack: a
function that sees every request first, before a transaction is made of it. What it takes is answered
without one (RFC 3261, 8.2.7), at half the processor time of PJSUA2's callback and with no memory kept.

The module reads two fields of PJSIP's ``pjsip_rx_data``, whose layout no header here can promise.
So ``add_request_module`` first asks the library for its version, and lets its parser fill such a
structure, of this process's own memory, with a message: where a field is not where it should be,
there is no module, and whoever asked goes on with PJSUA2 alone.
"""

from __future__ import annotations

import ctypes
import logging
import struct
from collections.abc import Callable
from ctypes import byref, c_char, c_char_p, c_int, c_long, c_size_t, c_ssize_t, c_uint, c_uint32, c_void_p
from functools import cache
from typing import Any

import pjsua2 as pj

from utilities.log import RateLimit
from utilities.own_sockets import address

PACKET_LIMIT_BYTES = 4000
"""What PJSIP takes of one SIP message, head and body: more is cut (UDP) or closes the connection."""

LEAVE_TO_STACK = 0
"""What a handler returns for a request that is not its own."""
NO_ANSWER = -1
"""What a handler returns to have a request dropped: its sender will send it again, or give up."""

_KNOWN_VERSION = "2.15.1"
_EXPIRED_TIMERS_A_POLL = 100_000
_BEFORE_TRANSACTIONS = 12  # PJSIP_MOD_PRIORITY_TRANSPORT_LAYER is 8, ..._TSX_LAYER 16
_KNOWN_SENDERS = 4096
_KNOWN_BUFFERS = 256
_SERVER_ERROR = 500

_log = logging.getLogger(__name__)

Handler = Callable[[bytes, str], int]
"""Given a request as it came and its sender's ``ip:port``: the status to answer, or one of the above."""


class _Text(ctypes.Structure):
    _fields_ = (("ptr", c_char_p), ("slen", c_ssize_t))


_OnRequest = ctypes.CFUNCTYPE(c_int, c_void_p)


class _Module(ctypes.Structure):
    """``pjsip_module``."""

    _fields_ = (
        *((name, c_void_p) for name in ("prev", "next")),
        ("name", _Text),
        ("id", c_int),
        ("priority", c_int),
        *((name, c_void_p) for name in ("load", "start", "stop", "unload")),
        ("on_rx_request", _OnRequest),
        *((name, c_void_p) for name in ("on_rx_response", "on_tx_request", "on_tx_response", "on_tsx_state")),
    )


class _Received(ctypes.Structure):
    """``pjsip_rx_data``, as far as it is read or checked here."""

    _fields_ = (
        *((name, c_void_p) for name in ("pool", "transport", "tp_data")),
        ("op_key", c_void_p * 35),
        ("timestamp", c_long * 2),
        ("packet", c_char * PACKET_LIMIT_BYTES),
        ("zero", c_uint32),
        ("packet_length", c_ssize_t),
        ("source", c_uint32 * 7),
        ("source_length", c_int),
        ("source_name", c_char * 46),
        ("source_port", c_int),
        ("message", c_void_p),
        ("message_length", c_int),
        *((name, c_void_p) for name in ("parsed", "info")),
        *((name, c_void_p) for name in ("call_id", "from_", "to", "via", "cseq", "max_forwards")),
        *((name, c_void_p) for name in ("route", "record_route")),
        *((name, c_void_p) for name in ("content_type", "content_length")),
        *((name, c_void_p) for name in ("require", "supported")),
        ("errors", c_void_p * 2),
        ("rest", c_char * 1024),
    )


_IN_SAMPLE = ("call_id", "from_", "to", "via", "cseq", "max_forwards", "content_type", "content_length")
_NOT_IN_SAMPLE = ("route", "record_route", "require", "supported", "info", "message")
_SAMPLE = (
    b"MESSAGE sip:server@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\n"
    b"Max-Forwards: 70\r\nFrom: <sip:meter@127.0.0.1>;tag=1\r\nTo: <sip:server@127.0.0.1>\r\n"
    b"Call-ID: 1\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n||\0"
)

# Sender's name and port as they stand there, where the message begins, its length.
_FIELDS_AT = _Received.source_name.offset
_SENDER_BYTES = _Received.source_port.offset + 4 - _FIELDS_AT
_FIELDS = struct.Struct(f"={_SENDER_BYTES}s4xQi")
_PORT = struct.Struct("=i")
assert _FIELDS.size == _Received.message_length.offset + 4 - _FIELDS_AT


@cache
def library() -> Any:
    """The extension module as a C library; calls keep the interpreter, as they take microseconds."""
    found = ctypes.PyDLL(pj._pjsua2.__file__)
    for name, result, arguments in (
        ("pj_get_version", c_char_p, ()),
        ("pj_log_set_level", None, (c_int,)),
        ("pjsua_get_pjsip_endpt", c_void_p, ()),
        ("pjsip_endpt_get_timer_heap", c_void_p, (c_void_p,)),
        ("pj_timer_heap_set_max_timed_out_per_poll", c_uint, (c_void_p, c_uint)),
        ("pjsip_tsx_set_timers", None, (c_uint,) * 4),
        ("pjsip_endpt_create_pool", c_void_p, (c_void_p, c_char_p, c_size_t, c_size_t)),
        ("pjsip_endpt_release_pool", None, (c_void_p, c_void_p)),
        ("pjsip_parse_rdata", c_void_p, (c_void_p, c_size_t, c_void_p)),
        ("pjsip_endpt_register_module", c_int, (c_void_p, c_void_p)),
        ("pjsip_endpt_respond_stateless", c_int, (c_void_p, c_void_p, c_int, *(c_void_p,) * 3)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def silence() -> None:
    """Keep PJSIP from printing on stdout, which it does until its log is configured."""
    library().pj_log_set_level(0)


def raise_timer_limit() -> None:
    """Let a poll handle all expired timers, not 10: else they pile up under load. After ``libStart``."""
    heap = library().pjsip_endpt_get_timer_heap(library().pjsua_get_pjsip_endpt())
    library().pj_timer_heap_set_max_timed_out_per_poll(heap, _EXPIRED_TIMERS_A_POLL)


def set_end_of_transactions(*, client_ms: int = 0, server_ms: int = 0) -> None:
    """How long finished UDP transactions are kept (timers K and J); 0 leaves it. After ``libStart``."""
    library().pjsip_tsx_set_timers(0, 0, client_ms, server_ms)


class RequestModule:
    """A module of this process in the SIP stack; keep it as long as the endpoint lives."""

    def __init__(self, handle: Handler) -> None:
        """See ``add_request_module``."""
        self._endpoint = library().pjsua_get_pjsip_endpt()
        self._handle = handle
        self._respond = library().pjsip_endpt_respond_stateless
        self._limit = RateLimit()
        self._senders: dict[bytes, str] = {}
        self._buffers: dict[int, memoryview] = {}
        name = b"mod-energy-consumption"
        self._module = _Module(
            name=_Text(name, len(name)),
            id=-1,
            priority=_BEFORE_TRANSACTIONS,
            on_rx_request=_OnRequest(self._on_request),
        )
        status = library().pjsip_endpt_register_module(self._endpoint, byref(self._module))
        if status:
            raise RuntimeError(f"the SIP stack refuses a module: status {status}")

    def _on_request(self, received: int) -> int:
        """Called by the stack; whether the request was taken. No exception may leave."""
        try:
            fields = self._buffers.get(received) or self._fields_of(received)
            origin, at, length = _FIELDS.unpack_from(fields)
            try:
                status = self._handle(
                    ctypes.string_at(at, length), self._senders.get(origin) or self._name(origin)
                )
            except Exception:
                self._report("taken")
                status = _SERVER_ERROR
            if status > 0:
                self._respond(self._endpoint, received, status, None, None, None)
        except BaseException:
            self._report("answered")
            return 1
        return status != LEAVE_TO_STACK

    def _report(self, what: str) -> None:
        write, held_back = self._limit.allow(what)
        if write:
            _log.exception("a request could not be %s (%d more before)", what, held_back)

    def _fields_of(self, received: int) -> memoryview:
        """The memory of one of PJSIP's few buffers; read only while the stack says that it is there."""
        if len(self._buffers) >= _KNOWN_BUFFERS:
            self._buffers.clear()
        memory = (c_char * _FIELDS.size).from_address(received + _FIELDS_AT)
        view = self._buffers[received] = memoryview(memory)
        return view

    def _name(self, origin: bytes) -> str:
        """``ip:port`` from PJSIP's two fields, remembered."""
        host = origin.partition(b"\0")[0].decode("ascii", "replace")
        (port,) = _PORT.unpack(origin[-_PORT.size :])
        if len(self._senders) >= _KNOWN_SENDERS:
            self._senders.clear()
        name = self._senders[origin] = address(host, port)
        return name


def add_request_module(handle: Handler) -> RequestModule | None:
    """Have ``handle`` see every request first, in the thread that polls. After ``libStart``.

    None, with a line in the log, where this is not the library that it was written for.
    """
    version = library().pj_get_version().decode()
    if version != _KNOWN_VERSION or not _layout_is_known():
        _log.warning("SIP stack %s is not the one known here, %s: slower, but sound", version, _KNOWN_VERSION)
        return None
    return RequestModule(handle)


def _layout_is_known() -> bool:
    """Whether the parser puts what it finds where ``_Received`` has it."""
    endpoint = library().pjsua_get_pjsip_endpt()
    received = _Received()
    errors = ctypes.addressof(received) + _Received.errors.offset
    received.errors = (errors, errors)
    received.pool = pool = library().pjsip_endpt_create_pool(endpoint, b"layout", 4000, 4000)
    text = ctypes.create_string_buffer(_SAMPLE, len(_SAMPLE))
    try:
        parsed = library().pjsip_parse_rdata(text, len(_SAMPLE) - 1, byref(received))
        return (
            bool(parsed)
            and received.parsed in (None, parsed)
            and all(getattr(received, name) for name in _IN_SAMPLE)
            and not any(getattr(received, name) for name in _NOT_IN_SAMPLE)
        )
    finally:
        library().pjsip_endpt_release_pool(endpoint, pool)
