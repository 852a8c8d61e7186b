"""The door in front of PJSIP's handles: when it is shut, and that it shuts real sockets."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilities.sip_door import HANDLES, Handles, SipDoor

LIMIT = 10
REST_S = 0.5
"""How long PJSIP keeps the handle of a connection that has ended."""


class TestHandles:
    def test_it_lets_in_while_a_handle_is_free(self) -> None:
        handles = Handles(LIMIT)
        for _ in range(LIMIT - 1):
            handles.opened()
        handles.ended(0)
        assert not handles.may_meet_a_resting_one(0)

    def test_it_lets_nobody_in_while_the_rest_only_rests(self) -> None:
        handles = Handles(LIMIT)
        for _ in range(LIMIT):
            handles.opened()
        handles.ended(100.0)
        assert handles.may_meet_a_resting_one(100.0)
        assert handles.may_meet_a_resting_one(100.0 + REST_S)
        assert not handles.may_meet_a_resting_one(101.0)

    def test_where_all_are_open_pjsip_itself_refuses(self) -> None:
        handles = Handles(LIMIT)
        for _ in range(LIMIT):
            handles.opened()
        assert not handles.may_meet_a_resting_one(0)

    def test_a_reserve_is_kept(self) -> None:
        handles = Handles(LIMIT, reserve=3)
        for _ in range(LIMIT - 3):
            handles.opened()
        assert not handles.may_meet_a_resting_one(0)
        handles.ended(0)
        assert handles.may_meet_a_resting_one(0)

    @given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.2)), max_size=200))
    def test_an_accepted_connection_never_meets_only_resting_handles(
        self, steps: list[tuple[bool, float]]
    ) -> None:
        handles, now_s, open_count, resting = Handles(LIMIT), 0.0, 0, list[float]()
        for comes, pause_s in steps:
            now_s += pause_s
            resting = [until for until in resting if until > now_s]
            if comes and not handles.may_meet_a_resting_one(now_s) and open_count < LIMIT:
                assert open_count + len(resting) < LIMIT
                open_count += 1
                handles.opened()
            elif not comes and open_count:
                open_count -= 1
                resting.append(now_s + REST_S)
                handles.ended(now_s)


def test_a_shut_door_keeps_connections_waiting_and_an_open_one_lets_them_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        door = SipDoor([port], other_sockets=HANDLES - 1)
        door.handles.opened()
        door.handles.ended(0.0)
        door.look(0.0)
        assert door.is_shut
        with socket.create_connection(("127.0.0.1", port)) as peer:
            with pytest.raises(BlockingIOError):
                listener.accept()
            door.look(10.0)
            assert not door.is_shut
            accepted, source = listener.accept()
            accepted.close()
            assert source == peer.getsockname()
        door.close()


def test_only_the_named_ports_are_guarded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        door = SipDoor([1], other_sockets=HANDLES - 1)
        door.handles.opened()
        door.handles.ended(0.0)
        door.look(0.0)
        with socket.create_connection(other.getsockname()):
            other.accept()[0].close()
        door.close()
