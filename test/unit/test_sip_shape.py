"""The short way for a meter's next MESSAGE gives what the gate gives, byte for byte, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilities import sip_shape
from utilities.sip_gate import Action, Origin, answer, decide
from utilities.sip_request import read_head
from utilities.sip_shape import KnownShapes, Shape, shape_of

ORIGIN = Origin("127.0.0.1", 40_000, "TCP", "127.0.0.1:34567", "127.0.0.1:40000")
PARTS = {
    "via": "SIP/2.0/TCP 127.0.0.1:40000;rport;branch={branch};alias",
    "branch": "z9hG4bK1",
    "call_id": "c1@h",
    "cseq": "1",
    "length": "20",
    "tag": "1",
    "below": "",
    "more": "",
}


def text(**changes: str) -> bytes:
    parts = {**PARTS, **changes}
    return (
        "MESSAGE sip:server@127.0.0.1 SIP/2.0\r\n"
        f"Via: {parts['via'].format(branch=parts['branch'])}\r\n{parts['below']}Max-Forwards: 70\r\n"
        f"From: <sip:m@127.0.0.1>;tag={parts['tag']}\r\nTo: <sip:server@127.0.0.1>\r\n"
        f"Call-ID: {parts['call_id']}\r\nCSeq: {parts['cseq']} MESSAGE\r\n{parts['more']}"
        f"Content-Length: {parts['length']}"
    ).encode("latin-1")


def shape(raw: bytes = text(), origin: Origin = ORIGIN) -> Shape | None:
    head = read_head(raw)
    assert head is not None
    return shape_of(raw, head, decide(head, origin), origin)


BELOW = "Via: SIP/2.0/TLS 192.0.2.7:5061;received=198.51.100.1;rport=40001;branch={};alias\r\n"
"""The meter's own Via, where a proxy has put its one on top."""


def agrees(raw: bytes, of: bytes = text()) -> bool:
    """Whether the shape of the usual message takes this one; where it does, the gate says the same."""
    usual = shape(of)
    assert usual is not None
    plain = usual.fits(raw, "TCP")
    if plain is None:
        return False
    head = read_head(raw)
    assert head is not None
    row = decide(head, ORIGIN)
    assert row.action is Action.TAKE
    assert (plain.length, plain.answer) == (head.length, answer(head, ORIGIN, row))
    return True


def test_the_next_message_of_a_sender_is_known_by_its_shape() -> None:
    assert agrees(text())
    other = {"call_id": "another-one", "cseq": "999999999", "length": "   3000", "tag": "x%s.Y~"}
    assert agrees(text(branch="z9hG4bKPj-2.b", **other))
    behind_a_proxy = text(below=BELOW.format("z9hG4bK1"))
    assert agrees(text(below=BELOW.format("a%b"), branch="c", **other), behind_a_proxy)
    assert not agrees(text(below=BELOW.format("a").replace("40001", "40002"), branch="c"), behind_a_proxy)
    assert not agrees(text(), behind_a_proxy)


@pytest.mark.parametrize(
    "changes",
    [
        {"branch": ""},
        {"branch": "a;maddr=203.0.113.9"},
        {"branch": "a, SIP/2.0/TCP x"},
        {"branch": "a b"},
        {"via": "SIP/2.0/TCP 127.0.0.2:40000;rport;branch={branch};alias"},
        {"call_id": ""},
        {"call_id": "a b"},
        {"call_id": "a\nX: b"},
        {"call_id": "a\0"},
        {"cseq": "4294967296"},
        {"cseq": "-1"},
        {"cseq": ""},
        {"length": "-1"},
        {"length": "20, 20"},
        {"length": "99999"},
        {"length": ""},
        {"more": "Require: x\r\n"},
        {"more": "Content-Length: 20\r\n"},
        {"more": "X: y\r\n"},
        {"length": "20\r\n "},
        {"length": "20\r\nRequire: x"},
        {"length": " \t20"},
        {"tag": ""},
        {"tag": "a b"},
        {"tag": "1;x=y"},
        {"tag": '1>;tag="2"'},
        {"below": BELOW.format("a")},
    ],
)
def test_whatever_differs_goes_the_long_way(changes: dict[str, str]) -> None:
    assert not agrees(text(**changes))


def test_another_transport_is_another_shape() -> None:
    usual = shape()
    assert usual is not None
    assert usual.fits(text(), "UDP") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"more": "Require: x\r\n"},
        {"more": "Content-Type: multipart/mixed\r\n"},
        {"more": "Via: SIP/2.0/TCP second\r\n"},
        {"more": "X: a\r\n b\r\n"},
        {"via": 'SIP/2.0/TCP h;x="a";branch={branch}'},
        {"via": "SIP/2.0/TCP h"},
        {"cseq": "0x1"},
        {"below": BELOW.format("")},
        {"below": BELOW.format("a, SIP/2.0/TCP x;branch=b")},
        {"below": BELOW.format("a;tag=1")},
        {"tag": "1;tag=1"},
        {"tag": ""},
    ],
)
def test_what_is_unusual_has_no_shape(changes: dict[str, str]) -> None:
    assert shape(text(**changes)) is None


VALUES = st.one_of(
    st.from_regex(r"[!-~]{0,12}", fullmatch=True), st.text(st.characters(max_codepoint=255), max_size=8)
)


@settings(deadline=None, max_examples=400)
@given(
    st.dictionaries(st.sampled_from(["branch", "call_id", "cseq", "length", "more", "tag", "below"]), VALUES)
)
def test_on_heads_made_at_random_it_says_what_the_gate_says(changes: dict[str, str]) -> None:
    agrees(text(**changes))


def known_after(heads: list[bytes], origin: Origin = ORIGIN) -> KnownShapes:
    """What is known once heads went the long way."""
    known = KnownShapes()
    for raw in heads:
        head = read_head(raw)
        assert head is not None
        known.learn(raw, head, decide(head, origin), origin)
    return known


def of(sender: str, number: int) -> bytes:
    raw = text(call_id=f"{sender}-{number}", tag=f"{number}{sender}", cseq=str(number + 1))
    return raw.replace(b"sip:m@", f"sip:{sender}@".encode())


def test_many_senders_behind_one_connection_each_have_their_shape() -> None:
    senders = [f"meter-{i}" for i in range(50)]
    known = known_after([of(sender, number) for number in range(2) for sender in senders])
    for sender in senders:
        found = known.find(of(sender, 7), ORIGIN)
        assert found is not None
        assert f"From: <sip:{sender}@".encode() in found[1].answer


def test_a_sender_whose_form_changes_has_the_new_one_after_a_few() -> None:
    changed = text(more="User-Agent: new\r\n")
    known = known_after([text(), text(), *[changed] * 2])
    assert known.find(changed, ORIGIN) is not None
    assert known.find(text(), ORIGIN) is None


def test_a_sender_that_sends_once_gets_no_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    monkeypatch.setattr(sip_shape, "shape_of", lambda raw, *_: made.append(raw))
    known_after([of(f"stranger-{i}", 0) for i in range(5000)])
    assert made == []
    known_after([text()] * 1000)
    assert len(made) == 9


def test_invented_senders_take_no_memory_without_end() -> None:
    known = known_after([of("meter", 0), of("meter", 1)])
    assert known.find(of("meter", 2), ORIGIN) is not None
    for i in range(10_000):
        raw = of(f"stranger-{i}", 0)
        head = read_head(raw)
        assert head is not None
        known.learn(raw, head, decide(head, ORIGIN), ORIGIN)
    assert len(known) <= 5000
