"""The table that decides about SIP requests: every row, every way round it, and what an answer looks like."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilities.sip_gate import TABLE, Action, Origin, answer, answer_port, decide, notify, own_tag
from utilities.sip_request import Head, content_length, read_head

SOURCE = Origin("192.0.2.7", 5062, "UDP", "192.0.2.1:34567", "192.0.2.7:5062")
OVER_TCP = Origin("192.0.2.7", 40_000, "TCP", "192.0.2.1:34567", "192.0.2.7:40000")
OVER_TLS = Origin("192.0.2.7", 40_000, "TLS", "192.0.2.1:34568", "192.0.2.7:40000")
DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol-messages.md"

HEADERS = {
    "Via": "SIP/2.0/UDP 192.0.2.7:5062;rport;branch=z9hG4bK1",
    "Max-Forwards": "70",
    "From": "<sip:meter-7@192.0.2.7>;tag=a",
    "To": "<sip:server@192.0.2.1>",
    "Call-ID": "c1",
    "CSeq": "1 MESSAGE",
}
PRESENCE = {"Event": "presence", "Expires": "600", "Contact": "<sip:meter-7@192.0.2.7:5062>"}


def raw(method: str = "MESSAGE", start: str = "", more: str = "", **changes: str | None) -> bytes:
    """A request's head; a header given as None is left out, ``_`` stands for ``-`` in a name."""
    headers: dict[str, str | None] = {**HEADERS, "CSeq": f"1 {method}"}
    headers |= PRESENCE if method == "SUBSCRIBE" else {}
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [start or f"{method} sip:server@192.0.2.1:34567 SIP/2.0"]
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return ("\r\n".join(lines) + more).encode()


def head_of(method: str = "MESSAGE", start: str = "", more: str = "", **changes: str | None) -> Head:
    head = read_head(raw(method, start, more, **changes))
    assert head is not None
    return head


def status(head: Head, origin: Origin = SOURCE) -> int:
    return decide(head, origin).status


class TestMessages:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"Max_Forwards": "0"},
            {"Max_Forwards": None},
            {"Content_Type": "application/octet-stream"},
            {"Route": "<sip:203.0.113.9;lr>"},
            {"Record_Route": "<sip:victim.example.org;lr>"},
            {"Contact": "<sip:nobody@victim.example.org>"},
            {"Proxy_Require": "foo"},
            {"From": "sip:meter-7@192.0.2.7"},
            {"start": "MESSAGE sip:anyone@meters.example.org SIP/2.0"},
        ],
    )
    def test_a_plain_message_is_taken_whatever_else_it_says(self, changes: dict[str, str]) -> None:
        assert decide(head_of(**changes), SOURCE).action is Action.TAKE

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"start": "MESSAGE sip:server@192.0.2.1 SIP/7.0"}, 505),
            ({"start": "MESSAGE tel:+4512345678 SIP/2.0"}, 416),
            ({"start": "MESSAGE http://192.0.2.1/ SIP/2.0"}, 416),
            ({"start": "MESSAGE sips:server@192.0.2.1 SIP/2.0"}, 416),
            ({"To": "<sip:server@192.0.2.1>;tag=x"}, 481),
            ({"Content_Type": "multipart/mixed;boundary=x"}, 415),
            ({"Content_Type": "MULTIPART/related"}, 415),
            ({"Content_Encoding": "gzip"}, 415),
            ({"Require": "100rel"}, 420),
            ({"CSeq": "1 OPTIONS"}, 400),
            ({"CSeq": "4294967296 MESSAGE"}, 400),
            ({"CSeq": "MESSAGE"}, 400),
            ({"CSeq": "1message MESSAGE"}, 400),
            ({"Max_Forwards": "-1"}, 400),
            ({"Max_Forwards": "256"}, 400),
            ({"Content_Length": "ten"}, 400),
            ({"Content_Length": "-5"}, 400),
            ({"Content_Length": "99999999999"}, 400),
            ({"Call_ID": ""}, 400),
            ({"Expires": "4294967296"}, 400),
            ({"more": "\r\nno header"}, 400),
            ({"more": "\r\nBad Name: x"}, 400),
            ({"more": "\r\nX: \0"}, 400),
        ],
    )
    def test_another_is_refused(self, changes: dict[str, str], expected: int) -> None:
        assert status(head_of(**changes)) == expected

    def test_sips_is_for_tls(self) -> None:
        head = head_of(start="MESSAGE sips:server@192.0.2.1 SIP/2.0")
        assert status(head, OVER_TCP) == 416
        assert decide(head, OVER_TLS).action is Action.TAKE

    @pytest.mark.parametrize("name", ["From", "To", "Call-ID", "CSeq", "Max-Forwards"])
    def test_a_header_that_must_be_unique_is_refused_if_repeated(self, name: str) -> None:
        assert (
            status(head_of(more=f"\r\n{name}: {HEADERS[name]}" if name != "CSeq" else "\r\nCSeq: 1 MESSAGE"))
            == 400
        )

    def test_a_repeated_content_length_cannot_be_relied_on_in_a_stream(self) -> None:
        text = raw(Content_Length="5", more="\r\nl: 5")
        assert content_length(text) is None
        head = read_head(text)
        assert head is not None
        assert (head.length, status(head)) == (None, 400)

    def test_folded_lines_and_compact_names_mean_what_their_long_forms_mean(self) -> None:
        text = (
            b"MESSAGE sip:server@192.0.2.1 SIP/2.0\r\nv: SIP/2.0/UDP\r\n 192.0.2.7:5062;branch=z9hG4bK1\r\n"
            b"f: <sip:a@b>\r\n\t;tag=a\r\nt: <sip:s@h>\r\ni: c1\r\nCSeq : 1\r\n MESSAGE\r\nl: 2\r\n"
            b"c: multipart/\r\n mixed"
        )
        head = read_head(text)
        assert head is not None
        assert (head.length, head.via_port, head.fault) == (2, 5062, "")
        assert status(head) == 415


class TestOtherMethods:
    @pytest.mark.parametrize(
        "method",
        ["INVITE", "REGISTER", "OPTIONS", "NOTIFY", "REFER", "PUBLISH", "INFO", "BYE", "message", "X.Y"],
    )
    def test_they_are_refused_with_those_that_are_allowed(self, method: str) -> None:
        head = head_of(method)
        row = decide(head, SOURCE)
        assert row.status == 405
        assert b"\r\nAllow: MESSAGE, SUBSCRIBE\r\n" in answer(head, SOURCE, row)

    def test_cancel_finds_nothing_to_cancel_and_ack_gets_no_answer(self) -> None:
        assert status(head_of("CANCEL")) == 481
        assert decide(head_of("ACK"), SOURCE).action is Action.DROP

    @pytest.mark.parametrize("left_out", ["Via", "From", "To", "Call_ID", "CSeq"])
    def test_what_cannot_be_answered_is_no_request(self, left_out: str) -> None:
        assert read_head(raw(**{left_out: None})) is None

    @pytest.mark.parametrize(
        "text",
        [
            raw(start="SIP/2.0 200 OK"),
            raw(start="GET / HTTP/1.1"),
            raw(start="MESSAGE sip:a@b c SIP/2.0"),
            raw(start="MESSAGE  sip:a@b SIP/2.0"),
            raw(start=""[:0] or "hello"),
            raw(Via="SIP/2.0/UDP"),
            raw(Via="HTTP/1.1 192.0.2.7"),
            raw(Via='SIP/2.0/UDP 192.0.2.7;x="open'),
            raw().replace(b"\r\n", b"\n"),
            raw(Call_ID="a\nX-Header: b"),
            raw(Call_ID="a\rb"),
            b"",
            b"\0" * 100,
        ],
    )
    def test_responses_and_garbage_are_no_requests(self, text: bytes) -> None:
        assert read_head(text) is None

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 40))
    def test_no_bytes_raise(self, noise: bytes, at: int, cut: int) -> None:
        text = raw("SUBSCRIBE")
        head = read_head(text[:at] + noise + text[at + cut :])
        if head is not None:
            for origin in (SOURCE, OVER_TCP):
                row = decide(head, origin)
                if row.action is not Action.DROP:
                    assert answer(head, origin, row).endswith(b"\r\n\r\n")


class TestWhereAnswersGo:
    @pytest.mark.parametrize(
        ("via", "port"),
        [
            ("SIP/2.0/UDP 192.0.2.7:5099;rport;branch=z", 5062),
            ("SIP/2.0/UDP 192.0.2.7:5099;branch=z;RPORT", 5062),
            ("SIP/2.0/UDP 192.0.2.7:5099;rport=1;branch=z", 5062),
            ("SIP/2.0/UDP 192.0.2.7:5099;branch=z", 5099),
            ("SIP/2.0/UDP 192.0.2.7;branch=z", 5060),
            ("SIP/2.0/UDP 192.0.2.7:0;branch=z", 5060),
            ("SIP/2.0/UDP 192.0.2.7:99999;branch=z", 5060),
            ("SIP/2.0/UDP victim.example.org:5099;maddr=203.0.113.9;received=203.0.113.9", 5099),
            ("SIP / 2.0 / UDP [2001:db8::9]:5099 ;maddr=slow.example.org", 5099),
            ("SIP/2.0/UDP 192.0.2.7:5099;x=rport;branch=z", 5099),
            ("SIP/2.0/UDP 192.0.2.7:5099;branch=z, SIP/2.0/UDP 203.0.113.9:1;rport", 5099),
        ],
    )
    def test_only_the_port_may_be_chosen_by_the_sender(self, via: str, port: int) -> None:
        assert answer_port(head_of(Via=via), SOURCE) == port

    def test_the_topmost_via_says_where_the_request_came_from_and_all_come_back(self) -> None:
        head = head_of(
            Via='SIP/2.0/UDP h:5099;received=203.0.113.9;rport=1;maddr=x;y="a,b";branch=z , SIP/2.0/TCP b',
            more="\r\nv: SIP/2.0/TLS third;received=1.2.3.4",
        )
        lines = answer(head, SOURCE, decide(head, SOURCE)).split(b"\r\n")
        assert lines[1] == (
            b'Via: SIP/2.0/UDP h:5099;maddr=x;y="a,b";branch=z ;received=192.0.2.7;rport=5062, SIP/2.0/TCP b'
        )
        assert lines[2] == b"Via: SIP/2.0/TLS third;received=1.2.3.4"

    def test_an_answer_repeats_what_tells_the_sender_which_request_it_is_for(self) -> None:
        head = head_of()
        text = answer(head, SOURCE, decide(head, SOURCE))
        assert text == answer(head, SOURCE, decide(head, SOURCE)), "a retransmission gets the same"
        found = dict(line.split(": ", 1) for line in text.decode().split("\r\n")[1:-2])
        assert text.startswith(b"SIP/2.0 200 OK\r\n")
        assert (found["From"], found["Call-ID"]) == (HEADERS["From"], "c1")
        assert found["CSeq"] == "1 MESSAGE"
        assert re.fullmatch(r"<sip:server@192\.0\.2\.1>;tag=[0-9a-f]+", found["To"])

    def test_a_refusal_says_what_it_refuses(self) -> None:
        head = head_of(Require="foo, bar")
        assert b"\r\nUnsupported: foo, bar\r\n" in answer(head, SOURCE, decide(head, SOURCE))
        head = head_of(Expires="4294967296")
        assert answer(head, SOURCE, decide(head, SOURCE)).startswith(b"SIP/2.0 400 Bad Expires\r\n")

    def test_no_answer_is_much_larger_than_its_request(self) -> None:
        for text in (raw(), raw("OPTIONS"), raw(Require="x" * 2000), raw(Via=HEADERS["Via"] + ";x" * 900)):
            head = read_head(text)
            assert head is not None
            assert len(answer(head, SOURCE, decide(head, SOURCE))) < len(text) + 200


class TestPresence:
    def test_a_subscriber_at_its_contact_is_notified(self) -> None:
        head = head_of("SUBSCRIBE")
        row = decide(head, SOURCE)
        assert row.action is Action.PRESENT
        text = answer(head, SOURCE, row).decode()
        assert "\r\nExpires: 600\r\n" in text
        assert "\r\nContact: <sip:192.0.2.1:34567>\r\n" in text
        told = notify(head, SOURCE, 9).decode()
        assert told.startswith(
            "NOTIFY sip:meter-7@192.0.2.7:5062 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:34567;rport"
        )
        assert "Subscription-State: active;expires=600\r\n" in told
        assert f"From: <sip:server@192.0.2.1>;tag={own_tag(head).decode()}\r\n" in told
        assert f"To: {HEADERS['From']}\r\n" in told
        head_text, body = told.split("\r\n\r\n")
        assert f"Content-Length: {len(body)}" in head_text
        assert "<basic>open</basic>" in body

    @pytest.mark.parametrize(
        "contact",
        [
            "<sip:meter@192.0.2.7:5062>",
            "sip:meter@192.0.2.7:5062",
            '"A meter, <here>" <sip:192.0.2.7:5062;transport=udp>;expires=600',
            "<sip:meter@192.0.2.7:5062;ob>",
        ],
    )
    def test_the_source_itself_may_be_written_in_several_ways(self, contact: str) -> None:
        assert status(head_of("SUBSCRIBE", Contact=contact)) == 200

    @pytest.mark.parametrize(
        "contact",
        [
            None,
            "",
            "*",
            "<sip:meter@192.0.2.7:5063>",
            "<sip:meter@192.0.2.7>",
            "<sip:meter@192.0.2.8:5062>",
            "<sip:meter@slow.example.org:5062>",
            "<sip:meter@localhost:5062>",
            "<sip:meter@[::ffff:192.0.2.8]:5062>",
            "<sip:192.0.2.7:5062@192.0.2.8:5062>",
            "<sip:meter@192.0.2.7:5062;maddr=203.0.113.9>",
            "<sip:meter@192.0.2.7:5062;MADDR=203.0.113.9>",
            "<sip:meter@192.0.2.7:5062;transport=tcp>",
            "<sip:meter@192.0.2.7:5062;transport=tls>",
            "<sips:meter@192.0.2.7:5062>",
            "<sip:meter@192.0.2.7:5062?Route=%3Csip:x%3E>",
            "<sip:meter@192.0.2.7:5062>, <sip:meter@203.0.113.9>",
            "<tel:+4512345678>",
            "<sip:meter@192.0.2.7:99999>",
            "<sip:meter@3221225991:5062>",
            "<sip:meter@192.0.2.007:5062>",
        ],
    )
    def test_nobody_else_is_notified(self, contact: str | None) -> None:
        assert status(head_of("SUBSCRIBE", Contact=contact)) == 403

    def test_a_second_contact_header_does_not_bypass_the_check(self) -> None:
        assert status(head_of("SUBSCRIBE", more="\r\nm: <sip:x@203.0.113.9>")) == 403

    def test_over_a_connection_only_the_address_counts(self) -> None:
        head = head_of("SUBSCRIBE", Contact="<sip:meter@192.0.2.7:5060;transport=tcp>")
        assert status(head, OVER_TCP) == 200
        assert b";transport=tcp>" in answer(head, OVER_TCP, decide(head, OVER_TCP))
        assert status(head_of("SUBSCRIBE", Contact="<sip:m@192.0.2.8;transport=tcp>"), OVER_TCP) == 403
        assert status(head_of("SUBSCRIBE", Contact="<sip:m@slow.example.org>"), OVER_TCP) == 403

    def test_an_address_through_an_ipv6_socket_is_the_same_address(self) -> None:
        mapped = Origin("::ffff:192.0.2.7", 5062, "UDP", "[::]:34567")
        assert status(head_of("SUBSCRIBE"), mapped) == 200
        six = Origin("2001:db8::7", 5062, "UDP", "[2001:db8::1]:34567")
        assert status(head_of("SUBSCRIBE", Contact="<sip:m@[2001:DB8:0::7]:5062>"), six) == 200

    def test_an_address_from_which_no_device_may_send_is_not_notified(self) -> None:
        asked = []
        origin = Origin("192.0.2.7", 5062, "UDP", may_send=lambda ip: asked.append(ip) is not None)
        assert status(head_of("SUBSCRIBE"), origin) == 403
        assert asked == ["192.0.2.7"]

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"Event": "dialog"}, 489),
            ({"Event": None}, 489),
            ({"Event": "presence.winfo"}, 489),
            ({"Event": "Presence;id=7"}, 200),
            ({"Event": None, "more": "\r\no: presence"}, 200),
            ({"Accept": "application/xml"}, 406),
            ({"Accept": "text/plain, application/pidf+xml"}, 200),
            ({"Accept": "*/*"}, 200),
            ({"Expires": "0"}, 481),
            ({"Expires": "0000"}, 481),
            ({"Expires": None, "more": "\r\nExpires:\r\n 0"}, 481),
            ({"Expires": None, "more": "\r\nExpires :\r\n\t 00"}, 481),
            ({"Expires": "4294967296"}, 400),
            ({"Expires": "18446744073709551616"}, 400),
            ({"Expires": "-1"}, 400),
            ({"Expires": "0x10"}, 400),
            ({"Expires": "10", "more": "\r\nExpires: 0"}, 400),
            ({"Expires": "4294967295"}, 200),
            ({"Expires": None}, 200),
            ({"To": "<sip:server@192.0.2.1>;tag=invented"}, 481),
        ],
    )
    def test_what_else_is_asked_of_it(self, changes: dict[str, str], expected: int) -> None:
        assert status(head_of("SUBSCRIBE", **changes)) == expected

    def test_a_subscription_can_be_renewed_and_ended_though_nothing_is_kept_of_it(self) -> None:
        tag = own_tag(head_of("SUBSCRIBE")).decode()
        renewed = head_of("SUBSCRIBE", To=f"<sip:server@192.0.2.1>;tag={tag}")
        assert decide(renewed, SOURCE).action is Action.PRESENT
        ended = head_of("SUBSCRIBE", To=f"<sip:server@192.0.2.1>;tag={tag}", Expires="0")
        assert decide(ended, SOURCE).action is Action.PRESENT
        assert b"Subscription-State: terminated;reason=timeout\r\n" in notify(ended, SOURCE, 2)
        other = head_of("SUBSCRIBE", To=f"<sip:server@192.0.2.1>;tag={tag}", Call_ID="another")
        assert status(other) == 481


def test_the_document_shows_the_table() -> None:
    found = re.findall(
        r"^\| ([^|]+) \| (taken|presence|refused|dropped)(?:, (\d{3}))? \|$", DOCUMENT.read_text(), re.M
    )
    assert found == [(row.when, row.action.value, str(row.status or "")) for row in TABLE]
