"""The form of every frame: what is written is read back, and what has another form says why."""

from __future__ import annotations

import contextlib
import json
import zlib

import pytest

from ec_server.synchronization import frames as f
from ec_server.synchronization.wire import FrameBuffer, decode, encode, payload_length, with_payload
from utilities.errors import RemoteProtocolError
from utilities.model import Digest
from utilities.utc import parse_minute, parse_second

MINUTE = parse_minute("202603011200")
SECOND = parse_second("20260301120007")
MD5 = "0123456789abcdef0123456789abcdef"
DEVICE, SERVER = f.Side.DEVICE, f.Side.SERVER

EVERY_FRAME = [
    (DEVICE, f.Hello("meter-7")),
    (DEVICE, f.Hello("meter-7", MINUTE)),
    (SERVER, f.Challenge("00ff")),
    (DEVICE, f.Auth("ab" * 32)),
    (SERVER, f.Welcome(1800)),
    (SERVER, f.Welcome(0.5)),
    (SERVER, f.AskMinutes(1, MINUTE, MINUTE + 3600)),
    (DEVICE, f.Minutes(1, ((MINUTE, Digest(3, MD5)), (MINUTE + 120, Digest(9, MD5))))),
    (DEVICE, f.Minutes(1, (), MINUTE)),
    (SERVER, f.AskSeconds(2, MINUTE)),
    (DEVICE, f.Seconds(2, ((SECOND, Digest(3, MD5)),))),
    (SERVER, f.AskSamples(3, SECOND)),
    (SERVER, f.AskSamples(3, SECOND, ((0, 1000), (1000, 2000), (999_999, 1_000_000)))),
    (DEVICE, f.Samples(3, SECOND, 0, "", packed=False, length=0)),
    (DEVICE, f.Samples(3, SECOND, 1, MD5, packed=True, length=17)),
    (SERVER, f.Verified(MINUTE - 60, MINUTE, 30, 2, 1, 7)),
    (SERVER, f.Verified(parse_minute("000101010000"), parse_minute("099912312359"), 0, 0, 0, 0)),
    (SERVER, f.Ping()),
    (DEVICE, f.Pong()),
    (DEVICE, f.Error("busy", "not now")),
]


def refused(sender: f.Side, line: bytes | str | dict[str, object]) -> RemoteProtocolError:
    if isinstance(line, dict):
        line = json.dumps(line)
    with pytest.raises(RemoteProtocolError) as caught:
        decode(sender, line.encode() if isinstance(line, str) else line)
    return caught.value


class TestEveryFrame:
    @pytest.mark.parametrize(("sender", "frame"), EVERY_FRAME, ids=lambda v: type(v).__name__)
    def test_what_is_written_is_read_back(self, sender: f.Side, frame: f.Frame) -> None:
        line = encode(frame)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert decode(sender, line) == frame

    @pytest.mark.parametrize(("sender", "frame"), EVERY_FRAME, ids=lambda v: type(v).__name__)
    def test_a_key_that_is_missing_is_named(self, sender: f.Side, frame: f.Frame) -> None:
        fields = json.loads(encode(frame))
        optional = {"oldest", "through", "ranges", "extra"}
        if isinstance(frame, f.Samples) and not frame.count:
            optional |= {"md5", "encoding"}
        for key in fields.keys() - optional - {"type"}:
            error = refused(sender, {k: v for k, v in fields.items() if k != key})
            assert error.code == "bad_frame"
            assert repr(key) in str(error)

    @pytest.mark.parametrize(("sender", "frame"), EVERY_FRAME, ids=lambda v: type(v).__name__)
    @pytest.mark.parametrize("value", [None, True, -1, 1.5, "", "x", [], {}, [[]], 2**70])
    def test_a_value_of_another_kind_never_escapes_as_another_error(
        self, sender: f.Side, frame: f.Frame, value: object
    ) -> None:
        fields = json.loads(encode(frame))
        for key in fields:
            with contextlib.suppress(RemoteProtocolError):
                decode(sender, json.dumps(fields | {key: value}).encode())

    def test_keys_that_are_not_known_are_ignored(self) -> None:
        line = b'{"type":"hello","protocol":1,"device":"a","firmware":"2.1","x":{"y":[1]}}\n'
        assert decode(DEVICE, line) == f.Hello("a")


class TestLines:
    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"\n",
            b"GET / HTTP/1.1\r\n",
            b"\xff\xfe\n",
            b"[]\n",
            b"3\n",
            b'{"type":"ping"\n',
            b'{"type":"welcome","protocol":1,"interval":NaN}\n',
            b"[" * 60_000 + b"\n",
            b'{"type":"minutes","id":' + b"9" * 60_000 + b"}\n",
        ],
    )
    def test_what_is_not_a_json_object_is_refused(self, line: bytes) -> None:
        assert refused(DEVICE, line).code == "bad_json"

    @pytest.mark.parametrize("kind", ["", "hallo", "minute", "x" * 1000])
    def test_an_unknown_type_is_refused(self, kind: str) -> None:
        assert refused(DEVICE, {"type": kind}).code == "unknown_type"

    def test_a_frame_that_only_the_other_side_sends_is_refused(self) -> None:
        assert refused(DEVICE, {"type": "welcome", "protocol": 1, "interval": 1}).code == "unknown_type"

    def test_only_samples_have_a_payload(self) -> None:
        assert decode(DEVICE, b'{"type":"hello","protocol":1,"device":"a","length":0}') == f.Hello("a")
        error = refused(DEVICE, {"type": "hello", "protocol": 1, "device": "a", "length": 5})
        assert error.code == "bad_frame"


class TestValues:
    @pytest.mark.parametrize("device", ["", "a" * 65, "a b", "a|b", "a/b", "é", "a\n"])
    def test_a_device_id_has_one_to_64_allowed_characters(self, device: str) -> None:
        assert refused(DEVICE, {"type": "hello", "protocol": 1, "device": device}).code == "bad_frame"

    def test_another_protocol_is_named(self) -> None:
        error = refused(DEVICE, {"type": "hello", "protocol": 2, "device": "a"})
        assert error.code == "unsupported_protocol"

    @pytest.mark.parametrize("moment", ["20260301120", "202602301200", "2026030112000", "20260301120x", 1])
    def test_a_minute_that_does_not_exist_is_refused(self, moment: object) -> None:
        assert refused(SERVER, {"type": "seconds", "id": 1, "minute": moment}).code == "bad_frame"

    @pytest.mark.parametrize(
        "digests",
        [
            [["202603011200", 0, MD5]],
            [["202603011200", 1, MD5[:-1]]],
            [["202603011200", 1, MD5.upper()]],
            [["202603011200", 1]],
            [["202603011201", 1, MD5], ["202603011200", 1, MD5]],
            [["202603011200", 1, MD5], ["202603011200", 1, MD5]],
            {"202603011200": [1, MD5]},
        ],
    )
    def test_digests_are_ascending_triples_of_what_is_not_empty(self, digests: object) -> None:
        assert refused(DEVICE, {"type": "minutes", "id": 1, "digests": digests}).code == "bad_frame"

    @pytest.mark.parametrize(
        "ranges",
        [[], [[5, 5]], [[5, 4]], [[0, 10], [9, 20]], [[-1, 5]], [[0, 1_000_001]], [[0, 1]] * 1001, [[0]]],
    )
    def test_ranges_are_half_open_ascending_and_at_most_a_thousand(self, ranges: object) -> None:
        fields = {"type": "samples", "id": 1, "second": "20260301120007", "ranges": ranges}
        assert refused(SERVER, fields).code == "bad_frame"

    def test_a_request_spans_at_most_an_hour(self) -> None:
        fields = {"type": "minutes", "id": 1, "from": "202603011200", "to": "202603011301"}
        assert refused(SERVER, fields).code == "bad_frame"

    def test_a_thousand_of_the_longest_ranges_fit_in_a_line(self) -> None:
        ranges = tuple((900_000 + 2 * i, 900_001 + 2 * i) for i in range(f.MAX_RANGES))
        assert len(encode(f.AskSamples(2**50, SECOND, ranges))) < f.MAX_LINE_BYTES

    def test_an_hour_of_minutes_fits_in_a_line(self) -> None:
        digests = tuple((MINUTE + 60 * i, Digest(10**9, MD5)) for i in range(60))
        assert len(encode(f.Minutes(2**50, digests, MINUTE))) < f.MAX_LINE_BYTES // 10


class TestSamples:
    TEXT = "000000,1.5;000022,-2;999999,3e-7"

    @pytest.mark.parametrize("packed", [False, True])
    def test_the_text_arrives_as_it_was(self, packed: bool) -> None:
        sent = f.samples_answer(f.AskSamples(4, SECOND), self.TEXT, packed=packed)
        line, payload = encode(sent).split(b"\n", 1)
        received = decode(DEVICE, line)
        assert payload_length(received) == len(payload)
        got = with_payload(received, payload)
        assert isinstance(got, f.Samples)
        assert got.text() == self.TEXT

    def test_a_second_that_the_device_does_not_have_is_count_zero(self) -> None:
        sent = f.samples_answer(f.AskSamples(4, SECOND), "", packed=True)
        assert json.loads(encode(sent)) == {
            "type": "samples",
            "id": 4,
            "second": "20260301120007",
            "count": 0,
            "length": 0,
        }
        assert sent.text() == ""

    def test_an_empty_text_may_come_packed_too(self) -> None:
        payload = zlib.compress(b"")
        got = f.Samples(4, SECOND, 0, MD5, packed=True, length=len(payload), payload=payload)
        assert decode(DEVICE, encode(f.Samples(4, SECOND, 1, MD5, packed=True, length=8)))
        assert got.text() == ""

    def test_a_payload_that_is_not_what_it_says_is_refused(self) -> None:
        good = f.samples_answer(f.AskSamples(4, SECOND), self.TEXT, packed=False)
        for bad in (
            f.Samples(4, SECOND, 3, MD5, packed=False, length=good.length, payload=good.payload),
            f.Samples(4, SECOND, 4, good.md5, packed=False, length=good.length, payload=good.payload),
            f.Samples(4, SECOND, 3, good.md5, packed=True, length=good.length, payload=good.payload),
            f.Samples(4, SECOND, 3, good.md5, packed=False, length=0, payload=b""),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                bad.text()
            assert caught.value.code == "bad_samples"

    def test_a_payload_that_unpacks_beyond_the_limit_is_refused_within_little_memory(self) -> None:
        bomb = zlib.compress(bytes(200 * 2**20), 9)
        with pytest.raises(RemoteProtocolError) as caught:
            f.unpack(bomb)
        assert caught.value.code == "payload_too_long"

    @pytest.mark.parametrize("cut", [lambda p: p[:-1], lambda p: p + b"x", lambda p: b"", lambda p: p * 2])
    def test_a_payload_is_one_whole_stream(self, cut: object) -> None:
        with pytest.raises(RemoteProtocolError):
            f.unpack(cut(zlib.compress(b"000000,1")))  # type: ignore[operator]

    def test_a_payload_over_the_limit_is_refused_by_its_line_alone(self) -> None:
        fields = {
            "type": "samples",
            "id": 1,
            "second": "20260301120007",
            "count": 5,
            "md5": MD5,
            "encoding": "plain",
            "length": f.MAX_PAYLOAD_BYTES + 1,
        }
        assert refused(DEVICE, fields).code == "payload_too_long"


class TestFrameBuffer:
    def test_a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not(self) -> None:
        buffer = FrameBuffer()
        buffer.append(b"x" * (f.MAX_LINE_BYTES - 1))
        assert buffer.take_line() is None
        buffer.append(b"\n")
        assert len(buffer.take_line() or b"") == f.MAX_LINE_BYTES
        buffer.append(b"x" * f.MAX_LINE_BYTES)
        with pytest.raises(RemoteProtocolError) as caught:
            buffer.take_line()
        assert caught.value.code == "line_too_long"

    def test_a_long_line_that_comes_in_one_piece_is_refused_too(self) -> None:
        buffer = FrameBuffer()
        buffer.append(b"x" * f.MAX_LINE_BYTES + b"\n")
        with pytest.raises(RemoteProtocolError):
            buffer.take_line()

    def test_lines_and_payloads_come_apart_whatever_they_arrive_in(self) -> None:
        stream = b"one\ntwo\n12345three\n"
        for cut in range(len(stream)):
            buffer = FrameBuffer()
            buffer.append(stream[:cut])
            buffer.append(stream[cut:])
            assert [buffer.take_line(), buffer.take_line(), buffer.take(5), buffer.take_line()] == [
                b"one\n",
                b"two\n",
                b"12345",
                b"three\n",
            ]


def test_the_proof_of_a_key_is_the_documented_hmac() -> None:
    # printf 'c0ffee|meter-7' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f
    key = bytes(range(32))
    assert f.mac_of(key, "c0ffee", "meter-7") == (
        "6f809babe2610476f414e62f106a9a61e09335a9a3dce111846f6d912436ac93"
    )
