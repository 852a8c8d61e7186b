"""The one form of each frame as bytes, both ways; pure.

Rules (docs/protocol.md, Synchronization, is the contract):

1. A frame is one line of JSON in UTF-8, at most ``MAX_LINE_BYTES`` with its ``\\n``. Where it has
   ``length``, that many bytes of payload follow, at most ``MAX_PAYLOAD_BYTES``, unpacked too.
2. Here only the *form* is judged: types, ranges, order, moments that exist. Whether a frame may come
   now is the business of states.py and session.py. What has another form raises RemoteProtocolError.
3. Keys that are not known are ignored, so that a later protocol may add some; unknown types are not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ec_server.synchronization.frames import (
    MAX_LINE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PIECE_S,
    MAX_RANGES,
    PROTOCOL,
    SECOND_US,
    AskMinutes,
    AskSamples,
    AskSeconds,
    Auth,
    Challenge,
    Error,
    Frame,
    Hello,
    Minutes,
    Ping,
    Pong,
    Samples,
    Seconds,
    Side,
    Verified,
    Welcome,
)
from utilities.errors import RemoteProtocolError
from utilities.model import Digest
from utilities.utc import minute_text, parse_minute, parse_second, second_text

_DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,128}")
_MAX_NUMBER = 2**53
_MAX_ERROR_TEXT = 500


# --- to bytes -----------------------------------------------------------------------------


def encode(frame: Frame) -> bytes:
    """The frame's line, with its payload behind it. ValueError where it passes a limit."""
    line = json.dumps(_FIELDS[type(frame)](frame), separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a frame of {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed")
    return line + frame.payload if isinstance(frame, Samples) else line


def _samples_fields(frame: Samples) -> dict[str, Any]:
    head = {"type": "samples", "id": frame.id, "second": second_text(frame.second), "count": frame.count}
    if not frame.count:
        return {**head, "length": 0}
    encoding = "zlib" if frame.packed else "plain"
    return {**head, "md5": frame.md5, "encoding": encoding, "length": frame.length}


def _listed(digests: tuple[tuple[int, Digest], ...], text: Callable[[int], str]) -> list[list[Any]]:
    return [[text(moment), digest.count, digest.md5] for moment, digest in digests]


def _optional(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}


def _minute(moment: int | None) -> str | None:
    return None if moment is None else minute_text(moment)


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


_FIELDS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    Hello: lambda f: (
        {"type": "hello", "protocol": f.protocol, "device": f.device} | _optional("oldest", _minute(f.oldest))
    ),
    Challenge: lambda f: {"type": "challenge", "nonce": f.nonce},
    Auth: lambda f: {"type": "auth", "mac": f.mac},
    Welcome: lambda f: {"type": "welcome", "protocol": f.protocol, "interval": _number(f.interval_s)},
    AskMinutes: lambda f: {
        "type": "minutes",
        "id": f.id,
        "from": minute_text(f.start),
        "to": minute_text(f.stop),
    },
    Minutes: lambda f: (
        {"type": "minutes", "id": f.id, "digests": _listed(f.digests, minute_text)}
        | _optional("through", _minute(f.through))
    ),
    AskSeconds: lambda f: {"type": "seconds", "id": f.id, "minute": minute_text(f.minute)},
    Seconds: lambda f: {"type": "seconds", "id": f.id, "digests": _listed(f.digests, second_text)},
    AskSamples: lambda f: (
        {"type": "samples", "id": f.id, "second": second_text(f.second)} | _optional("ranges", f.ranges)
    ),
    Samples: _samples_fields,
    Verified: lambda f: {
        "type": "verified",
        "through": minute_text(f.through),
        "compared": f.compared,
        "repaired": f.repaired,
        "unresolved": f.unresolved,
        "extra": f.extra,
    },
    Ping: lambda _f: {"type": "ping"},
    Pong: lambda _f: {"type": "pong"},
    Error: lambda f: {"type": "error", "code": f.code, "message": f.message[:_MAX_ERROR_TEXT]},
}


# --- from bytes ---------------------------------------------------------------------------


def decode(sender: Side, line: bytes) -> Frame:
    """The frame of one line (with or without its ``\\n``); a payload is still to come (``with_payload``).

    Raises RemoteProtocolError, which names the key that is wrong.
    """
    fields = _Fields(_parse(line))
    kind = fields.text("type")
    decoder = _DECODERS.get((sender, kind))
    if decoder is None:
        raise RemoteProtocolError("unknown_type", f"a {sender.value} sends no frame of type {kind[:40]!r}")
    if "length" in fields.values and decoder is not _decode_samples:
        raise RemoteProtocolError("bad_frame", f"a frame of type {kind!r} has no payload")
    return decoder(fields)


def payload_length(frame: Frame) -> int:
    """How many bytes follow the frame's line."""
    return frame.length if isinstance(frame, Samples) else 0


def with_payload(frame: Frame, payload: bytes) -> Frame:
    """The same frame with the bytes that followed its line."""
    return replace(frame, payload=payload) if isinstance(frame, Samples) else frame


class FrameBuffer:
    """What came and is not yet a frame: never longer than one frame's limits and one read."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def append(self, data: bytes) -> None:
        """Put the next bytes behind."""
        self._bytes += data

    def take_line(self) -> bytes | None:
        """The next line with its ``\\n``; None while it is not whole; RemoteProtocolError when too long."""
        end = self._bytes.find(b"\n", self._searched)
        if end + 1 > MAX_LINE_BYTES or (end < 0 and len(self._bytes) >= MAX_LINE_BYTES):
            raise RemoteProtocolError("line_too_long", f"a line of more than {MAX_LINE_BYTES} bytes")
        if end < 0:
            self._searched = len(self._bytes)
            return None
        return self.take(end + 1)

    def take(self, length: int) -> bytes | None:
        """The next ``length`` bytes; None while they are not all there."""
        if len(self._bytes) < length:
            return None
        taken = bytes(self._bytes[:length])
        del self._bytes[:length]
        self._searched = 0
        return taken


def _parse(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("bad_json", f"a line that is not JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise RemoteProtocolError("bad_json", "a line that is not a JSON object")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


class _Fields:
    """A frame's keys, each read with the form that it must have."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def text(self, key: str, form: re.Pattern[str] | None = None) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or (form is not None and not form.fullmatch(value)):
            raise _bad(key, value)
        return value

    def integer(self, key: str, low: int = 0, high: int = _MAX_NUMBER) -> int:
        return _integer(key, self.values.get(key), low, high)

    def minute(self, key: str) -> int:
        return _moment(key, self.values.get(key), parse_minute)

    def second(self, key: str) -> int:
        return _moment(key, self.values.get(key), parse_second)

    def optional_minute(self, key: str) -> int | None:
        return None if self.values.get(key) is None else self.minute(key)

    def listed(self, key: str) -> list[Any]:
        value = self.values.get(key)
        if not isinstance(value, list):
            raise _bad(key, value)
        return value

    def digests(self, parse: Callable[[str], int]) -> tuple[tuple[int, Digest], ...]:
        found = tuple(_digest(entry, parse) for entry in self.listed("digests"))
        if any(a[0] >= b[0] for a, b in zip(found, found[1:])):
            raise RemoteProtocolError("bad_frame", "'digests' are not ascending")
        return found


def _bad(key: str, value: Any) -> RemoteProtocolError:
    shown = "is missing" if value is None else f"cannot be {str(value)[:80]!r}"
    return RemoteProtocolError("bad_frame", f"{key!r} {shown}")


def _integer(key: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _bad(key, value)
    return value


def _moment(key: str, value: Any, parse: Callable[[str], int]) -> int:
    if not isinstance(value, str):
        raise _bad(key, value)
    try:
        return parse(value)
    except ValueError as error:
        raise _bad(key, value) from error


def _digest(entry: Any, parse: Callable[[str], int]) -> tuple[int, Digest]:
    if not isinstance(entry, list) or len(entry) != 3:
        raise _bad("digests", entry)
    moment, count, md5 = entry
    if not isinstance(md5, str) or not _MD5.fullmatch(md5):
        raise _bad("digests", md5)
    return _moment("digests", moment, parse), Digest(_integer("digests", count, 1, _MAX_NUMBER), md5)


def _ranges(value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RANGES:
        raise RemoteProtocolError("bad_frame", f"'ranges' must be 1 to {MAX_RANGES} ranges")
    end, found = 0, []
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 2:
            raise _bad("ranges", entry)
        start = _integer("ranges", entry[0], end, SECOND_US - 1)
        end = _integer("ranges", entry[1], start + 1, SECOND_US)
        found.append((start, end))
    return tuple(found)


def _decode_hello(f: _Fields) -> Hello:
    protocol = f.integer("protocol")
    if protocol != PROTOCOL:
        raise RemoteProtocolError("unsupported_protocol", f"protocol {protocol}; here {PROTOCOL} is spoken")
    return Hello(f.text("device", _DEVICE_ID), f.optional_minute("oldest"), protocol)


def _decode_welcome(f: _Fields) -> Welcome:
    interval = f.values.get("interval")
    if not isinstance(interval, int | float) or isinstance(interval, bool) or not 0 < interval < 1e9:
        raise _bad("interval", interval)
    return Welcome(float(interval), f.integer("protocol", PROTOCOL, PROTOCOL))


def _decode_ask_minutes(f: _Fields) -> AskMinutes:
    asked = AskMinutes(f.integer("id"), f.minute("from"), f.minute("to"))
    if not 0 < asked.stop - asked.start <= MAX_PIECE_S:
        raise RemoteProtocolError("bad_frame", "'from' and 'to' must span 1 to 60 minutes")
    return asked


def _decode_ask_samples(f: _Fields) -> AskSamples:
    ranges = _ranges(f.values["ranges"]) if "ranges" in f.values else None
    return AskSamples(f.integer("id"), f.second("second"), ranges)


def _decode_samples(f: _Fields) -> Samples:
    number, second, count = f.integer("id"), f.second("second"), f.integer("count", 0, SECOND_US)
    length = f.integer("length")
    if length > MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError("payload_too_long", f"a payload of more than {MAX_PAYLOAD_BYTES} bytes")
    if not count and not length:
        return Samples(number, second, 0, "", False, 0)
    encoding = f.text("encoding")
    if encoding not in ("plain", "zlib"):
        raise _bad("encoding", encoding)
    return Samples(number, second, count, f.text("md5", _MD5), encoding == "zlib", length)


def _decode_verified(f: _Fields) -> Verified:
    compared, repaired, unresolved = (f.integer(key) for key in ("compared", "repaired", "unresolved"))
    extra = f.integer("extra") if "extra" in f.values else 0
    return Verified(f.minute("through"), compared, repaired, unresolved, extra)


def _decode_error(f: _Fields) -> Error:
    return Error(f.text("code")[:64], f.text("message")[:_MAX_ERROR_TEXT])


_DECODERS: Mapping[tuple[Side, str], Callable[[_Fields], Frame]] = {
    (Side.DEVICE, "hello"): _decode_hello,
    (Side.SERVER, "challenge"): lambda f: Challenge(f.text("nonce", _HEX)),
    (Side.DEVICE, "auth"): lambda f: Auth(f.text("mac", _HEX)),
    (Side.SERVER, "welcome"): _decode_welcome,
    (Side.SERVER, "minutes"): _decode_ask_minutes,
    (Side.DEVICE, "minutes"): lambda f: Minutes(
        f.integer("id"), f.digests(parse_minute), f.optional_minute("through")
    ),
    (Side.SERVER, "seconds"): lambda f: AskSeconds(f.integer("id"), f.minute("minute")),
    (Side.DEVICE, "seconds"): lambda f: Seconds(f.integer("id"), f.digests(parse_second)),
    (Side.SERVER, "samples"): _decode_ask_samples,
    (Side.DEVICE, "samples"): _decode_samples,
    (Side.SERVER, "verified"): _decode_verified,
    **{(side, "ping"): lambda _f: Ping() for side in Side},
    **{(side, "pong"): lambda _f: Pong() for side in Side},
    **{(side, "error"): _decode_error for side in Side},
}
