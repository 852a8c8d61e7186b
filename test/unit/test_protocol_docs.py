"""docs/protocol.md is true: its exchange is replayed byte for byte by both sides, its tables are complete."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from sync_meter import NOON, MemoryMeter, Samples_, batch, stored_samples

from ec_server.ingest.message_body import Limits, parse
from ec_server.storage.memory_store import MemoryStore
from ec_server.synchronization import frames as f
from ec_server.synchronization import server_conversation as sc
from ec_server.synchronization.payload_memory import TOTAL_BYTES
from ec_server.synchronization.round import compare
from ec_server.synchronization.round_state import RoundTask
from ec_server.synchronization.session import Session
from ec_server.synchronization.steps import Ask, Collect, Use
from ec_server.synchronization.unidentified import MAX_OF_SOURCE, MAX_UNIDENTIFIED
from ec_server.synchronization.wire import encode
from reference_client.sync_answerer import answer
from utilities.model import Batch, RejectReason

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text("utf-8")
KEY = bytes(range(32))


def exchange() -> list[tuple[f.Side, bytes]]:
    """Who sends which bytes, payloads with their lines."""
    (block,) = (b for b in re.findall(r"```\n(.*?)\n```", TEXT, re.DOTALL) if b.startswith("D  "))
    said: list[tuple[f.Side, bytes]] = []
    for line in block.split("\n"):
        who, content = line[:3], line[3:].encode()
        if who.endswith("> "):
            said[-1] = (said[-1][0], said[-1][1] + content)
        else:
            said.append((f.Side.DEVICE if who[0] == "D" else f.Side.SERVER, content + b"\n"))
    return said


def recorded() -> dict[int, Samples_]:
    rows = re.findall(r"^\| 12:00:(\d\d) \| `(.*)` \|$", TEXT, re.MULTILINE)
    return {NOON + int(second): {int(s[:6]): s[7:] for s in text.split(";")} for second, text in rows}


class Replay:
    """One side that must say exactly what the document says, and hears the rest from it."""

    def __init__(self, side: f.Side) -> None:
        self.side, self.session, self.script = side, Session(side), exchange()
        self.heard: list[object] = []

    def say(self, frame: f.Frame) -> None:
        self.listen()
        self.session.send(frame)
        sender, expected = self.script.pop(0)
        assert self.session.data_to_send() == expected
        assert sender is self.side

    def listen(self) -> None:
        while self.script and self.script[0][0] is not self.side:
            self.session.receive_data(self.script.pop(0)[1])
            self.heard += self.session.events_received()


def test_the_device_says_byte_for_byte_what_the_exchange_says() -> None:
    meter, replay = MemoryMeter(recorded()), Replay(f.Side.DEVICE)
    meter.unfinished = NOON + 120
    replay.say(f.Hello("meter-7", meter.oldest()))
    while replay.script:
        replay.listen()
        event = replay.heard.pop(0)
        if isinstance(event, f.Challenge):
            replay.say(f.Auth(f.mac_of(KEY, event.nonce, "meter-7")))
        elif isinstance(event, f.AskSamples):
            text = meter.samples(event.second, event.ranges or [(0, f.SECOND_US)])
            replay.say(f.samples_answer(event, text, packed=False))
        elif isinstance(event, f.AskMinutes | f.AskSeconds):
            replay.say(answer(event, meter))
    assert not replay.session.unanswered


def test_the_server_says_byte_for_byte_what_the_exchange_says() -> None:
    store, replay, meter = MemoryStore(), Replay(f.Side.SERVER), recorded()
    store.note_devices({"meter-7": NOON * 1_000_000})
    store.ingest([batch("meter-7", NOON, meter[NOON])])
    store.ingest([batch("meter-7", NOON + 1, {0: "230.2", 750_000: "230.1"})])
    store.ingest([batch("meter-7", NOON + 2, {0: "229.9", 250_000: "999"})])
    replay.listen()
    nonce = re.search(r'"nonce":"(\w+)"', TEXT)
    assert nonce is not None
    replay.say(f.Challenge(nonce[1]))
    replay.listen()
    assert replay.heard[-1] == f.Auth(f.mac_of(KEY, nonce[1], "meter-7"))
    replay.say(f.Welcome(1800))
    steps, result, number = compare(RoundTask("meter-7", NOON, NOON + 180), lambda: 0), None, 0
    while True:
        try:
            command = steps.send(result)
        except StopIteration as end:
            replay.say(end.value.verified)
            break
        result = None
        if isinstance(command, Ask):
            number += 1
            replay.say(replace(command.request, id=number))
            result = number
        elif isinstance(command, Collect):
            replay.listen()
            result = next(e for e in replay.heard if getattr(e, "id", None) == command.id)
        elif isinstance(command, Use):
            result = command.call(store)
    assert not replay.script
    assert stored_samples(store, "meter-7", NOON, NOON + 60) == meter


def test_the_printed_digests_are_right() -> None:
    text = "000000,230.1;250000,231.4;500000,229.8;750000,230"
    second = hashlib.md5(text.encode()).hexdigest()
    minute = hashlib.md5(f"120000,4,{second}\n".encode()).hexdigest()
    assert f"| second 12:00:00 with the text `{text}` | 4, `{second}` |" in TEXT
    assert f"| 4, `{minute}` |" in TEXT


def test_every_error_code_that_the_server_uses_is_explained() -> None:
    folder = ROOT / "ec_server" / "synchronization"
    source = "\n".join(path.read_text("utf-8") for path in folder.glob("*.py"))
    used = set(re.findall(r'(?:ProtocolError|broken|\.end|\.fail)\(\s*"([a-z_]+)"', source))
    reasons = (RejectReason.UNKNOWN_DEVICE, RejectReason.WRONG_NETWORK, RejectReason.WRONG_CERTIFICATE)
    used |= {reason.value for reason in reasons}
    used |= set(re.findall(r'Fault\(\s*"([a-z_]+)"', source)) - {"storage"}
    meter = (ROOT / "reference_client" / "sync_answerer.py").read_text("utf-8")
    used |= set(re.findall(r'\.fail\(\s*"([a-z_]+)"', meter))
    section = TEXT[TEXT.index("### 3.8") : TEXT.index("### 3.9")]
    first_columns = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    in_the_log_only = section[section.index("Four more") :]
    explained = set(re.findall(r"`(\w+)`", first_columns + in_the_log_only))
    assert used - {"ended", "code"} == explained


def test_the_printed_values_are_what_c_prints() -> None:
    rows = re.findall(r"^\| `((?:[0-9a-f]{2} ){3}[0-9a-f]{2})` \| `(.*)` \|$", TEXT, re.MULTILINE)
    assert len(rows) > 8
    for given, printed in rows:
        (value,) = struct.unpack("<f", bytes.fromhex(given))
        assert f"{value:.9g}" == printed
        body = b"meter-7|1772366400|" + struct.pack("<i", 5) + bytes.fromhex(given) + b"||"
        parsed = parse(body, Limits(), NOON)
        assert isinstance(parsed, Batch)
        assert parsed.values == f"000005,{printed}"
    assert f"{0.00001:.9g}" == "1e-05"


def test_the_longest_lines_of_the_server_are_as_long_as_stated() -> None:
    most = 2**53
    ranges = tuple((999_000 + i, 999_001 + i) for i in range(f.MAX_RANGES))
    longest = encode(f.AskSamples(most, NOON, ranges))
    assert len(longest) < 17_500
    assert "less than 17,500 bytes" in TEXT
    others: list[f.Frame] = [
        f.Error("not_allowed_now", "\u20ac" * 1000),
        f.Verified(NOON, NOON, most, most, most, most),
        f.AskMinutes(most, NOON, NOON + 60),
        f.Challenge("00" * 128),
    ]
    assert max(len(encode(frame)) for frame in others) < 3_500


def test_the_stated_limits_are_those_of_the_program() -> None:
    assert TOTAL_BYTES == 64 * 2**20
    assert TOTAL_BYTES * 3 // 4 == 48 * 2**20
    assert (MAX_UNIDENTIFIED, MAX_OF_SOURCE) == (4096, 2048)
    assert (sc.HANDSHAKE_S, sc.ANSWER_S, sc.SLOWEST_BYTES_S) == (10, 30, 8192)
    assert (sc.IDLE_S, sc.PONG_S, sc.FLOOD_PINGS, sc.FLOOD_S) == (60, 30, 100, 10)
    assert (sc.MEMORY_WAIT_S, sc.PRESSED_S, sc.FRAMES_AT_ONCE) == (30, 10, 16)


@pytest.mark.parametrize(
    "number", ["65,536", "16,777,216", "1,000", "60 minutes", "four questions", "200,000"]
)
def test_the_limits_are_stated(number: str) -> None:
    assert number in TEXT
