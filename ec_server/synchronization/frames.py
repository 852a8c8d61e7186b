"""The frames of the synchronization as immutable values; pure.

docs/protocol.md, Synchronization, says what each is for; frame_table.py defines its keys and who may send it
when. Minutes, seconds and ranges of them are UTC epoch seconds here; microsecond ranges are within a second.
All ranges are half-open. A request and its answer have the same type on the wire, but separate classes here.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from dataclasses import dataclass
from enum import Enum

from utilities.errors import RemoteProtocolError
from utilities.model import Digest
from utilities.utc import MINUTE_S, second_text

PROTOCOL = 1
MAX_LINE_BYTES = 65_536
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
MAX_RANGES = 1_000
MAX_PIECE_S = 60 * MINUTE_S
"""The longest range of one ``minutes`` request."""
MAX_ERROR_TEXT = 500
"""Characters of an error's message that are kept."""
SECOND_US = 1_000_000
_UNPACKED_AT_ONCE = 1 << 16


class Side(Enum):
    """The sender of a frame."""

    SERVER = "server"
    DEVICE = "device"

    @property
    def other(self) -> Side:
        """The peer."""
        return Side.DEVICE if self is Side.SERVER else Side.SERVER


@dataclass(frozen=True, slots=True)
class Hello:
    """The device's id, and optionally the first minute that it can still serve."""

    device: str
    oldest: int | None = None
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Challenge:
    """The server asks for proof that the device has its key, computed over this nonce (hex)."""

    nonce: str


@dataclass(frozen=True, slots=True)
class Auth:
    """The device's proof: the hex text of ``mac_of``."""

    mac: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The device is admitted; a round begins at once and then every ``interval_s``."""

    interval_s: float
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class AskMinutes:
    """The server asks for the digests of the minutes in ``[start, stop)``."""

    id: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Minutes:
    """The non-empty minutes, ascending; from ``through`` on the device has not finished recording."""

    id: int
    digests: tuple[tuple[int, Digest], ...]
    through: int | None = None


@dataclass(frozen=True, slots=True)
class AskSeconds:
    """The server asks for the digests of a minute's seconds."""

    id: int
    minute: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """The non-empty seconds, ascending."""

    id: int
    digests: tuple[tuple[int, Digest], ...]


@dataclass(frozen=True, slots=True)
class AskSamples:
    """The server asks for a second's samples, or only for those in microsecond ranges of it."""

    id: int
    second: int
    ranges: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """Canonical text as a payload, plain or compressed; ``count`` and ``md5`` are those of the plain text."""

    id: int
    second: int
    count: int
    md5: str
    packed: bool
    length: int
    payload: bytes = b""

    def text(self) -> str:
        """The payload as canonical text, decompressed within the limit and checked against count and md5.

        Raises RemoteProtocolError if it does not match.
        """
        plain = unpack(self.payload) if self.packed else self.payload
        if not plain and not self.count:
            return ""
        if hashlib.md5(plain, usedforsecurity=False).hexdigest() != self.md5:
            raise RemoteProtocolError("bad_samples", f"samples of {second_text(self.second)}: md5 differs")
        if not plain or plain.count(b";") + 1 != self.count:
            raise RemoteProtocolError("bad_samples", f"samples of {second_text(self.second)}: count differs")
        try:
            return plain.decode("ascii")
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("bad_samples", f"samples are not ASCII: {error}") from error


@dataclass(frozen=True, slots=True)
class Verified:
    """The end of a round; see docs/protocol.md for what each number counts."""

    start: int
    """The first minute that the round covers."""
    through: int
    compared: int
    repaired: int
    unresolved: int
    extra: int = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """Sent by either side to check whether the other still answers."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""


@dataclass(frozen=True, slots=True)
class Error:
    """Why the sender closes the connection."""

    code: str
    message: str


Request = AskMinutes | AskSeconds | AskSamples
Answer = Minutes | Seconds | Samples
Frame = Hello | Challenge | Auth | Welcome | Request | Answer | Verified | Ping | Pong | Error


def mac_of(key: bytes, nonce: str, device: str) -> str:
    """HMAC-SHA256 in hex with the device's key over the ASCII text ``nonce|device``."""
    return hmac.new(key, f"{nonce}|{device}".encode("ascii"), hashlib.sha256).hexdigest()


def unpack(packed: bytes) -> bytes:
    """Decompress zlib data, at most MAX_PAYLOAD_BYTES; RemoteProtocolError if it is incomplete or too long.

    This is done in pieces, to avoid large allocations, so that freed memory can be reused.
    """
    stream, rest, parts, length = zlib.decompressobj(), packed, list[bytes](), 0
    try:
        while not stream.eof and (part := stream.decompress(rest, _UNPACKED_AT_ONCE)):
            length += len(part)
            if length > MAX_PAYLOAD_BYTES:
                raise RemoteProtocolError("payload_too_long", f"unpacked over {MAX_PAYLOAD_BYTES} bytes")
            parts.append(part)
            rest = stream.unconsumed_tail
    except zlib.error as error:
        raise RemoteProtocolError("bad_samples", f"the payload does not unpack: {error}") from error
    if not stream.eof or stream.unused_data:
        raise RemoteProtocolError("bad_samples", "the payload is not one whole zlib stream")
    return b"".join(parts)


def samples_answer(request: AskSamples, text: str, *, packed: bool) -> Samples:
    """The device's answer to a request from canonical text ("" if it has nothing)."""
    plain = text.encode("ascii")
    if not plain:
        return Samples(request.id, request.second, 0, "", False, 0)
    payload = zlib.compress(plain, 1) if packed else plain
    md5 = hashlib.md5(plain, usedforsecurity=False).hexdigest()
    count = text.count(";") + 1
    return Samples(request.id, request.second, count, md5, packed, len(payload), payload)
