"""The server's side of a connection without a socket: who is let in, and every deadline."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ec_server.synchronization import server_conversation as sc
from ec_server.synchronization.frames import AskSamples, AskSeconds, Minutes, Samples, mac_of
from ec_server.synchronization.server_conversation import Gate, Happening, Identified, ServerConversation
from ec_server.synchronization.session import Ended
from utilities.model import RejectReason
from utilities.utc import parse_minute

MINUTE = parse_minute("202603011200")
KEY = bytes(range(32))
PING, PONG = b'{"type":"ping"}\n', b'{"type":"pong"}\n'


def gate(key: bytes = b"", refused: RejectReason | None = None) -> Gate:
    return Gate(lambda _: refused, lambda _: key, 1800)


class Device:
    """A conversation, a clock that the test moves, and what the device has seen of it."""

    def __init__(self, admission: Gate | None = None) -> None:
        self.now = 1000.0
        self.conversation = ServerConversation(admission or gate(), self.now, lambda: "c0ffee")
        self.happened: list[Happening] = []

    def say(self, data: bytes | dict[str, Any]) -> list[dict[str, Any]]:
        """Send, and look at what comes back."""
        data = data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n"
        self.conversation.receive_data(data, self.now)
        while self.conversation.is_behind:
            self.conversation.receive_data(b"", self.now)
        return self.frames()

    def frames(self) -> list[dict[str, Any]]:
        self.happened += self.conversation.happenings()
        return [json.loads(line) for line in self.conversation.data_to_send().splitlines()]

    def hello(self, **more: Any) -> list[dict[str, Any]]:
        return self.say({"type": "hello", "protocol": 1, "device": "meter-7"} | more)

    def wait(self, seconds: float, memory_is_short: bool = False) -> list[dict[str, Any]]:
        self.now += seconds
        self.conversation.tick(self.now, memory_is_short)
        return self.frames()

    @property
    def ended(self) -> str:
        """The code of the end; empty while there is none."""
        last = self.happened[-1] if self.happened else None
        return last.code if isinstance(last, Ended) else ""


@pytest.fixture
def device() -> Device:
    """One that was welcomed."""
    device = Device()
    assert device.hello()[0]["type"] == "welcome"
    return device


class TestWhoIsLetIn:
    def test_a_device_without_a_key_is_welcomed_and_identified_at_once(self) -> None:
        device = Device()
        assert device.hello(oldest="202603011200") == [{"type": "welcome", "protocol": 1, "interval": 1800}]
        assert device.happened == [Identified("meter-7", MINUTE)]

    def test_a_device_with_a_key_is_identified_only_by_its_proof(self) -> None:
        device = Device(gate(KEY))
        assert device.hello() == [{"type": "challenge", "nonce": "c0ffee"}]
        assert not device.conversation.identified
        answer = device.say({"type": "auth", "mac": mac_of(KEY, "c0ffee", "meter-7").upper()})
        assert answer[0]["type"] == "welcome"
        assert device.happened == [Identified("meter-7", None)]

    def test_a_wrong_proof_ends_the_connection(self) -> None:
        device = Device(gate(KEY))
        device.hello()
        assert device.say({"type": "auth", "mac": "00"})[0]["code"] == "wrong_key"
        assert not device.conversation.identified

    def test_a_device_that_the_gate_refuses_is_told_why(self) -> None:
        device = Device(gate(refused=RejectReason.UNKNOWN_DEVICE))
        assert device.hello()[0]["code"] == "unknown_device"

    def test_what_came_before_a_broken_rule_in_the_same_bytes_is_not_acted_on(self) -> None:
        device = Device()
        device.say(b'{"type":"hello","protocol":1,"device":"meter-7"}\nnonsense\n')
        assert device.ended == "bad_json"
        assert not device.conversation.identified


class TestDeadlines:
    def test_a_handshake_has_ten_seconds(self) -> None:
        device = Device()
        device.say(b'{"type":"hel')
        assert device.wait(sc.HANDSHAKE_S - 1) == []
        assert device.wait(2)[0]["code"] == "timeout"

    def test_an_answer_has_thirty_seconds_whatever_else_comes(self, device: Device) -> None:
        device.conversation.ask(AskSeconds(0, MINUTE), device.now)
        assert device.wait(sc.ANSWER_S - 1)[0]["type"] == "seconds"
        assert device.say(PING) == [{"type": "pong"}]
        assert device.wait(2)[0]["code"] == "timeout"

    def test_a_payload_has_the_time_that_it_takes_at_the_slowest_rate(self, device: Device) -> None:
        device.conversation.ask(AskSamples(0, MINUTE), device.now)
        length = 40 * sc.SLOWEST_BYTES_S
        head = {"type": "samples", "id": 1, "second": "20260301120000", "count": 9, "md5": "0" * 32}
        device.say(head | {"encoding": "plain", "length": length})
        for _ in range(6):
            device.say(b"x" * 100)
            assert device.wait(11) == []
        assert device.wait(11)[0]["code"] == "timeout"

    def test_time_in_which_the_server_does_not_read_does_not_count_against_the_device(
        self, device: Device
    ) -> None:
        device.conversation.ask(AskSeconds(0, MINUTE), device.now)
        device.wait(20)
        device.conversation.pause(device.now)
        assert device.wait(sc.MEMORY_WAIT_S - 1) == []
        device.conversation.resume(device.now)
        assert device.wait(9) == []
        assert device.wait(2)[0]["code"] == "timeout"

    def test_a_connection_that_waits_too_long_for_memory_ends_with_busy(self, device: Device) -> None:
        device.conversation.pause(device.now)
        assert device.wait(sc.MEMORY_WAIT_S + 1)[0]["code"] == "busy"

    def test_while_others_wait_for_memory_a_payload_must_come_quickly(self, device: Device) -> None:
        device.conversation.ask(AskSamples(0, MINUTE), device.now)
        head = {"type": "samples", "id": 1, "second": "20260301120000", "count": 9, "md5": "0" * 32}
        device.say(head | {"encoding": "plain", "length": 10**7})
        assert device.wait(sc.PRESSED_S + 1) == []
        assert device.wait(0, memory_is_short=True)[0]["code"] == "busy"

    def test_a_silent_device_is_pinged_and_disconnected_without_a_pong(self, device: Device) -> None:
        assert device.wait(sc.IDLE_S + 1) == [{"type": "ping"}]
        assert device.say(PONG) == []
        assert device.wait(sc.IDLE_S + 1) == [{"type": "ping"}]
        assert device.wait(sc.PONG_S + 1)[0]["code"] == "timeout"


class TestQuestions:
    def test_each_has_an_id_of_its_own_and_its_answer_is_handed_on(self, device: Device) -> None:
        numbers = [device.conversation.ask(AskSeconds(0, MINUTE + 60 * i), device.now) for i in range(4)]
        assert numbers == [1, 2, 3, 4]
        assert [frame["id"] for frame in device.frames()] == numbers
        device.say({"type": "seconds", "id": 3, "digests": []})
        assert [h.id for h in device.happened if hasattr(h, "id")] == [3]
        assert not any(isinstance(h, Minutes) for h in device.happened)

    def test_a_payload_is_not_taken_before_there_is_room_for_it(self, device: Device) -> None:
        device.conversation.ask(AskSamples(0, MINUTE), device.now)
        head = {"type": "samples", "id": 1, "second": "20260301120000", "count": 1, "md5": "0" * 32}
        device.say(json.dumps(head | {"encoding": "plain", "length": 8}).encode() + b"\n000000,1")
        assert device.conversation.payload_expected == 8
        assert not any(isinstance(h, Samples) for h in device.happened)
        device.conversation.release_payload()
        device.say(b"")
        (samples,) = [h for h in device.happened if isinstance(h, Samples)]
        assert samples.payload == b"000000,1"


class TestAFlood:
    def test_of_pings_ends_the_connection(self, device: Device) -> None:
        answers = device.say(PING * 20_000)
        assert answers[-1]["code"] == "flood"
        assert len(answers) <= sc.FLOOD_PINGS + sc.FRAMES_AT_ONCE + 1

    def test_only_a_few_frames_are_processed_at_once(self, device: Device) -> None:
        device.conversation.receive_data(PING * 50, device.now)
        assert len(device.frames()) == sc.FRAMES_AT_ONCE
        assert device.conversation.is_behind
        assert len(device.say(b"")) == 50 - sc.FRAMES_AT_ONCE
