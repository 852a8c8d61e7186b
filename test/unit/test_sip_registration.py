"""What a registrar is told and what is understood of its answers; the digests are those of the RFCs."""

from __future__ import annotations

import pytest

import data_receiver
from utilities import sip_registration
from utilities.sip_registration import Answer, answered_challenge, granted, host_and_port, read_answer

CHALLENGE = (
    'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
    'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)


def asked(*values: str, status: int = 401) -> Answer:
    name = "www-authenticate" if status == 401 else "proxy-authenticate"
    return Answer(status, "Unauthorized", tuple((name, value) for value in values))


def test_a_challenge_is_answered_as_rfc_2617_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sip_registration.secrets, "token_hex", lambda _bytes: "0a4f113b")
    name, value = answered_challenge(asked(CHALLENGE), "Mufasa", "Circle Of Life", "GET", "/dir/index.html")
    assert name == "Authorization"
    assert 'response="6629fae49393a05397450978507c4ef1"' in value
    assert 'opaque="5ccc069c403ebaf9f0171e9517f40e41"' in value
    assert "qop=auth, nc=00000001" in value


def test_a_challenge_with_sha_256_is_answered_as_rfc_7616_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    own = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(sip_registration.secrets, "token_hex", lambda _bytes: own)
    value = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"'
    )
    _, text = answered_challenge(asked(value), "Mufasa", "Circle of Life", "GET", "/dir/index.html")
    assert 'response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"' in text


def test_the_first_challenge_that_can_be_answered_is() -> None:
    name, value = answered_challenge(
        asked("Basic realm=x", 'Digest algorithm=SHA-512-256, nonce="n"', 'digest nonce="n2"', status=407),
        "u", "p", "REGISTER", "sip:h",
    )  # fmt: skip
    assert name == "Proxy-Authorization"
    assert 'nonce="n2"' in value
    with pytest.raises(ValueError, match="other than digest"):
        answered_challenge(asked("Basic realm=x"), "u", "p", "REGISTER", "sip:h")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"SIP/2.0 200 OK\r\nCall-ID: c\r\nCSeq: 3 REGISTER", 200),
        (b"\r\nSIP/2.0 100 Trying\r\ni: c\r\nCSeq: 3 REGISTER", 100),
        (b"SIP/2.0 200 OK\r\nCall-ID: c\r\nCSeq: 2 REGISTER", None),
        (b"SIP/2.0 200 OK\r\nCall-ID: d\r\nCSeq: 3 REGISTER", None),
        (b"MESSAGE sip:x SIP/2.0\r\nCall-ID: c\r\nCSeq: 3 MESSAGE", None),
        (b"\xff\xfe", None),
    ],
)
def test_only_the_answer_to_the_request_is_an_answer(head: bytes, status: int | None) -> None:
    found = read_answer(head, "c", 3)
    assert (found.status if found else None) == status


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((("contact", "<sip:a@b>;expires=120"), ("expires", "60")), 120),
        ((("expires", "60"),), 60),
        ((), 300),
    ],
)
def test_a_registration_lasts_as_the_registrar_says(
    headers: tuple[tuple[str, str], ...], seconds: int
) -> None:
    assert granted(Answer(200, "OK", headers)) == seconds


@pytest.mark.parametrize(
    ("where", "found"),
    [("h", ("h", 5060)), ("h:70", ("h", 70)), ("[::1]", ("::1", 5060)), ("[::1]:70", ("::1", 70))],
)
def test_a_registrars_address_may_have_a_port(where: str, found: tuple[str, int]) -> None:
    assert host_and_port(where, 5060) == found


@pytest.mark.parametrize(("machine", "runs"), [("x86_64", True), ("AMD64", True), ("aarch64", False)])
def test_a_receiver_runs_where_stores_to_memory_keep_their_order(machine: str, runs: bool) -> None:
    assert (data_receiver.processor_fault(machine) == "") is runs
