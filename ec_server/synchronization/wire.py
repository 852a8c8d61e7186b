"""Encodes and decodes frames according to frame_table.py; pure.

Rules (the specification is docs/protocol.md, Synchronization):

1. A frame is one line of JSON in UTF-8, at most ``MAX_LINE_BYTES`` including its ``\\n``. If it has
   ``length``, that many bytes of payload follow, at most ``MAX_PAYLOAD_BYTES``, also when decompressed.
2. Only the *format* is checked here; a wrong one raises RemoteProtocolError. session.py decides whether a
   frame is allowed now.
3. Unknown keys are ignored, so that a later protocol can add some; unknown types are errors.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from ec_server.synchronization.field_forms import bad_value
from ec_server.synchronization.frame_table import BY_CLASS, BY_NAME, FrameKind
from ec_server.synchronization.frames import MAX_LINE_BYTES, Frame, Samples, Side
from utilities.errors import RemoteProtocolError


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_ENCODER = json.JSONEncoder(separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def encode(frame: Frame) -> bytes:
    """The frame's line, followed by its payload. ValueError if it exceeds a limit."""
    kind = BY_CLASS[type(frame)]
    values = {"type": kind.name}
    for field in kind.fields:
        if field.is_written(frame):
            values[field.name] = field.form.write(getattr(frame, field.attribute))
    line = _ENCODER.encode(values).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a frame of {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed")
    return line + frame.payload if isinstance(frame, Samples) else line


def decode(sender: Side, line: bytes) -> Frame:
    """The frame in one line (with or without its ``\\n``), still without payload (see ``with_payload``).

    Raises RemoteProtocolError, which names the wrong key.
    """
    values = _parse(line)
    name = values.get("type")
    if not isinstance(name, str):
        raise bad_value("type", name)
    kind = BY_NAME.get((sender, name))
    if kind is None:
        raise RemoteProtocolError("unknown_type", f"a {sender.value} sends no frame of type {name[:40]!r}")
    if values.get("length", 0) != 0 and not kind.payload:
        raise RemoteProtocolError("bad_frame", f"a frame of type {name!r} has no payload")
    return kind.frame(**_read(kind, values))


def _read(kind: FrameKind, values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in kind.fields:
        value = values.get(field.name)
        if value is not None or not (field.optional or field.only_if):
            found[field.attribute] = field.form.read(field.name, value)
    if kind.check is not None:
        kind.check(found)
    return {field.attribute: field.absent for field in kind.fields} | found


def _parse(line: bytes) -> dict[str, Any]:
    try:
        values = _DECODER.decode(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("bad_json", f"a line that is not JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise RemoteProtocolError("bad_json", "a line that is not a JSON object")
    return values


def payload_length(frame: Frame) -> int:
    """How many bytes follow the frame's line."""
    return frame.length if isinstance(frame, Samples) else 0


def with_payload(frame: Frame, payload: bytes) -> Frame:
    """The same frame with the bytes that followed its line."""
    return replace(frame, payload=payload) if isinstance(frame, Samples) else frame


class FrameBuffer:
    """Received bytes that are not a complete frame yet: at most the limits of one frame, plus one read."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def append(self, data: bytes) -> None:
        """Append received bytes."""
        self._bytes += data

    def take_line(self) -> bytes | None:
        """The next line with its ``\\n``; None while incomplete; RemoteProtocolError if it is too long."""
        end = self._bytes.find(b"\n", self._searched)
        if end + 1 > MAX_LINE_BYTES or (end < 0 and len(self._bytes) >= MAX_LINE_BYTES):
            raise RemoteProtocolError("line_too_long", f"a line of more than {MAX_LINE_BYTES} bytes")
        if end < 0:
            self._searched = len(self._bytes)
            return None
        return self.take(end + 1)

    def take(self, length: int) -> bytes | None:
        """The next ``length`` bytes; None until all have arrived."""
        if len(self._bytes) < length:
            return None
        taken = bytes(self._bytes[:length])
        del self._bytes[:length]
        self._searched = 0
        return taken
