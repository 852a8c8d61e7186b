"""Parses the head of a SIP message: start line, headers, and what an answer needs; pure.

Rules:

1. For any bytes, ``read_head`` returns a `Head`, or None if no answer is possible. It never raises, and its
   cost is linear in the number of bytes.
2. Nothing is guessed. A repeated header that must be unique, a number out of range, or a name that is not a
   token is reported in ``Head.fault``, and sip_gate.py refuses the request.
3. Folded lines and compact names (RFC 3261, 7.3.1 and 7.3.3) mean what their long forms mean.
4. Via, Contact, Route and Record-Route are only copied. No address in them is ever used as a destination;
   see sip_gate.py.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MESSAGE_LIMIT_BYTES = 4000
"""The longest SIP message, head and body: a longer one is cut (UDP) or closes the connection."""

END_OF_HEAD = b"\r\n\r\n"

_COMPACT = {
    b"i": b"call-id",
    b"m": b"contact",
    b"e": b"content-encoding",
    b"l": b"content-length",
    b"c": b"content-type",
    b"f": b"from",
    b"s": b"subject",
    b"k": b"supported",
    b"t": b"to",
    b"v": b"via",
    b"o": b"event",
    b"u": b"allow-events",
    b"r": b"refer-to",
    b"x": b"session-expires",
}
_USUAL = (
    "Via From To Call-ID CSeq Max-Forwards Contact Content-Type Content-Length Content-Encoding User-Agent"
    " Expires Event Accept Require Proxy-Require Route Record-Route Allow Supported Subject Date"
)
# Usual spellings and the names used here: most headers need no slower lookup.
_NAMES = {name.encode(): name.lower().encode() for name in _USUAL.split()} | _COMPACT
_ONCE = frozenset(b"from to call-id cseq max-forwards content-length content-type expires event".split())
_NEEDED = (b"from", b"to", b"call-id", b"cseq")

_TOKEN = re.compile(rb"[A-Za-z0-9.!%*_+`'~-]+")
_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")
_START = re.compile(rb"([A-Za-z0-9.!%*_+`'~-]+) ([^ \t\r\n]+) (SIP/[0-9]+\.[0-9]+)", re.IGNORECASE)
_CSEQ = re.compile(rb"([0-9]{1,10})[ \t]+([A-Za-z0-9.!%*_+`'~-]+)")
_NUMBER = re.compile(rb"[0-9]{1,10}")
_VIA = re.compile(
    rb"SIP[ \t]*/[ \t]*2\.0[ \t]*/[ \t]*[A-Za-z0-9-]+[ \t]+"
    rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?:[ \t]*:[ \t]*([0-9]{1,5}))?[ \t]*"
    rb'((?:;(?:[^,"]|"[^"]*")*+)?)(?=,|$)',
    re.IGNORECASE,
)
_RPORT = re.compile(rb";[ \t]*rport[ \t]*(?:=[^;,]*)?(?=;|,|$)", re.IGNORECASE)
_RECEIVED = re.compile(rb";[ \t]*received[ \t]*=[^;,]*(?=;|,|$)", re.IGNORECASE)
_TAG = re.compile(rb";[ \t]*tag[ \t]*=[ \t]*([^;,\s]+)", re.IGNORECASE)

MOST_EXPIRES = 2**32 - 1
_MOST_CSEQ = 2**31 - 1
_MOST_FORWARDS = 255
_DEFAULT_PORT = 5060


class Head(NamedTuple):
    """The head of a request that can be answered; ``fault`` says what is wrong with it, if anything."""

    method: bytes
    uri: bytes
    version: bytes
    headers: dict[bytes, bytes]
    """Lower-case long name to value; the values of a repeated header are joined by commas."""
    vias: list[bytes]
    """The values of the Via headers, in order."""
    via_port: int
    """The port of the topmost Via's sent-by."""
    via_rport: bool
    """Whether the topmost Via asks for the answer at the port that the request came from (RFC 3581)."""
    length: int | None
    """Content-Length; None if there is none, or none that can be used."""
    fault: str

    @property
    def to_tag(self) -> bytes:
        """The tag of the To header; empty if it has none."""
        return tag_of(self.headers[b"to"])


def read_head(raw: bytes) -> Head | None:
    """Parse a head, without the empty line at its end; None if it is not a request that can be answered.

    None for responses as well: nobody here waits for one.
    """
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raw = _FOLD.sub(b" ", raw)
    if not raw.count(b"\r\n") == raw.count(b"\r") == raw.count(b"\n"):
        return None  # a bare CR or LF: parsers disagree whether it ends a line
    first, _, rest = raw.partition(b"\r\n")
    start = _START.fullmatch(first)
    if start is None:
        return None
    headers, vias, fault = _headers(rest)
    if not vias or any(name not in headers for name in _NEEDED):
        return None
    via = _VIA.match(vias[0])
    if via is None:
        return None
    port, parameters = via.groups()
    method, uri, version = start.groups()
    if not fault and b"\0" in raw:
        fault = "NUL In Head"
    length, length_fault = _length(headers)
    return Head(
        method,
        uri,
        version,
        headers,
        vias,
        _port(port),
        _RPORT.search(parameters) is not None,
        length,
        fault or length_fault or _number_fault(headers, method),
    )


def content_length(raw: bytes) -> int | None:
    """The Content-Length of any head, including a response: tells where the next message in a stream begins.

    None if there is none, or it is not reliable.
    """
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raw = _FOLD.sub(b" ", raw)
    return _length(_headers(raw.partition(b"\r\n")[2])[0])[0]


def answered_vias(head: Head, ip: str, port: int) -> bytes:
    """The Via headers of an answer: those of the request, with its source added to the topmost."""
    first = head.vias[0]
    found = _VIA.match(first)
    assert found is not None, "read_head has matched it"
    parameters = _RECEIVED.sub(b"", _RPORT.sub(b"", found[2]))
    rport = b";rport=%d" % port if head.via_rport else b""
    lines = [
        b"Via: %s%s;received=%s%s%s\r\n"
        % (first[: found.start(2)], parameters, ip.encode(), rport, first[found.end() :])
    ]
    lines += [b"Via: %s\r\n" % via for via in head.vias[1:]]
    return b"".join(lines)


def tag_of(value: bytes) -> bytes:
    """The tag of a From or To header's value; empty if it has none."""
    found = _TAG.search(value.rpartition(b">")[2] if b"<" in value else value)
    return found[1] if found else b""


def number(value: bytes, most: int) -> int | None:
    """The number in a header, from 0 to ``most``; None if it is anything else."""
    if not _NUMBER.fullmatch(value) or int(value) > most:
        return None
    return int(value)


def address(host: str, port: int) -> str:
    """``ip:port``, or ``[ip]:port`` for IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _headers(rest: bytes) -> tuple[dict[bytes, bytes], list[bytes], str]:
    """Headers, Via values, and the first thing that is wrong with them."""
    headers: dict[bytes, bytes] = {}
    vias: list[bytes] = []
    fault = ""
    for line in rest.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        key = _NAMES.get(name)
        if key is None:
            name = name.rstrip(b" \t").lower()
            if not colon or not _TOKEN.fullmatch(name):
                fault = fault or ("Malformed Header" if line else "")
                continue
            key = _COMPACT.get(name, name)
        value = value.strip(b" \t")
        if key == b"via":
            vias.append(value)
        elif key not in headers:
            headers[key] = value
        else:
            headers[key] += b", " + value
            if key in _ONCE:
                fault = fault or f"Repeated {key.decode().title()}"
    return headers, vias, fault


def _length(headers: dict[bytes, bytes]) -> tuple[int | None, str]:
    value = headers.get(b"content-length")
    if value is None:
        return None, ""
    length = number(value, MOST_EXPIRES)
    return length, "" if length is not None else "Bad Content-Length"


def _number_fault(headers: dict[bytes, bytes], method: bytes) -> str:
    cseq = _CSEQ.fullmatch(headers[b"cseq"])
    if cseq is None or int(cseq[1]) > _MOST_CSEQ:
        return "Bad CSeq"
    if cseq[2] != method:
        return "CSeq Method Mismatch"
    forwards = headers.get(b"max-forwards")
    if forwards is not None and number(forwards, _MOST_FORWARDS) is None:
        return "Bad Max-Forwards"
    if b"expires" in headers and number(headers[b"expires"], MOST_EXPIRES) is None:
        return "Bad Expires"
    if not headers[b"call-id"]:
        return "Empty Call-ID"
    return ""


def _port(text: bytes | None) -> int:
    """The port in sent-by; the default port if it is missing or invalid."""
    port = int(text) if text else _DEFAULT_PORT
    return port if 0 < port < 1 << 16 else _DEFAULT_PORT
