"""Decides what is done with a SIP request, by one table, before anything acts on the request; pure.

Rules:

1. The rows of `TABLE` are tried from the top; the first whose condition holds decides. The last row always
   holds. docs/protocol-messages.md shows the same table, and a test compares them.
2. An answer is sent only to the address that the request came from: over TCP and TLS on its connection, over
   UDP to the port according to RFC 3581 and RFC 3261, 18.2.2 (`answer_port`). Via (maddr, received), Contact,
   Route and Record-Route do not change that.
3. Nothing here resolves a name, opens a connection or stores anything. Subscriptions are not stored either:
   the tag of a subscription is computed from it, so that a refresh can be distinguished from a forged one.
4. A refusal is at most a few hundred bytes larger than its request, so that the server cannot be abused to
   amplify traffic to a victim whose address was forged.

The host of the Request-URI is not checked: behind a proxy or NAT, a server cannot know all its names, and it
never forwards anything.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

from utilities.sip_request import Head, answered_vias, number, tag_of

_MOST_EXPIRES_S = 3600
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    405: b"Method Not Allowed",
    406: b"Not Acceptable",
    415: b"Unsupported Media Type",
    416: b"Unsupported URI Scheme",
    420: b"Bad Extension",
    481: b"Call/Transaction Does Not Exist",
    489: b"Bad Event",
    505: b"Version Not Supported",
}
_CONTACT = re.compile(
    rb'(?:(?:"[^"]*"[ \t]*|[^<>"]*)<[ \t]*(?P<in>[^<>]+)>|(?P<bare>[^<>",;?]+))[ \t]*(?:;[^,<>]*)?'
)
_URI = re.compile(
    rb"(?P<scheme>sips?):(?:[^@\[\]<>?\s]*@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::(?P<port>[0-9]{1,5}))?"
    rb"(?P<parameters>(?:;[^?\s<>]*)?)",
    re.IGNORECASE,
)
_TRANSPORT = re.compile(rb";transport=([a-z0-9-]+)(?=;|$)", re.IGNORECASE)
_MADDR = re.compile(rb";maddr=", re.IGNORECASE)
_SECRET = os.urandom(16)


class Action(Enum):
    """What is done with a request."""

    TAKE = "taken"
    PRESENT = "presence"
    REFUSE = "refused"
    DROP = "dropped"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from; a connection has one such object while it lasts."""

    ip: str
    port: int
    transport: str
    """``UDP``, ``TCP`` or ``TLS``."""
    local: str = ""
    """This server's ``ip:port``, as told to a subscriber."""
    name: str = ""
    """``ip:port``, or ``[ip]:port`` of an IPv6 address."""
    peer_name: str = ""
    """The name in the peer's certificate; empty if none was requested."""
    may_send: Callable[[str], bool] = field(default=lambda _ip: True, repr=False)
    """Whether any device may send from an address."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    when: str
    """The condition in words."""
    action: Action
    status: int = 0
    applies: Callable[[Head, Origin], object] = field(default=lambda _head, _origin: True, repr=False)
    more: bytes = b""
    """Further headers of the answer."""


def _has(name: bytes) -> Callable[[Head, Origin], object]:
    return lambda head, _: head.headers.get(name)


def _is(method: bytes) -> Callable[[Head, Origin], object]:
    return lambda head, _: head.method == method


def _in_dialog(head: Head, _origin: Origin) -> bool:
    return bool(head.to_tag)


def _is_multipart(head: Head, _origin: Origin) -> bool:
    return head.headers.get(b"content-type", b"")[:9].lower() == b"multipart"


def _is_encoded(head: Head, _origin: Origin) -> bool:
    return head.headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b"")


def _wrong_scheme(head: Head, origin: Origin) -> bool:
    scheme = head.uri.partition(b":")[0].lower()
    return scheme != b"sip" and not (scheme == b"sips" and origin.transport == "TLS")


def _wrong_event(head: Head, _origin: Origin) -> bool:
    return head.headers.get(b"event", b"").partition(b";")[0].strip().lower() != b"presence"


def _wrong_accept(head: Head, _origin: Origin) -> bool:
    accept = head.headers.get(b"accept", b"application/pidf+xml").lower()
    return b"application/pidf+xml" not in accept and b"*/*" not in accept and b"application/*" not in accept


def _of_another(head: Head, _origin: Origin) -> bool:
    """Whether a request within a subscription names one that this process did not create."""
    return bool(head.to_tag) and head.to_tag != own_tag(head)


def _ends_at_once(head: Head, _origin: Origin) -> bool:
    return not head.to_tag and expires_s(head) == 0


_ALLOW = b"Allow: MESSAGE, SUBSCRIBE\r\n"

_OF_EVERY_REQUEST = (
    Row("the version is not SIP/2.0", Action.REFUSE, 505, lambda head, _: head.version.upper() != b"SIP/2.0"),
    Row("ACK", Action.DROP, 0, _is(b"ACK")),
    Row("a header is malformed, out of range, or repeated although it must be unique", Action.REFUSE, 400,
        lambda head, _: head.fault),
    Row("CANCEL", Action.REFUSE, 481, _is(b"CANCEL")),
    Row("any other method than MESSAGE and SUBSCRIBE", Action.REFUSE, 405,
        lambda head, _: head.method not in (b"MESSAGE", b"SUBSCRIBE"), _ALLOW),
    Row("the Request-URI is not `sip:`, nor `sips:` over TLS", Action.REFUSE, 416, _wrong_scheme),
    Row("Require asks for an extension", Action.REFUSE, 420, _has(b"require")),
)  # fmt: skip
_OF_MESSAGE = (
    Row("MESSAGE within a dialog (To has a tag)", Action.REFUSE, 481, _in_dialog),
    Row("MESSAGE with a multipart or encoded body", Action.REFUSE, 415,
        lambda head, origin: _is_multipart(head, origin) or _is_encoded(head, origin),
        b"Accept: text/plain\r\nAccept-Encoding: identity\r\n"),
    Row("any other MESSAGE", Action.TAKE, 200),
)  # fmt: skip
_OF_SUBSCRIBE = (
    Row("SUBSCRIBE from an address from which no device may send", Action.REFUSE, 403,
        lambda _, origin: not origin.may_send(origin.ip)),
    Row("SUBSCRIBE for another event than `presence`", Action.REFUSE, 489, _wrong_event,
        b"Allow-Events: presence\r\n"),
    Row("SUBSCRIBE that does not accept `application/pidf+xml`", Action.REFUSE, 406, _wrong_accept,
        b"Accept: application/pidf+xml\r\n"),
    Row("SUBSCRIBE whose Contact is not its source", Action.REFUSE, 403,
        lambda head, origin: contact_uri(head, origin) is None),
    Row("SUBSCRIBE within a subscription that this process did not make", Action.REFUSE, 481, _of_another),
    Row("SUBSCRIBE with `Expires: 0` outside of a subscription", Action.REFUSE, 481, _ends_at_once),
    Row("any other SUBSCRIBE", Action.PRESENT, 200),
)  # fmt: skip

TABLE = (*_OF_EVERY_REQUEST, *_OF_MESSAGE, *_OF_SUBSCRIBE)
"""All rows. Requests without Via, From, To, Call-ID or CSeq do not get here: they are dropped."""

_ROWS_OF = {
    b"MESSAGE": (*_OF_EVERY_REQUEST, *_OF_MESSAGE),
    b"SUBSCRIBE": (*_OF_EVERY_REQUEST, *_OF_SUBSCRIBE),
}


def decide(head: Head, origin: Origin) -> Row:
    """The row that applies to a request."""
    for row in _ROWS_OF.get(head.method, _OF_EVERY_REQUEST):
        if row.applies(head, origin):
            return row
    raise AssertionError("the last row of each method holds for everything")


def answer_port(head: Head, origin: Origin) -> int:
    """The port of the source address to which an answer over UDP is sent (RFC 3581; RFC 3261, 18.2.2)."""
    return origin.port if head.via_rport else head.via_port


def answer(head: Head, origin: Origin, row: Row) -> bytes:
    """The answer to a request according to a row."""
    status, more = row.status, row.more
    if row.action is Action.PRESENT:
        more = b"Contact: <%s>\r\nExpires: %d\r\n" % (_own_uri(origin), expires_s(head))
    elif status == 420:
        more = b"Unsupported: %s\r\n" % head.headers[b"require"]
    headers = head.headers
    to = headers[b"to"]
    if not tag_of(to):
        to = b"%s;tag=%s" % (to, own_tag(head))
    reason = head.fault.encode() if status == 400 and head.fault else _REASONS[status]
    return (
        b"SIP/2.0 %d %s\r\n%sFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %s\r\n%sContent-Length: 0\r\n\r\n"
        % (
            status,
            reason,
            answered_vias(head, origin.ip, origin.port),
            headers[b"from"],
            to,
            headers[b"call-id"],
            headers[b"cseq"],
            more,
        )
    )


def notify(head: Head, origin: Origin, sequence: int) -> bytes:
    """The NOTIFY after an accepted SUBSCRIBE: the server is open."""
    uri = contact_uri(head, origin)
    assert uri is not None, "the table has checked it"
    headers, left_s = head.headers, expires_s(head)
    state = b"active;expires=%d" % left_s if left_s else b"terminated;reason=timeout"
    own = _own_uri(origin)
    body = _PRESENCE % (own, own)
    to = headers[b"to"] if head.to_tag else b"%s;tag=%s" % (headers[b"to"], own_tag(head))
    return (
        b"NOTIFY %s SIP/2.0\r\nVia: SIP/2.0/%s %s;rport;branch=z9hG4bK%s%x\r\nMax-Forwards: 70\r\n"
        b"From: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d NOTIFY\r\nContact: <%s>\r\nEvent: %s\r\n"
        b"Subscription-State: %s\r\nContent-Type: application/pidf+xml\r\nContent-Length: %d\r\n\r\n%s"
    ) % (
        uri,
        origin.transport.encode(),
        origin.local.encode(),
        own_tag(head),
        sequence,
        to,
        headers[b"from"],
        headers[b"call-id"],
        sequence,
        own,
        headers[b"event"],
        state,
        len(body),
        body,
    )


def contact_uri(head: Head, origin: Origin) -> bytes | None:
    """The URI of the Contact if it is the source itself; else None.

    Over UDP that is the address and port of the request. Over TCP and TLS only the address must match, as
    everything is sent on the connection, whatever its port.
    """
    contact = _CONTACT.fullmatch(head.headers.get(b"contact", b""))
    text = (contact["in"] or contact["bare"]).strip() if contact else b""
    uri = _URI.fullmatch(text)
    if uri is None or _MADDR.search(uri["parameters"]):
        return None
    if _literal(uri["host"]) != _literal(origin.ip.encode()):
        return None
    over = _TRANSPORT.search(uri["parameters"])
    secure = uri["scheme"].lower() == b"sips" or bool(over and over[1].lower() == b"tls")
    if origin.transport == "UDP":
        port = int(uri["port"] or 5060)
        if secure or port != origin.port or (over and over[1].lower() != b"udp"):
            return None
    return text


def expires_s(head: Head) -> int:
    """How long a subscription is granted: what it asks for, at most an hour."""
    asked = number(head.headers.get(b"expires", b"%d" % _MOST_EXPIRES_S), 2**32 - 1)
    return min(asked or 0, _MOST_EXPIRES_S)


def own_tag(head: Head) -> bytes:
    """This process's tag for a request: always the same for the same Call-ID and From tag."""
    if head.method == b"SUBSCRIBE":
        text = head.headers[b"call-id"] + b"\0" + tag_of(head.headers[b"from"])
        return hashlib.blake2b(text, key=_SECRET, digest_size=8).hexdigest().encode()
    return message_tag(head.headers[b"call-id"], head.headers[b"cseq"])


def message_tag(call_id: bytes, cseq: bytes) -> bytes:
    """The tag in the answer to a MESSAGE: the same for a retransmission."""
    return b"%x" % (hash(call_id + cseq) & 0xFFFFFFFFFFFFFFFF)


def _own_uri(origin: Origin) -> bytes:
    over = "" if origin.transport == "UDP" else f";transport={origin.transport.lower()}"
    return f"sip:{origin.local}{over}".encode()


@lru_cache(maxsize=1024)
def _literal(host: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | bytes:
    """The IP address (IPv4-mapped IPv6 as IPv4); ``host`` itself if it is not an address."""
    try:
        found = ipaddress.ip_address(host.strip(b"[]").decode("ascii"))
    except ValueError:
        return host
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


_PRESENCE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="%s">'
    b'<tuple id="server"><status><basic>open</basic></status><contact>%s</contact></tuple></presence>\n'
)
