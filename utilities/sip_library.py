"""The configuration of PJSUA2's endpoint, and PJSIP functions that PJSUA2 does not wrap.

The latter are C functions exported by its extension module, called through ctypes. All of them are looked up
before the endpoint is created: if one is missing, `SipLibraryError` names it and nothing has been started.
No structure of the library is read or written here.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_size_t, c_uint, c_void_p
from functools import cache
from typing import Any

import pjsua2 as pj

from utilities.errors import EcServerError

TRANSPORTS = {
    ("udp", False): pj.PJSIP_TRANSPORT_UDP,
    ("tcp", False): pj.PJSIP_TRANSPORT_TCP,
    ("tls", False): pj.PJSIP_TRANSPORT_TLS,
    ("udp", True): pj.PJSIP_TRANSPORT_UDP6,
    ("tcp", True): pj.PJSIP_TRANSPORT_TCP6,
    ("tls", True): pj.PJSIP_TRANSPORT_TLS6,
}
"""PJSUA2's number for a transport, by transport and whether it uses IPv6."""

_EXPIRED_TIMERS_A_POLL = 100_000
_FUNCTIONS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("pj_log_set_level", None, (c_int,)),
    ("pjsua_get_pjsip_endpt", c_void_p, ()),
    ("pjsip_endpt_get_timer_heap", c_void_p, (c_void_p,)),
    ("pj_timer_heap_set_max_timed_out_per_poll", c_uint, (c_void_p, c_uint)),
    ("pjsip_tsx_set_timers", None, (c_uint,) * 4),
    ("pjsua_im_send", c_int, (c_int, *(c_void_p,) * 5)),
)


class SipLibraryError(EcServerError):
    """The installed pjsua2 cannot be used."""


class Text(ctypes.Structure):
    """``pj_str_t``: bytes and their number. The called function copies the bytes."""

    _fields_ = (("ptr", ctypes.c_char_p), ("slen", c_size_t))

    @classmethod
    def of(cls, text: bytes) -> Text:
        """A ``pj_str_t`` of these bytes."""
        return cls(text, len(text))


@cache
def library() -> Any:
    """The extension module as a C library; calls keep the GIL, as they take microseconds.

    Raises SipLibraryError if it lacks a function.
    """
    found = ctypes.PyDLL(pj._pjsua2.__file__)
    for name, result, arguments in _FUNCTIONS:
        try:
            function = getattr(found, name)
        except AttributeError:
            raise SipLibraryError(
                f"{pj._pjsua2.__file__} does not export {name}: install the pjsua2-python of requirements.txt"
            ) from None
        function.restype, function.argtypes = result, arguments
    return found


def endpoint_config(user_agent: str) -> Any:
    """An endpoint configuration with one thread, no media and no output."""
    library().pj_log_set_level(0)  # else PJSIP prints on stdout until its log is configured
    config = pj.EpConfig()
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    config.uaConfig.maxCalls = 1
    config.uaConfig.userAgent = user_agent
    config.medConfig.threadCnt = 0
    config.medConfig.hasIoqueue = False
    config.logConfig.level = 0
    config.logConfig.consoleLevel = 0
    return config


def tune(*, client_ms: int = 0, server_ms: int = 0) -> None:
    """Call after ``libStart``: lets a poll handle all expired timers, not just 10, which pile up under load.

    Finished UDP transactions are kept for this long (timers K and J); 0 keeps the standard's time.
    """
    heap = library().pjsip_endpt_get_timer_heap(library().pjsua_get_pjsip_endpt())
    library().pj_timer_heap_set_max_timed_out_per_poll(heap, _EXPIRED_TIMERS_A_POLL)
    library().pjsip_tsx_set_timers(0, 0, client_ms, server_ms)
