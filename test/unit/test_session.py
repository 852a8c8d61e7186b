"""Both sides of a connection joined in memory: a byte at a time, cut at every byte, and broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ec_server.synchronization import frames as f
from ec_server.synchronization.frame_table import TRANSITIONS, State
from ec_server.synchronization.session import WINDOW, Ended, Session
from ec_server.synchronization.wire import encode
from utilities.errors import LocalProtocolError
from utilities.model import Digest
from utilities.utc import parse_minute

MINUTE = parse_minute("202603011200")
DIGEST = Digest(3, "0123456789abcdef0123456789abcdef")
KEY = bytes(32)
TEXT = "000000,1.5;000022,-2;999999,3e-7"
ASK_MINUTES = f.AskMinutes(1, MINUTE, MINUTE + 120)
ASK_SECONDS = f.AskSeconds(2, MINUTE)
ASK_SAMPLES = f.AskSamples(3, MINUTE + 7)
SERVER, DEVICE = f.Side.SERVER, f.Side.DEVICE

CONVERSATION: list[tuple[f.Side, f.Frame]] = [
    (DEVICE, f.Hello("meter-7", MINUTE)),
    (SERVER, f.Challenge("c0ffee")),
    (DEVICE, f.Auth(f.mac_of(KEY, "c0ffee", "meter-7"))),
    (SERVER, f.Welcome(1800)),
    (SERVER, ASK_MINUTES),
    (DEVICE, f.Ping()),
    (DEVICE, f.Minutes(1, ((MINUTE, DIGEST),), MINUTE + 60)),
    (SERVER, ASK_SECONDS),
    (SERVER, ASK_SAMPLES),
    (DEVICE, f.samples_answer(ASK_SAMPLES, TEXT, packed=True)),
    (DEVICE, f.Seconds(2, ((MINUTE + 7, DIGEST),))),
    (SERVER, f.Verified(MINUTE, MINUTE + 60, 1, 1, 0)),
    (SERVER, f.Error("stopping", "the server stops")),
]


class Pair:
    """Both sides, joined."""

    def __init__(self) -> None:
        self.sides = {side: Session(side) for side in f.Side}
        self.events: dict[f.Side, list[object]] = {side: [] for side in f.Side}

    def say(self, sender: f.Side, frame: f.Frame, piece: int = 2**30) -> None:
        self.sides[sender].send(frame)
        self.settle(sender, piece)

    def settle(self, sender: f.Side, piece: int = 2**30) -> None:
        data = self.sides[sender].data_to_send()
        for at in range(0, len(data), piece):
            self.sides[sender.other].receive_data(data[at : at + piece])
        self.events[sender.other] += self.sides[sender.other].events_received()
        reply = self.sides[sender.other].data_to_send()
        self.sides[sender].receive_data(reply)
        self.events[sender] += self.sides[sender].events_received()


def bytes_from(side: f.Side) -> bytes:
    return b"".join(encode(frame) for sender, frame in CONVERSATION[:-1] if sender is side)


def at_state(state: State) -> Pair:
    """A pair that has just come to a state."""
    pair = Pair()
    for sender, frame in CONVERSATION:
        if pair.sides[SERVER].state is state:
            break
        pair.say(sender, frame)
    assert pair.sides[SERVER].state is pair.sides[DEVICE].state is state
    return pair


class TestAConversation:
    @pytest.mark.parametrize("piece", [1, 2, 7, 64, 2**30])
    def test_every_frame_arrives_whatever_pieces_the_bytes_come_in(self, piece: int) -> None:
        pair = Pair()
        for sender, frame in CONVERSATION:
            pair.say(sender, frame, piece)
        for side in f.Side:
            expected = [frame for sender, frame in CONVERSATION if sender is side.other]
            if side is DEVICE:
                expected = [*expected[:3], f.Pong(), *expected[3:-1]]
                assert pair.events[side][-1] == Ended("stopping", "the server stops", by_peer=True)
                assert pair.events[side][:-1] == expected
            else:
                assert pair.events[side] == expected

    def test_both_sides_stand_in_the_same_state_after_every_frame(self) -> None:
        pair = Pair()
        for sender, frame in CONVERSATION:
            pair.say(sender, frame)
            server, device = pair.sides[SERVER], pair.sides[DEVICE]
            assert server.state is device.state
            assert server.unanswered == device.unanswered

    def test_a_device_without_a_key_is_welcomed_at_once(self) -> None:
        pair = Pair()
        pair.say(DEVICE, f.Hello("meter-7"))
        pair.say(SERVER, f.Welcome(1800))
        assert pair.sides[DEVICE].state is State.READY

    @pytest.mark.parametrize("side", list(f.Side))
    def test_a_ping_is_answered_once_the_device_is_welcomed(self, side: f.Side) -> None:
        pair = at_state(State.READY)
        pair.say(side, f.Ping())
        assert pair.events[side][-1] == f.Pong()
        assert pair.sides[side].state is State.READY

    @pytest.mark.parametrize("state", [State.OPENED, State.GREETED, State.CHALLENGED, State.PROVING])
    @pytest.mark.parametrize("frame", [f.Ping(), f.Pong()])
    def test_a_device_that_pings_or_pongs_before_its_welcome_is_disconnected(
        self, state: State, frame: f.Frame
    ) -> None:
        server = at_state(state).sides[SERVER]
        server.receive_data(encode(frame))
        (ended,) = server.events_received()
        assert isinstance(ended, Ended)
        assert ended.code == "not_allowed_now"

    @pytest.mark.parametrize("side", list(f.Side))
    def test_a_pong_answers_one_open_ping_and_no_more(self, side: f.Side) -> None:
        pair = at_state(State.READY)
        pair.say(side, f.Ping())
        assert not pair.sides[side].ended
        pair.sides[side].receive_data(encode(f.Pong()))
        (ended,) = pair.sides[side].events_received()
        assert isinstance(ended, Ended)
        assert ended.code == "not_asked_for"
        assert pair.sides[side].state is State.READY

    @pytest.mark.parametrize("side", list(f.Side))
    def test_a_connection_cut_after_any_byte_ends_and_says_whether_a_frame_was_cut(
        self, side: f.Side
    ) -> None:
        stream, ends = bytes_from(side.other), {0}
        for sender, frame in CONVERSATION[:-1]:
            if sender is side.other:
                ends.add(max(ends) + len(encode(frame)))
        for cut in range(len(stream)):
            session = replayed(side, stream[:cut])
            session.receive_eof()
            last = session.events_received()[-1]
            assert isinstance(last, Ended)
            assert last.by_peer
            assert last.code == ("closed" if cut in ends else "cut")


def replayed(side: f.Side, received: bytes) -> Session:
    """One side after it received bytes, its own frames sent at the moments of the conversation."""
    session, rest = Session(side), received
    for sender, frame in CONVERSATION[:-1]:
        if sender is side:
            session.send(frame)
        else:
            length = len(encode(frame))
            session.receive_data(rest[:length])
            rest = rest[length:]
            if not rest:
                break
    session.data_to_send()
    session.events_received()
    return session


def illegal_frames() -> Iterator[tuple[State, f.Side, f.Frame]]:
    frames: list[tuple[f.Side, f.Frame]] = [*CONVERSATION, (SERVER, f.Welcome(60)), (DEVICE, f.Pong())]
    for state in State:
        for sender, frame in frames:
            if (state, sender, type(frame)) not in TRANSITIONS and state is not State.CLOSED:
                yield state, sender, frame


class TestAnIllegalFrame:
    @pytest.mark.parametrize(("state", "sender", "frame"), list(illegal_frames()), ids=str)
    def test_it_leaves_the_state_unchanged_and_ends_the_connection_with_a_reason(
        self, state: State, sender: f.Side, frame: f.Frame
    ) -> None:
        pair = at_state(state)
        victim = pair.sides[sender.other]
        before = dict(victim.unanswered)
        victim.receive_data(encode(frame))
        assert victim.state is state
        assert victim.unanswered == before
        assert victim.ended
        (ended,) = victim.events_received()
        assert isinstance(ended, Ended)
        assert ended.code in {"not_allowed_now", "not_asked_for"}
        assert not ended.by_peer
        reply = victim.data_to_send()
        assert reply == encode(f.Error(ended.code, ended.message))
        pair.sides[sender].receive_data(reply)
        (told,) = pair.sides[sender].events_received()
        assert told == Ended(ended.code, ended.message, by_peer=True)

    @pytest.mark.parametrize(("state", "sender", "frame"), list(illegal_frames()), ids=str)
    def test_an_own_illegal_step_is_an_error_and_changes_nothing(
        self, state: State, sender: f.Side, frame: f.Frame
    ) -> None:
        session = at_state(state).sides[sender]
        with pytest.raises(LocalProtocolError):
            session.send(frame)
        assert session.state is state
        assert not session.ended
        assert session.data_to_send() == b""

    @pytest.mark.parametrize(
        "line",
        [b"nonsense\n", b'{"type":"hello"}\n', b"x" * f.MAX_LINE_BYTES, b'{"type":"minutes","id":1}\n'],
    )
    def test_bytes_that_do_not_parse_end_the_connection_in_any_state(self, line: bytes) -> None:
        for state in State:
            if state is not State.CLOSED:
                victim = at_state(state).sides[SERVER]
                victim.receive_data(line)
                assert victim.state is state
                assert victim.ended
                assert victim.data_to_send().startswith(b'{"type":"error","code":"')

    def test_what_follows_it_is_not_read(self) -> None:
        victim = at_state(State.OPENED).sides[SERVER]
        victim.receive_data(b"nonsense\n" + encode(f.Hello("meter-7")) + b"x" * 10**6)
        victim.receive_data(b"y" * 10**6)
        assert [type(e) for e in victim.events_received()] == [Ended]
        assert len(victim._buffer) == 0

    def test_what_came_before_it_is_kept(self) -> None:
        victim = at_state(State.OPENED).sides[SERVER]
        victim.receive_data(encode(f.Hello("meter-7")) + encode(f.Hello("meter-7")))
        assert [type(e) for e in victim.events_received()] == [f.Hello, Ended]
        assert victim.state is State.GREETED


class TestAnswers:
    def ready(self, *asked: f.Request) -> Pair:
        pair = at_state(State.READY)
        for request in asked:
            pair.say(SERVER, request)
        return pair

    @pytest.mark.parametrize(
        ("asked", "answer"),
        [
            (ASK_MINUTES, f.Minutes(9, ())),
            (ASK_MINUTES, f.Seconds(1, ())),
            (ASK_MINUTES, f.Minutes(1, ((MINUTE - 60, DIGEST),))),
            (ASK_MINUTES, f.Minutes(1, ((MINUTE + 120, DIGEST),))),
            (ASK_SECONDS, f.Seconds(2, ((MINUTE + 60, DIGEST),))),
            (ASK_SAMPLES, f.Samples(3, MINUTE + 8, 0, "", packed=False, length=0)),
        ],
    )
    def test_what_was_not_asked_for_ends_the_connection(self, asked: f.Request, answer: f.Answer) -> None:
        server = self.ready(asked).sides[SERVER]
        server.receive_data(encode(answer))
        (ended,) = server.events_received()
        assert isinstance(ended, Ended)
        assert ended.code == "not_asked_for"
        assert dict(server.unanswered) == {asked.id: asked}

    def test_a_second_answer_to_one_request_ends_the_connection(self) -> None:
        pair = self.ready(ASK_MINUTES)
        pair.say(DEVICE, f.Minutes(1, ()))
        pair.sides[SERVER].receive_data(encode(f.Minutes(1, ())))
        assert pair.sides[SERVER].ended

    def test_a_payload_that_nobody_asked_for_is_refused_before_it_is_held(self) -> None:
        server = self.ready().sides[SERVER]
        line = encode(f.Samples(3, MINUTE, 1, DIGEST.md5, packed=False, length=f.MAX_PAYLOAD_BYTES))
        server.receive_data(line)
        assert server.ended

    def test_answers_may_come_in_any_order(self) -> None:
        pair = self.ready(ASK_MINUTES, ASK_SECONDS, ASK_SAMPLES)
        pair.say(DEVICE, f.Samples(3, MINUTE + 7, 0, "", packed=False, length=0))
        pair.say(DEVICE, f.Minutes(1, ()))
        assert dict(pair.sides[SERVER].unanswered) == {2: ASK_SECONDS}
        assert list(pair.sides[DEVICE].unanswered) == [2]

    def test_the_window_bounds_what_is_unanswered_on_both_sides(self) -> None:
        pair = self.ready(*(f.AskSeconds(n, MINUTE) for n in range(WINDOW)))
        one_more = f.AskSeconds(WINDOW, MINUTE)
        with pytest.raises(LocalProtocolError):
            pair.sides[SERVER].send(one_more)
        pair.sides[DEVICE].receive_data(encode(one_more))
        assert pair.sides[DEVICE].ended

    def test_a_payload_under_way_is_known_by_its_length(self) -> None:
        server = self.ready(ASK_SAMPLES).sides[SERVER]
        sent = f.samples_answer(ASK_SAMPLES, TEXT, packed=False)
        server.receive_data(encode(sent)[:-1])
        assert server.payload_expected == sent.length
        server.receive_data(encode(sent)[-1:])
        assert server.payload_expected == 0
        assert server.events_received() == [sent]
