"""The torture messages of RFC 4475, written from the RFC's descriptions, by section number.

``METHOD`` stands for the request's method: that of the RFC (second column), or MESSAGE, as which the same
oddity meets the code that takes messages. ``PORT`` is the sender's port, so that an answer over UDP comes
back to it; ``BODY`` is the body that comes with it, ``LENGTH`` its length.
"""

from __future__ import annotations

from typing import NamedTuple


class Torture(NamedTuple):
    """One message of the RFC."""

    section: str
    method: str
    text: str


_TOP = "METHOD sip:user@127.0.0.1 SIP/2.0\r\n"
_VIA = "Via: SIP/2.0/TCP 192.0.2.1:PORT;branch=z9hG4bK{section}METHOD\r\n"
_WHO = (
    "From: <sip:caller@127.0.0.1>;tag=1\r\nTo: <sip:user@127.0.0.1>\r\n"
    "Call-ID: {section}.METHOD@192.0.2.1\r\n"
)
_CSEQ = "CSeq: 9 METHOD\r\n"
_REST = "Max-Forwards: 70\r\nContact: <sip:caller@192.0.2.1>\r\nContent-Type: text/plain\r\n"
_END = "Content-Length: LENGTH\r\n\r\nBODY"


def _message(section: str, method: str, **parts: str) -> Torture:
    """The usual message, with some of its parts in other forms."""
    usual = {"top": _TOP, "via": _VIA, "who": _WHO, "cseq": _CSEQ, "rest": _REST, "end": _END}
    assert not set(parts) - set(usual)
    text = "".join({**usual, **parts}.values()).replace("{section}", section)
    return Torture(section, method, text)


_LONG = "long" * 40
RESPONSE = "RESPONSE"
"""Stands in the place of a method where the message is a response."""

MESSAGES = (
    # 3.1.1: valid messages
    _message(
        "3.1.1.1",
        "INVITE",
        via="v:  SIP  / 2.0  / TCP     192.0.2.1:PORT ;\r\n  branch = z9hG4bKtortuousMETHOD\r\n",
        who="TO :\r\n sip:user@127.0.0.1 ;   x = 1\r\nfrom   : \"J Rosenberg \\\\\\\"\"       "
        "<sip:caller@127.0.0.1>\r\n  ;\r\n  tag = 98\r\nCall-ID\t: tortuous.METHOD@192.0.2.1\r\n",
        cseq="cseq: 0009\r\n  METHOD\r\n",
        rest="MaX-fOrWaRdS: 0068\r\ns :\r\nNewFangledHeader:   newfangled value\r\n continued newfangled value\r\n"
        "UnknownHeaderWithUnusualValue: ;;,,;;,;\r\nm:\"Quoted string \\\"\\\"\" <sip:caller@192.0.2.1> ; "
        "newparam =\r\n      newvalue ;\r\n  secondparam ; q = 0.33\r\nc: text/plain\r\n",
        end="l: LENGTH\r\n\r\nBODY",
    ),
    _message(
        "3.1.1.2",
        "!interesting-Method0123456789_*+`.%indeed'~",
        who="From: \"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f\" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@127.0.0.1>"
        ";tag=_token~1'+`*%!-.\r\nTo: <sip:user@127.0.0.1>\r\nCall-ID: intmeth.METHOD-word%ZK-!.*_+'@word`~)(><:\\/\"][?}{\r\n",
        rest="Max-Forwards: 255\r\nextensionHeader-!.%*+_`'~: \u4e2d\u6587\r\nContent-Type: text/plain\r\n",
    ),
    _message("3.1.1.3", "INVITE", top="METHOD sip:sips%3Auser%40example.com@127.0.0.1 SIP/2.0\r\n"),
    _message(
        "3.1.1.4",
        "REGISTER",
        who="To: sip:null-%00-null@127.0.0.1\r\nFrom: sip:null-%00-null@127.0.0.1;tag=8\r\nCall-ID: escnull.METHOD@192.0.2.1\r\n",
        rest="Max-Forwards: 70\r\nContact: <sip:%00@192.0.2.1>\r\nContact: <sip:%00%00@192.0.2.1>\r\n"
        "Content-Type: text/plain\r\n",
    ),
    _message("3.1.1.5", "RE%47IST%45R", rest="Max-Forwards: 70\r\nContact: <sip:alias1@192.0.2.1>\r\n"
             "Contact: <sip:alias%31@192.0.2.1>\r\nContent-Type: text/plain\r\n"),
    _message("3.1.1.6", "OPTIONS", who="From: caller<sip:caller@127.0.0.1>;tag=3\r\nTo: sip:user@127.0.0.1\r\n"
             "Call-ID: lwsdisp.METHOD@192.0.2.1\r\n"),
    _message(
        "3.1.1.7",
        "INVITE",
        who=f'To: "I have a user name of {"extreme" * 10} proportion"<sip:user@127.0.0.1:6000;unknownparam1='
        f"very{_LONG}value;longparam{'name' * 40}=shortvalue;very{_LONG}ParameterNameWithNoValue>\r\n"
        f"F: sip:{'amazinglylongcallername' * 5}@127.0.0.1;tag=12{'982' * 50}424;unknownheaderparam{_LONG}=unknown"
        f"\r\nCall-ID: longreq.METHOD{'really' * 30}longcallid\r\n",
        rest=f"Max-forwards: 70\r\nUnknown-{_LONG}-Name: unknown-{_LONG}-value; unknown-{_LONG}-name = "
        f"unknown-{_LONG}-value\r\nVia: SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK{_LONG}\r\nContact: <sip:"
        f"{'amazinglylongcallername' * 5}@192.0.2.1>\r\nContent-Type: text/plain\r\n",
    ),
    _message("3.1.1.8", "REGISTER", end=_END + "\r\nINVITE sip:joe@127.0.0.1 SIP/2.0\r\nt: <sip:joe@127.0.0.1>\r\n"
             "From: <sip:caller@127.0.0.1>;tag=141334\r\nv: SIP/2.0/TCP 192.0.2.15:PORT;branch=z9hG4bKkdjuw380234\r\n"
             "Call-ID: dblreq.second@192.0.2.15\r\nCSeq: 8 INVITE\r\nMax-Forwards: 3\r\nContent-Length: 0\r\n\r\n"),
    _message("3.1.1.9", "OPTIONS", top="METHOD sip:user;par=u%40example.net@127.0.0.1 SIP/2.0\r\n"),
    _message("3.1.1.10", "OPTIONS", via="Via: SIP/2.0/UDP 192.0.2.1:PORT;branch=z9hG4bKMETHOD\r\n"
             "Via: SIP/2.0/SCTP 192.0.2.2;branch=z9hG4bKsctp\r\nVia: SIP/2.0/TLS 192.0.2.3;branch=z9hG4bKtls\r\n"
             "Via: SIP/2.0/UNKNOWN 192.0.2.4;branch=z9hG4bKunknown\r\n"),
    _message("3.1.1.11", "MESSAGE", rest="Max-Forwards: 70\r\nContent-Type: multipart/mixed;boundary=7a9cbec02ceef655\r\n"
             "MIME-Version: 1.0\r\n", end="Content-Length: LENGTH\r\n\r\nBODY"),
    _message("3.1.1.12", RESPONSE, top="SIP/2.0 200 = 2**3 * 5**2 \u043d\u043e\r\n", cseq="CSeq: 35 INVITE\r\n"),
    _message("3.1.1.13", RESPONSE, top="SIP/2.0 100 \r\n", cseq="CSeq: 35 INVITE\r\n"),
    # 3.1.2: invalid messages
    _message("3.1.2.1", "INVITE", via="Via: SIP/2.0/TCP 192.0.2.15:PORT;;,;,,\r\n",
             rest='Max-Forwards: 70\r\nContact: "Joe" <sip:joe@192.0.2.1>;;;;\r\nContent-Type: text/plain\r\n'),
    _message("3.1.2.2", "INVITE", end="Content-Length: 9999\r\n\r\nBODY"),
    _message("3.1.2.3", "INVITE", end="Content-Length: -999\r\n\r\nBODY"),
    _message("3.1.2.4", "REGISTER", via="Via: SIP/2.0/TCP 192.0.2.1:PORT;branch=z9hG4bK;ttl=255555\r\n",
             cseq="CSeq: 36893488147419103232 METHOD\r\n",
             rest="Max-Forwards: 300\r\nExpires: 1" + "0" * 99 + "\r\nContact: <sip:user@192.0.2.1>;expires=280297596632815\r\n"
             "Content-Type: text/plain\r\n"),
    _message("3.1.2.5", RESPONSE, top="SIP/2.0 503 Service Unavailable\r\n", cseq="CSeq: 9292394834772304023312 OPTIONS\r\n",
             rest="Retry-After: 949302838503028349304023988\r\nWarning: 1812 overture \"In Progress\"\r\n"),
    _message("3.1.2.6", "INVITE", who='To: "Mr. J. User <sip:user@127.0.0.1>\r\nFrom: sip:caller@127.0.0.1;tag=93334\r\n'
             "Call-ID: quotbal.METHOD@192.0.2.1\r\n"),
    _message("3.1.2.7", "INVITE", top="METHOD <sip:user@127.0.0.1> SIP/2.0\r\n"),
    _message("3.1.2.8", "INVITE", top="METHOD sip:user@127.0.0.1; lr SIP/2.0\r\n"),
    _message("3.1.2.9", "INVITE", top="METHOD  sip:user@127.0.0.1  SIP/2.0\r\n"),
    _message("3.1.2.10", "OPTIONS", top="METHOD sip:user@127.0.0.1 SIP/2.0  \r\n"),
    _message("3.1.2.11", "INVITE", top="METHOD sip:user@127.0.0.1?Route=%3Csip:example.com%3E SIP/2.0\r\n"),
    _message("3.1.2.12", "INVITE", rest=_REST + "Date: Fri, 01 Jan 2010 16:00:00 EST\r\n"),
    _message("3.1.2.13", "REGISTER", rest="Max-Forwards: 70\r\nContact: sip:user@192.0.2.1?Route=%3Csip:x.example.com%3E\r\n"
             "Content-Type: text/plain\r\n"),
    _message("3.1.2.14", "OPTIONS", who='To: "Watson, Thomas" < sip:t.watson@127.0.0.1 >\r\n'
             "From: <sip:caller@127.0.0.1>;tag=1\r\nCall-ID: badaspec.METHOD@192.0.2.1\r\n"),
    _message("3.1.2.15", "OPTIONS", who="From: Bell, Alexander <sip:a.g.bell@127.0.0.1>;tag=43\r\n"
             "To: Watson, Thomas <sip:t.watson@127.0.0.1>\r\nCall-ID: baddn.METHOD@192.0.2.1\r\n"),
    _message("3.1.2.16", "OPTIONS", top="METHOD sip:user@127.0.0.1 SIP/7.0\r\n"),
    _message("3.1.2.17", "OPTIONS", cseq="CSeq: 8 INVITE\r\n"),
    _message("3.1.2.18", "NEWMETHOD", cseq="CSeq: 8 INVITE\r\n"),
    _message("3.1.2.19", RESPONSE, top="SIP/2.0 4294967301 better not break the receiver\r\n", cseq="CSeq: 353494 INVITE\r\n"),
    # 3.2 and 3.3: transaction and application layer semantics
    _message("3.2.1", "OPTIONS", via="Via: SIP/2.0/TCP 192.0.2.1:PORT;branch=z9hG4bK\r\n"),
    _message("3.3.1", "INVITE", who="", rest=""),
    _message("3.3.2", "OPTIONS", top="METHOD nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0\r\n"),
    _message("3.3.3", "OPTIONS", top="METHOD soap.beep://192.0.2.103:3002 SIP/2.0\r\n"),
    _message("3.3.4", "REGISTER", who="To: isbn:2983792873\r\nFrom: <http://www.example.com>;tag=3234233\r\n"
             "Call-ID: unksm2.METHOD@192.0.2.1\r\n", rest="Max-Forwards: 70\r\nContact: <name:John_Smith>\r\n"
             "Content-Type: text/plain\r\n"),
    _message("3.3.5", "OPTIONS", rest=_REST + "Require: nothingSupportsThis, nothingSupportsThisEither\r\n"
             "Proxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis\r\n"),
    _message("3.3.6", "INVITE", rest="Max-Forwards: 70\r\nContent-Type: application/unknownformat\r\n"),
    _message("3.3.7", "REGISTER", rest=_REST + 'Authorization: NoOneKnowsThisScheme opaque-data="here"\r\n'),
    _message("3.3.8", "INVITE", who=_WHO + "From: <sip:other@127.0.0.1>;tag=2\r\nTo: <sip:other@127.0.0.1>\r\n"
             "Call-ID: multi01.other@192.0.2.1\r\n", rest=_REST + "CSeq: 8 METHOD\r\nMax-Forwards: 5\r\n"),
    _message("3.3.9", "OPTIONS", end="Content-Length: 13\r\nContent-Length: LENGTH\r\n\r\nBODY"),
    _message("3.3.10", RESPONSE, top="SIP/2.0 200 OK\r\n", cseq="CSeq: 37 INVITE\r\n",
             via="Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923\r\n"
             "Via: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23\r\n"),
    _message("3.3.11", "OPTIONS", rest="Max-Forwards: 0\r\nContent-Type: text/plain\r\n"),
    _message("3.3.12", "REGISTER", rest="Max-Forwards: 70\r\nContact: sip:+19725552222@192.0.2.1;unknownparam\r\n"
             "Content-Type: text/plain\r\n"),
    _message("3.3.13", "REGISTER", rest="Max-Forwards: 70\r\nContact: <sip:+19725552222@192.0.2.1;unknownparam>\r\n"
             "Content-Type: text/plain\r\n"),
    _message("3.3.14", "REGISTER", rest="Max-Forwards: 70\r\nContact: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>\r\n"
             "Content-Type: text/plain\r\n"),
    _message("3.3.15", "INVITE", rest=_REST + "Accept: text/nobodyKnowsThis\r\n"),
    # 3.4: backward compatibility
    _message("3.4.1", "INVITE", via="Via: SIP/2.0/UDP 192.0.2.1:PORT\r\n",
             who="To: sip:user@127.0.0.1\r\nFrom: sip:caller@127.0.0.1\r\nCall-ID: inv2543.METHOD@192.0.2.1\r\n",
             rest="Content-Type: text/plain\r\n"),
)  # fmt: skip


def built(torture: Torture, method: str, port: int, body: bytes) -> bytes:
    """The bytes to send."""
    text = torture.text.replace("METHOD", method).replace("PORT", str(port))
    text = text.replace("LENGTH", str(len(body)))
    return text.encode("utf-8").replace(b"BODY", body)
