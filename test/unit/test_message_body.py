"""The parser of message bodies against a slow, obvious reading of the contract."""

from __future__ import annotations

import ctypes
import hashlib
import math
import re
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ec_server.ingest.message_body import Limits, canonical_fault, parse
from utilities.model import Batch, Rejection, RejectReason

NOW = 1_772_366_400
LIMITS = Limits(max_ahead_s=86_400, max_back_s=400 * 86_400, max_samples=300)


def text_body(samples: str, device: str = "meter-7", second: object = NOW) -> bytes:
    return f"{device}|{second}|{samples}||".encode()


def binary(*samples: tuple[int, float]) -> bytes:
    return b";".join([struct.pack("<if", us, value) for us, value in samples])


def binary_body(*samples: tuple[int, float]) -> bytes:
    return b"meter-7|%d|%s||" % (NOW, binary(*samples))


def reason_of(body: bytes, limits: Limits = LIMITS, *, cut: bool = False) -> RejectReason | None:
    found = parse(body, limits, NOW, cut=cut)
    return found.reason if isinstance(found, Rejection) else None


# --- the reference ----------------------------------------------------------------------------


def obvious(body: bytes, limits: Limits, now_s: int) -> tuple[str, int, list[int], str] | None:
    """What the contract says, one rule after the other; None for a rejection."""
    while body[-1:] in (b" ", b"\r", b"\n") and body:
        body = body[:-1]
    if body[-2:] != b"||" or body[:-2].count(b"|") < 2:
        return None
    first = body.index(b"|")
    second = body.index(b"|", first + 1)
    device, time_text, samples = body[:first], body[first + 1 : second], body[second + 1 : -2]
    if not 1 <= len(device) <= 64 or any(chr(c) not in DEVICE_LETTERS for c in device):
        return None
    if not 1 <= len(time_text) <= 20 or any(c not in b"0123456789" for c in time_text):
        return None
    if not now_s - limits.max_back_s <= int(time_text) <= now_s + limits.max_ahead_s:
        return None
    read = obvious_text if all(c in b"0123456789+-.eE,;" for c in samples) else obvious_binary
    found = read(samples) if samples else None
    if found is None or len(found[0]) > limits.max_samples:
        return None
    moments, canonical = found
    if any(not 0 <= us <= 999_999 for us in moments) or any(a >= b for a, b in zip(moments, moments[1:])):
        return None
    return device.decode(), int(time_text), moments, canonical


DEVICE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


def obvious_text(samples: bytes) -> tuple[list[int], str] | None:
    moments = []
    for sample in samples.decode().split(";"):
        parts = sample.split(",")
        if len(parts) != 2 or len(parts[0]) != 6 or not all(c in "0123456789" for c in parts[0]):
            return None
        try:
            value = float(parts[1])
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
        moments.append(int(parts[0]))
    return moments, samples.decode()


def obvious_binary(samples: bytes) -> tuple[list[int], str] | None:
    moments, printed = [], []
    if len(samples) % 9 != 8:
        return None
    for at in range(0, len(samples), 9):
        us, value = struct.unpack("<if", samples[at : at + 8])
        if samples[at + 8 : at + 9] not in (b";", b"") or not math.isfinite(value):
            return None
        moments.append(us)
        printed.append(c_print(us, value))
    return moments, ";".join(printed)


def c_print(us: int, value: float) -> str:
    buffer = ctypes.create_string_buffer(64)
    LIBC.snprintf(buffer, ctypes.c_size_t(64), b"%06d,%.9g", ctypes.c_int(us), ctypes.c_double(value))
    return buffer.value.decode()


LIBC = ctypes.CDLL(None)


def agrees(body: bytes, limits: Limits = LIMITS) -> None:
    found, wanted = parse(body, limits, NOW), obvious(body, limits, NOW)
    if wanted is None:
        assert isinstance(found, Rejection), body
        assert found.detail
        assert found.detail.isprintable()
        return
    device, second, moments, canonical = wanted
    md5 = hashlib.md5(canonical.encode()).hexdigest()
    assert found == Batch(device, second, moments[0], moments[-1], canonical, len(moments), md5), body


# --- strategies -------------------------------------------------------------------------------

numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False).map("{:.9g}".format),
    st.from_regex(r"[+-]?([0-9]{1,12}(\.[0-9]{0,6})?|\.[0-9]{1,4})([eE][+-]?[0-9]{1,4})?", fullmatch=True),
    st.sampled_from(["5.", ".5", "+.5e3", "-0", "00012", "1e308", "1e309", "9" * 308, "9" * 309, "1e-999"]),
)
moments = st.lists(st.integers(0, 999_999), min_size=1, max_size=60, unique=True).map(sorted)


@st.composite
def text_samples(draw: st.DrawFn) -> str:
    return ";".join([f"{us:06d},{draw(numbers)}" for us in draw(moments)])


@st.composite
def binary_samples(draw: st.DrawFn) -> bytes:
    return binary(*[(us, draw(st.floats(width=32))) for us in draw(moments)])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A body that was good, with a few bytes changed, removed, doubled or put in."""
    inside = draw(st.one_of(text_samples().map(str.encode), binary_samples()))
    body = bytearray(b"meter-7|%d|%s||" % (NOW, inside))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        piece = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b";", b",", b"|", b"-", b".", b"e", b"0"]))
        )
        body[at : at + draw(st.integers(0, 9))] = piece
    return bytes(body)


# --- the same as the reference ----------------------------------------------------------------


class TestAgainstTheReference:
    @given(text_samples(), st.sampled_from(["", " ", "\r\n", "\n \r\n"]))
    def test_text_bodies(self, samples: str, ending: str) -> None:
        agrees(text_body(samples) + ending.encode())

    @given(binary_samples())
    def test_binary_bodies(self, samples: bytes) -> None:
        agrees(b"meter-7|%d|%s||" % (NOW, samples))

    @pytest.mark.thorough
    @settings(max_examples=250)
    @given(damaged())
    def test_damaged_bodies(self, body: bytes) -> None:
        agrees(body)

    @settings(max_examples=300)
    @given(st.binary(max_size=200))
    @example(b"")
    @example(b"||")
    @example(b"|||||")
    @example(b"m|1||")
    @example(b"m|" + b"9" * 5000 + b"|000000,1||")
    def test_any_bytes(self, body: bytes) -> None:
        agrees(body)
        agrees(b"meter-7|%d|%s||" % (NOW, body))

    @given(st.text("0123456789+-.eE,;", max_size=60))
    def test_any_text_of_the_bytes_that_make_a_text_body(self, samples: str) -> None:
        agrees(text_body(samples))

    def test_every_cut_of_a_binary_body_is_rejected(self) -> None:
        body = binary_body(*[(us, -1.5 * us) for us in range(100, 140)])
        assert all(isinstance(parse(body[:end], LIMITS, NOW), Rejection) for end in range(len(body)))


# --- what is kept -----------------------------------------------------------------------------


def batch_of(body: bytes, limits: Limits = LIMITS) -> Batch:
    found = parse(body, limits, NOW)
    assert isinstance(found, Batch), found
    return found


def test_a_text_body_is_kept_exactly_as_sent() -> None:
    samples = "000001,+1.50;000002,-0;000010,5.;999999,.5E-3"
    found = batch_of(text_body(samples))
    assert found == Batch("meter-7", NOW, 1, 999_999, samples, 4, hashlib.md5(samples.encode()).hexdigest())


def test_a_binary_body_becomes_what_c_prints() -> None:
    found = batch_of(binary_body((0, 0.1), (22, -230.25), (999_999, 1e-10)))
    assert found.values == "000000,0.100000001;000022,-230.25;999999,1.00000001e-10"
    assert (found.start_us, found.end_us, found.count) == (0, 999_999, 3)


def test_a_binary_body_may_hold_bars_semicolons_and_line_ends() -> None:
    us = int.from_bytes(b"|;\x0d\x00", "little")
    value = struct.unpack("<f", b"||\r\n")[0]
    body = b"meter-7|%d|%s||" % (NOW, binary((us, value)))
    assert batch_of(body).start_us == us


def test_a_binary_body_that_ends_in_bars_keeps_them() -> None:
    value = struct.unpack("<f", b"\x00\x00||")[0]
    assert batch_of(binary_body((5, value))).values == c_print(5, value)


def test_one_sample_is_a_batch() -> None:
    assert batch_of(text_body("123456,1")).count == 1
    assert batch_of(binary_body((123_456, 1.0))).values == "123456,1"


@pytest.mark.parametrize("ending", [b" ", b"\r\n", b"\n\n", b" \r\n \r\n"])
def test_spaces_and_line_ends_after_the_end_mark_are_ignored(ending: bytes) -> None:
    body = text_body("000000,1")
    assert parse(body + ending, LIMITS, NOW) == parse(body, LIMITS, NOW)


def test_limits_include_their_ends() -> None:
    assert reason_of(text_body("000000,1", second=NOW + LIMITS.max_ahead_s)) is None
    assert reason_of(text_body("000000,1", second=NOW - LIMITS.max_back_s)) is None
    assert reason_of(text_body("000000,1", second=f"000{NOW}")) is None
    assert batch_of(text_body(";".join(f"{us:06d},1" for us in range(300)))).count == 300


# --- what is refused --------------------------------------------------------------------------

BAD = {
    RejectReason.NO_END_MARK: [b"", b"m", b"m|1|000000,1|", b"m|1|000000,1||x", b"m|1|000000,1||\t", b"|"],
    RejectReason.MALFORMED: [b"||", b"m||", b"m|1||"],
    RejectReason.BAD_DEVICE_ID: [
        text_body("000000,1", device=""),
        text_body("000000,1", device="a" * 65),
        text_body("000000,1", device="meter 7"),
        text_body("000000,1", device="zähler"),
        text_body("000000,1", device="meter\n"),
        text_body("000000,1", device="../meter"),
    ],
    RejectReason.BAD_TIME: [
        text_body("000000,1", second=second)
        for second in (
            "",
            "-5",
            "+5",
            "1e9",
            "17723664.0",
            " 1772366400",
            "1772366400\n",
            "0x10",
            "٣",
            "9" * 21,
        )
    ],
    RejectReason.TIME_TOO_FAR_AHEAD: [
        text_body("000000,1", second=NOW + 86_401),
        text_body("000000,1", second=NOW * 1000),
        text_body("000000,1", second="9" * 20),
    ],
    RejectReason.TIME_TOO_FAR_BACK: [
        text_body("000000,1", second=0),
        text_body("000000,1", second=NOW - LIMITS.max_back_s - 1),
    ],
    RejectReason.EMPTY: [text_body("")],
    RejectReason.TOO_MANY_SAMPLES: [
        text_body(";".join(f"{us:06d},1" for us in range(301))),
        binary_body(*[(us, 1.0) for us in range(301)]),
    ],
    RejectReason.BAD_SAMPLE: [
        text_body(samples)
        for samples in (
            "000000",
            "000000,1;",
            ";000000,1",
            "000000,1,2",
            "00000,1",
            "0,1",
            ",1",
            "000000,1;;000002,1",
            "+00000,1",
            "0000001,1",
            "hello",
            "000000 12",
        )
    ]
    + [b"meter-7|%d|%s||" % (NOW, binary((1, 1.0)) + extra) for extra in (b";", b"x", b"\0" * 9)],
    RejectReason.MICROSECOND_OUT_OF_RANGE: [
        text_body("1000000,1"),
        text_body("-00001,1"),
        binary_body((-1, 1.0)),
        binary_body((5, 1.0), (1_000_000, 1.0)),
        binary_body((2**31 - 1, 1.0), (3, 1.0)),
    ],
    RejectReason.MICROSECOND_NOT_ASCENDING: [
        text_body("000002,1;000001,1"),
        text_body("000002,1;000002,2"),
        text_body("000002,1e1;000002,1"),
        binary_body((2, 1.0), (2, 1.0)),
        binary_body((2, 1.0), (1, 1.0)),
    ],
    RejectReason.NOT_A_NUMBER: [
        text_body(f"000000,{value}")
        for value in ("", "+", ".", "-.", "e5", "1e", "1e+", "1.2.3", "--1", "1-1", "0x1", "1_0", "1 ", "abc")
    ],
    RejectReason.NOT_FINITE: [
        text_body(f"000000,{value}")
        for value in ("1e999", "-1e309", "9" * 309, "nan", "NaN", "-inf", "Infinity", "+INF")
    ]
    + [binary_body((0, 1.0), (1, value)) for value in (math.nan, math.inf, -math.inf)]
    + [binary_body((0, math.inf), (1, -math.inf))],
}


@pytest.mark.parametrize(
    ("reason", "body"), [pytest.param(r, b, id=f"{r.value}-{i}") for r in BAD for i, b in enumerate(BAD[r])]
)
def test_every_bad_body_has_its_reason(reason: RejectReason, body: bytes) -> None:
    found = parse(body, LIMITS, NOW)
    assert isinstance(found, Rejection)
    assert found.reason == reason, found.detail
    assert len(found.detail) < 200


def test_a_message_cut_on_its_way_has_a_reason_of_its_own() -> None:
    whole = text_body("000000,1;000001,2")
    assert reason_of(whole[:-5], cut=True) == RejectReason.TRUNCATED
    assert reason_of(whole, cut=True) is None, "only ignored bytes after the end mark are missing"


def test_a_rejection_names_the_device_where_the_body_does() -> None:
    found = parse(text_body("nonsense"), LIMITS, NOW)
    assert isinstance(found, Rejection)
    assert found.device_id == "meter-7"
    cut = parse(b"meter-7|17", LIMITS, NOW)
    assert isinstance(cut, Rejection)
    assert cut.device_id == "meter-7"
    nameless = parse(b"a b|1|000000,1||", LIMITS, NOW)
    assert isinstance(nameless, Rejection)
    assert nameless.device_id == ""


def test_a_rejection_says_which_sample() -> None:
    for body in (text_body("000000,1;000001,2;000002,x"), binary_body((0, 1.0), (1, 1.0), (2, math.nan))):
        found = parse(body, LIMITS, NOW)
        assert isinstance(found, Rejection)
        assert re.search(r"\bsample 3\b", found.detail), found.detail


def test_a_late_fault_in_a_large_body_is_found_in_little_time() -> None:
    """No number of samples, and no length of a value, makes the check more than linear."""
    wide = Limits(86_400, 86_400, 100_000)
    for samples in ("000000," + "1" * 500_000 + "x", "000000,1;" * 50_000, "000000," + "1e1" * 100_000):
        assert isinstance(parse(text_body(samples), wide, NOW), Rejection)


class TestCanonicalText:
    @given(text_samples())
    def test_it_is_canonical_exactly_where_a_text_body_of_it_is_stored(self, samples: str) -> None:
        stored = isinstance(parse(text_body(samples), Limits(0, 0, 1000), NOW), Batch)
        assert (canonical_fault(samples) is None) == stored

    @pytest.mark.parametrize(
        "text", ["", "x", "000000,1;", "000001,1;000000,1", "000000,1\n", "００００００,1"]
    )
    def test_what_is_not_canonical_says_why(self, text: str) -> None:
        assert canonical_fault(text)
