"""The states of one synchronization connection as one table, the same for both sides; pure.

The table is the rule: a frame is allowed where ``(state, sender, frame type)`` stands in it, and leads
to the state beside it. Everything else is illegal: the state stays what it was, and the side that saw
it ends the connection with ``error``.

    OPENED ──hello──> GREETED ──welcome───────────────────────> READY <── requests, answers, verified
                         └────challenge──> CHALLENGED ──auth──> PROVING ──welcome──> READY

    any state: ping and pong leave it as it is; ``error`` leads to CLOSED.

Trap: between ``auth`` and ``welcome`` the device's key is being checked. PROVING is a state of its own
so that a device cannot go on as if it had been let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ec_server.synchronization.frames import (
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


class State(Enum):
    """Where a connection stands."""

    OPENED = "opened"
    GREETED = "greeted"
    CHALLENGED = "challenged"
    PROVING = "proving"
    READY = "ready"
    CLOSED = "closed"


_LIVING = (State.OPENED, State.GREETED, State.CHALLENGED, State.PROVING, State.READY)

TRANSITIONS: Mapping[tuple[State, Side, type[Frame]], State] = {
    (State.OPENED, Side.DEVICE, Hello): State.GREETED,
    (State.GREETED, Side.SERVER, Challenge): State.CHALLENGED,
    (State.GREETED, Side.SERVER, Welcome): State.READY,
    (State.CHALLENGED, Side.DEVICE, Auth): State.PROVING,
    (State.PROVING, Side.SERVER, Welcome): State.READY,
    **{
        (State.READY, Side.SERVER, kind): State.READY
        for kind in (AskMinutes, AskSeconds, AskSamples, Verified)
    },
    **{(State.READY, Side.DEVICE, kind): State.READY for kind in (Minutes, Seconds, Samples)},
    **{(state, side, kind): state for state in _LIVING for side in Side for kind in (Ping, Pong)},
    **{(state, side, Error): State.CLOSED for state in _LIVING for side in Side},
}


def next_state(state: State, sender: Side, frame: Frame) -> State | None:
    """The state after a frame; None where the frame is not allowed now."""
    return TRANSITIONS.get((state, sender, type(frame)))
