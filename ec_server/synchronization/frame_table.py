"""Every frame of the protocol in one table: its name, who may send it in which state, its fields; pure.

The table defines the protocol, for both sides. A row has

    frame       the class in frames.py
    name        ``type`` in its JSON line
    moves       who may send it in which state, and the state after it
    fields      its keys in the order in which they are written, each with its form (field_forms.py)
    check       a check of several keys together
    payload     whether bytes may follow its line

A frame that is not allowed in the present state is illegal: the state does not change, and the receiver ends
the connection with ``error``.

    OPENED ──hello──> GREETED ──welcome───────────────────────> READY <── questions, answers, verified,
                         └────challenge──> CHALLENGED ──auth──> PROVING ──welcome──> READY   ping, pong

    any state: ``error`` leads to CLOSED.

Traps:

1. Between ``auth`` and ``welcome`` the device's key is checked. PROVING is a separate state so that a device
   cannot continue as if it had been admitted.
2. Here a ``pong`` is always allowed in READY; session.py checks that it answers a ``ping``.
3. A request and its answer have the same name on the wire. The sender distinguishes them, so no name may
   occur twice for the same side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any

from ec_server.synchronization import field_forms as form
from ec_server.synchronization.field_forms import Form, bad_value
from ec_server.synchronization.frames import (
    MAX_PAYLOAD_BYTES,
    MAX_PIECE_S,
    PROTOCOL,
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


class State(Enum):
    """The state of a connection."""

    OPENED = "opened"
    GREETED = "greeted"
    CHALLENGED = "challenged"
    PROVING = "proving"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a frame: the attribute of its class, and the key if its name is different."""

    attribute: str
    form: Form
    key: str = ""
    optional: bool = False
    """The key may be missing, and is not written if its value is None."""
    only_if: Callable[[Any], bool] | None = None
    """The key is written only if this is true of the frame; it may be missing if ``check`` allows it."""
    absent: Any = None
    """The attribute's value if the key is missing."""

    @property
    def name(self) -> str:
        """The key in the line."""
        return self.key or self.attribute

    def is_written(self, frame: Frame) -> bool:
        """Whether the key is in the frame's line."""
        if self.optional:
            return getattr(frame, self.attribute) is not None
        return self.only_if is None or self.only_if(frame)


Moves = Mapping[tuple[Side, State], State]
Check = Callable[[Mapping[str, Any]], None]
"""Takes the values by attribute; raises RemoteProtocolError."""


@dataclass(frozen=True, slots=True)
class FrameKind:
    """One row of the table; see the module's docstring."""

    frame: type[Frame]
    name: str
    moves: Moves
    fields: tuple[Field, ...] = ()
    check: Check | None = None
    payload: bool = False

    @property
    def senders(self) -> frozenset[Side]:
        """Who may send it in any state."""
        return frozenset(side for side, _ in self.moves)


def _check_protocol(values: Mapping[str, Any]) -> None:
    if values["protocol"] != PROTOCOL:
        raise RemoteProtocolError(
            "unsupported_protocol", f"protocol {values['protocol']} is not supported, only {PROTOCOL}"
        )


def _check_piece(values: Mapping[str, Any]) -> None:
    if not 0 < values["stop"] - values["start"] <= MAX_PIECE_S:
        raise RemoteProtocolError("bad_frame", "'from' and 'to' must span 1 to 60 minutes")


def _check_payload(values: Mapping[str, Any]) -> None:
    if values["length"] > MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError("payload_too_long", f"a payload of more than {MAX_PAYLOAD_BYTES} bytes")
    if values["count"] or values["length"]:
        for attribute, key in (("md5", "md5"), ("packed", "encoding")):
            if values.get(attribute, "") == "":
                raise bad_value(key, None)


def _has_samples(frame: Samples) -> bool:
    return frame.count > 0


_SERVER, _DEVICE = Side.SERVER, Side.DEVICE
_BY_SERVER: Moves = {(_SERVER, State.READY): State.READY}
_BY_DEVICE: Moves = {(_DEVICE, State.READY): State.READY}
_LIVING = tuple(state for state in State if state is not State.CLOSED)
_BY_EITHER: Moves = {**_BY_SERVER, **_BY_DEVICE}
_THE_END: Moves = {(side, state): State.CLOSED for side in Side for state in _LIVING}
_ID = Field("id", form.NUMBER)

FRAMES: tuple[FrameKind, ...] = (
    FrameKind(
        Hello,
        "hello",
        {(_DEVICE, State.OPENED): State.GREETED},
        (
            Field("protocol", form.NUMBER),
            Field("device", form.DEVICE_ID),
            Field("oldest", form.MINUTE, optional=True),
        ),
        _check_protocol,
    ),
    FrameKind(
        Challenge,
        "challenge",
        {(_SERVER, State.GREETED): State.CHALLENGED},
        (Field("nonce", form.HEX),),
    ),
    FrameKind(
        Auth,
        "auth",
        {(_DEVICE, State.CHALLENGED): State.PROVING},
        (Field("mac", form.HEX),),
    ),
    FrameKind(
        Welcome,
        "welcome",
        {(_SERVER, State.GREETED): State.READY, (_SERVER, State.PROVING): State.READY},
        (Field("protocol", form.integer(PROTOCOL, PROTOCOL)), Field("interval_s", form.INTERVAL, "interval")),
    ),
    FrameKind(
        AskMinutes,
        "minutes",
        _BY_SERVER,
        (_ID, Field("start", form.MINUTE, "from"), Field("stop", form.MINUTE, "to")),
        _check_piece,
    ),
    FrameKind(
        Minutes,
        "minutes",
        _BY_DEVICE,
        (_ID, Field("digests", form.MINUTE_DIGESTS), Field("through", form.MINUTE, optional=True)),
    ),
    FrameKind(AskSeconds, "seconds", _BY_SERVER, (_ID, Field("minute", form.MINUTE))),
    FrameKind(Seconds, "seconds", _BY_DEVICE, (_ID, Field("digests", form.SECOND_DIGESTS))),
    FrameKind(
        AskSamples,
        "samples",
        _BY_SERVER,
        (_ID, Field("second", form.SECOND), Field("ranges", form.RANGES, optional=True)),
    ),
    FrameKind(
        Samples,
        "samples",
        _BY_DEVICE,
        (
            _ID,
            Field("second", form.SECOND),
            Field("count", form.SAMPLE_COUNT),
            Field("md5", form.MD5, only_if=_has_samples, absent=""),
            Field("packed", form.ENCODING, "encoding", only_if=_has_samples, absent=False),
            Field("length", form.NUMBER),
        ),
        _check_payload,
        payload=True,
    ),
    FrameKind(
        Verified,
        "verified",
        _BY_SERVER,
        (
            Field("start", form.MINUTE, "from"),
            Field("through", form.MINUTE),
            Field("compared", form.NUMBER),
            Field("repaired", form.NUMBER),
            Field("unresolved", form.NUMBER),
            Field("extra", form.NUMBER, optional=True, absent=0),
        ),
    ),
    FrameKind(Ping, "ping", _BY_EITHER),
    FrameKind(Pong, "pong", _BY_EITHER),
    FrameKind(Error, "error", _THE_END, (Field("code", form.CODE), Field("message", form.MESSAGE))),
)

BY_CLASS: Mapping[type[Frame], FrameKind] = {kind.frame: kind for kind in FRAMES}
BY_NAME: Mapping[tuple[Side, str], FrameKind] = {
    (side, kind.name): kind for kind in FRAMES for side in kind.senders
}
TRANSITIONS: Mapping[tuple[State, Side, type[Frame]], State] = dict(
    chain.from_iterable(
        (((state, side, kind.frame), after) for (side, state), after in kind.moves.items()) for kind in FRAMES
    )
)


def next_state(state: State, sender: Side, frame: Frame) -> State | None:
    """The state after a frame; None if the frame is not allowed now."""
    return TRANSITIONS.get((state, sender, type(frame)))
