"""The short way for a meter's next MESSAGE gives what the gate gives, byte for byte, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilities.sip_gate import Action, Origin, answer, decide
from utilities.sip_request import read_head
from utilities.sip_shape import Shape, shape_of

ORIGIN = Origin("127.0.0.1", 40_000, "TCP", "127.0.0.1:34567", "127.0.0.1:40000")
PARTS = {
    "via": "SIP/2.0/TCP 127.0.0.1:40000;rport;branch={branch};alias",
    "branch": "z9hG4bK1",
    "call_id": "c1@h",
    "cseq": "1",
    "length": "20",
    "more": "",
}


def text(**changes: str) -> bytes:
    parts = {**PARTS, **changes}
    return (
        "MESSAGE sip:server@127.0.0.1 SIP/2.0\r\n"
        f"Via: {parts['via'].format(branch=parts['branch'])}\r\nMax-Forwards: 70\r\n"
        "From: <sip:m@127.0.0.1>;tag=1\r\nTo: <sip:server@127.0.0.1>\r\n"
        f"Call-ID: {parts['call_id']}\r\nCSeq: {parts['cseq']} MESSAGE\r\n{parts['more']}"
        f"Content-Length: {parts['length']}"
    ).encode("latin-1")


def shape(raw: bytes = text(), origin: Origin = ORIGIN) -> Shape | None:
    head = read_head(raw)
    assert head is not None
    return shape_of(raw, head, decide(head, origin), origin)


def agrees(raw: bytes) -> bool:
    """Whether the shape of the usual message takes this one; where it does, the gate says the same."""
    usual = shape()
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
    assert agrees(text(branch="z9hG4bKPj-2.b", call_id="another-one", cseq="999999999", length="3000"))


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
    ],
)
def test_what_is_unusual_has_no_shape(changes: dict[str, str]) -> None:
    assert shape(text(**changes)) is None


VALUES = st.one_of(
    st.from_regex(r"[!-~]{0,12}", fullmatch=True), st.text(st.characters(max_codepoint=255), max_size=8)
)


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(st.sampled_from(["branch", "call_id", "cseq", "length", "more"]), VALUES))
def test_on_heads_made_at_random_it_says_what_the_gate_says(changes: dict[str, str]) -> None:
    agrees(text(**changes))
