"""A group of messages parses as its messages do, one by one."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.ingest import binary_group, message_group
from ec_server.ingest.message_body import Limits, parse
from ec_server.ingest.message_group import GroupParser
from utilities.model import Batch, RawMessage, Rejection, RejectReason

NOW = 1_772_366_400
LIMITS = Limits(86_400, 86_400, 50)


def raw(body: bytes) -> RawMessage:
    return RawMessage(body, "127.0.0.1:5060", 0)


def check(bodies: list[bytes], parser: GroupParser | None = None) -> list[object]:
    parser = parser or GroupParser(LIMITS)
    found = parser.parse([raw(b) for b in bodies], NOW)
    assert found == [parse(b, LIMITS, NOW) for b in bodies]
    return list(found)


def knowing(*devices: str) -> GroupParser:
    """A parser that has seen these devices."""
    parser = GroupParser(LIMITS)
    parser.parse([raw(f"{d}|{NOW}|000000,1||".encode()) for d in devices], NOW)
    return parser


GOOD = f"m|{NOW}|" + ";".join(f"{us:06d},{us}.25" for us in range(0, 900, 20)) + "||"


def binary(*samples: tuple[int, float], second: int = NOW) -> bytes:
    packed = b";".join(struct.pack("<if", us, value) for us, value in samples)
    return b"m|%d|%s||" % (second, packed)


def binary_of(values: Iterable[float]) -> bytes:
    return binary(*((us, value) for us, value in enumerate(values)))


ORDINARY = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    230.1,
    -0.001,
    1.1e-4,
    0.1,
    9.9999,
    10.0,
    999_999.94,
    1e6,
    9_999_999.5,
    1e7,
    99_999_992.0,
]


@pytest.mark.parametrize("body", [GOOD.encode(), binary_of(ORDINARY)], ids=["text", "binary"])
def test_good_messages_take_the_short_way(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = knowing("m")
    asked: list[bytes] = []
    monkeypatch.setattr(message_group, "parse", lambda body, *a, **k: asked.append(body))
    bodies = [body.replace(b"%d" % NOW, b"%d" % (NOW + i)) for i in range(20)]
    assert all(isinstance(b, Batch) for b in parser.parse([raw(b) for b in bodies], NOW))
    assert asked == []


@pytest.mark.parametrize(
    "value",
    [b"1e5", b"-1.5E-3", b"+2e+07", b".5", b"5.", b"-.5e1", b"5.e2", b"1e-300", b"1e308", b"1e0000001"],
)
def test_every_form_of_a_number_takes_the_short_way(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"m|%d|000000,%s;000001,1;000002,%s||" % (NOW, value, value)
    (expected,) = {parse(body, LIMITS, NOW)}
    assert isinstance(expected, Batch)
    asked: list[bytes] = []
    monkeypatch.setattr(message_group, "parse", lambda body, *a, **k: asked.append(body))
    assert GroupParser(LIMITS).parse([raw(body)] * 9, NOW) == [expected] * 9
    assert asked == []


@pytest.mark.parametrize(
    "value",
    [b"9e299", b"1e308", b"1.7e+308", b"1.8e+308", b"17E307", b"18e307", b"99e306", b"0.17e309", b"0.18e309",
     b"00000001e308", b"0.00001e311", b".5e+308", b"5.e+308", b"1e309", b"0e999", b"1e+999", b"-1e0308",
     b"-2e0308", b"+123456789e300", b"+123456789e301", b"1.7976931348623157e308", b"1.7976931348623159e308"],
)  # fmt: skip
def test_a_number_beyond_a_double_is_refused_in_a_group_as_it_is_alone(value: bytes) -> None:
    body = b"m|%d|000000,%s;000001,1;000002,%s||" % (NOW, value, value)
    expected = parse(body, LIMITS, NOW)
    good = raw(GOOD.encode())
    found = GroupParser(LIMITS).parse([good, raw(body)] * 9, NOW)
    assert found[1::2] == [expected] * 9
    assert all(isinstance(one, Batch) for one in found[::2])


def test_who_is_not_admitted_is_refused_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def admits(device_id: str, _message: RawMessage) -> Rejection | None:
        return None if device_id == "m" else Rejection(RejectReason.UNKNOWN_DEVICE, "", device_id)

    parsed: list[bytes] = []
    monkeypatch.setattr(message_group, "parse", lambda body, *a, **k: parsed.append(body))
    strangers = [b"x" + GOOD.encode()[1:], b"x|%d|no samples" % NOW, b"x|5|000000,1||", b"x|"]
    parser = GroupParser(LIMITS, admits)
    for group in (strangers, strangers * 4, [*strangers, *[GOOD.encode()] * 10]):
        found = parser.parse([raw(b) for b in group], NOW)
        refused = [one for one in found if isinstance(one, Rejection)]
        assert {one.reason for one in refused} == {RejectReason.UNKNOWN_DEVICE}
        assert len(refused) == len([b for b in group if b[:1] == b"x"])
    assert parsed == []


def test_ten_thousand_invented_devices_take_nothing_from_the_short_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parser = GroupParser(LIMITS)
    for first in range(0, 12_000, 1000):
        parser.parse([raw(b"d%d|%d|000000,1||" % (n, NOW)) for n in range(first, first + 1000)], NOW)
    asked: list[bytes] = []
    monkeypatch.setattr(message_group, "parse", lambda body, *a, **k: asked.append(body))
    parser.parse([raw(GOOD.encode())] * 20, NOW)
    assert asked == []


ODD = [
    b"", b"|", b"||", b"m|1||", b"m|%d|||" % NOW, b"m|%d|000000,||" % NOW, b"m|%d|000000||" % NOW,
    b"m|%d|00000,1||" % NOW, b"m|%d|0000000,1||" % NOW, b"m|%d|000000,1;||" % NOW,
    b"m|%d|;000000,1||" % NOW, b"m|%d|000000,1;;000001,1||" % NOW, b"m|%d|000000,1;000000,1||" % NOW,
    b"m|%d|000001,1;000000,1||" % NOW, b"m|%d|000000,1.||" % NOW, b"m|%d|000000,.5||" % NOW,
    b"m|%d|000000,1.2.3||" % NOW, b"m|%d|000000,--1||" % NOW, b"m|%d|000000,1-||" % NOW,
    b"m|%d|000000,1-2||" % NOW, b"m|%d|000000,-.5||" % NOW, b"m|%d|000000,+||" % NOW,
    b"m|%d|000000,1,2||" % NOW, b"m|%d|000000,1e5||" % NOW, b"m|%d|000000,1e999||" % NOW,
    b"m|%d|000000,E000||" % NOW,
    b"m|%d|000000,1e||" % NOW,
    b"m|%d|000000,1e-||" % NOW,
    b"m|%d|000000,1e5.||" % NOW,
    b"m|%d|000000,.||" % NOW,
    b"m|%d|000000,1e5e5||" % NOW,
    b"m|%d|000000,e5||" % NOW,
    b"m|%d|000000,-.e5||" % NOW,
    b"m|%d|000000,1e+-5||" % NOW,
    b"m|%d|000000,1e309||" % NOW,
    b"m|%d|000000,1e-999||" % NOW,
    b"m|%d|000000,1e1e||" % NOW,
    b"m|%d|000000,.5.||" % NOW,
    b"m|%d|000000,1;000001,1e400;000002,x||" % NOW, b"m|%d|000000,1;000001,x;000002,1e400||" % NOW,
    b"m|%d|000000,%se10||" % (NOW,
    b"9" * 299), b"m|%d|000000,nan||" % NOW,
    b"m|%d|000000, 1||" % NOW,
    b"m|%d|000000,1|000001,1||" % NOW,
    b"m|%d|000000,%s||" % (NOW, b"9" * 400), b"m|%d|000000,1\xff||" % NOW, b"m|%d|000000,1\x00||" % NOW,
    b"m|%d|000000,1" % NOW, b"m|%d|000000,1|" % NOW, b"m|%d|000000,1|| \r\n" % NOW,
    b"m|+%d|000000,1||" % NOW, b"m|%d|000000,1||" % (NOW + 90_000), b"m|%d|000000,1||" % (NOW - 90_000),
    b"m|0%d|000000,1||" % NOW, b"m|%d |000000,1||" % NOW, b"m/|%d|000000,1||" % NOW,
    b"n|%d|000000,1||" % NOW, "m|\u0661|000000,1||".encode(),
    b"m|%d|" % NOW + b";".join(b"%06d,1" % i for i in range(51)) + b"||",
    b"m|%d|" % NOW + b";".join(struct.pack("<if", i, 0.1) for i in range(44)) + b"||",
    b"m|%d|" % NOW + struct.pack("<if", 0x2C303030, 1.0) + b"||",
    binary((-1, 1.0)), binary((1_000_000, 1.0)), binary((999_999, 1.0)), binary((5, 1.0), (5, 2.0)),
    binary((5, 1.0), (4, 2.0)), binary((1, math.nan)), binary((1, math.inf)), binary((1, -math.inf)),
    binary((1, 1e-5)), binary((1, 9.9999997e-5)), binary((1, 1e8)), binary((1, 1e38)), binary((1, 1e-45)),
    binary_of([1.0] * 51), binary_of([1.0] * 50), binary_of([0.5, math.nan, 0.25]),
    binary((1, 1.0), (2, 2.0)).replace(b";", b","), binary((1, 1.0))[:-3] + b"||", binary() ,
    binary((1, 1.0)) + b" \r\n", b"n" + binary((1, 1.0))[1:], binary((1, 1.0), second=NOW + 90_000),
    binary((1, struct.unpack("<f", b"||||")[0])), binary((1, struct.unpack("<f", b",,,,")[0])),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_message_changes_nothing_for_its_neighbours(odd: bytes) -> None:
    good = GOOD.encode()
    check([good, odd] * 8, knowing("m"))
    check([odd] * 16, knowing("m"))
    check([good] * 8 + [odd], knowing("m"))
    check([odd] + [good] * 8, knowing("m"))


def test_all_odd_messages_together() -> None:
    check(ODD, knowing("m"))


numbers = st.one_of(
    st.from_regex(rb"[+-]?[0-9]{1,8}(\.[0-9]{1,8})?", fullmatch=True),
    st.from_regex(rb"[0-9+\-.eE,;|]{0,6}", fullmatch=True),
    st.from_regex(rb"[+-]?([0-9]{0,3}\.?[0-9]{0,3})([eE][+-]?[0-9]{0,3})?", fullmatch=True),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    us = sorted(draw(st.lists(st.integers(0, 999_999), min_size=1, max_size=6, unique=draw(st.booleans()))))
    samples = b";".join(b"%06d,%s" % (u, draw(numbers)) for u in us)
    body = b"m|%d|%s||" % (NOW + draw(st.integers(-2, 2)), samples)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + draw(st.integers(0, 2)) :]
    return body


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(bodies(), st.just(GOOD.encode())), min_size=8, max_size=14))
def test_any_group_parses_as_its_messages(group: list[bytes]) -> None:
    check(group, knowing("m"))


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.floats(width=32), min_size=1, max_size=30), min_size=8, max_size=10))
def test_any_single_is_printed_as_c_does(group: list[list[float]]) -> None:
    check([binary_of(values) for values in group], knowing("m"))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-4, 7), st.integers(0, 2**23), st.booleans()), min_size=8, max_size=200)
)
def test_singles_of_every_size_are_printed_as_c_does(chosen: list[tuple[int, int, bool]]) -> None:
    """From each power of ten on, by steps of the single's last bit."""
    singles = np.array([10.0**exponent for exponent, _, _ in chosen], np.float32)
    steps = np.array([step for _, step, _ in chosen], np.uint32)
    values = (singles.view(np.uint32) + steps).view(np.float32).tolist()
    signed = [-value if negative else value for value, (_, _, negative) in zip(values, chosen, strict=True)]
    check([binary_of(signed[i : i + 50]) for i in range(0, len(signed), 50)] * 8, knowing("m"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=8, max_size=10))
def test_rubbish_never_raises(group: list[bytes]) -> None:
    check([b"m|%d|000000,%s||" % (NOW, g) for g in group] + group, knowing("m"))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_single_of_the_short_way_is_printed_as_c_does(sign: int) -> None:
    """All 334 million of each sign, from 1e-4 to 1e8, in bodies of 3,000 samples."""
    first, end = (int(np.float32(size).view(np.uint32)) for size in (1.0000001e-4, 1e8))
    layout = np.dtype([("us", "<i4"), ("value", "<f4"), ("end", "u1")])
    for start in range(first, end, 3_000):
        values = np.arange(start, min(end, start + 3_000), dtype=np.uint32).view(np.float32) * np.float32(
            sign
        )
        samples = np.zeros(len(values), layout)
        samples["us"], samples["value"], samples["end"] = np.arange(len(values)), values, ord(";")
        (found,) = binary_group.canonical_texts([samples.tobytes()[:-1]])
        assert found is not None
        expected = ";".join(["%06d,%.9g"] * len(values)) % tuple(
            part for sample in enumerate(values.tolist()) for part in sample
        )
        assert found[0] == expected.encode("ascii")
