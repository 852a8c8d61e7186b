"""The short way for a meter's next MESSAGE: its head is its last one's, but for four values; pure.

A meter writes the same head a thousand times a second, with another branch, Call-ID, CSeq and Content-Length.
Once sip_gate.py has decided about one, what it decided holds for all of its shape: the same lines, and the
four values of a form about which nothing can be wrong. Whatever differs in any other way goes the long way.
A test compares the two on heads made at random.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from utilities.sip_gate import Action, Origin, Row, answer, answer_port, message_tag
from utilities.sip_request import Head

_BRANCH = b";branch="
_CALL_ID, _LENGTH = b"Call-ID: ", b"Content-Length: "
_TOKEN = re.compile(rb"[A-Za-z0-9.!%*_+`'~-]+")
_WORD = re.compile(rb"[!-~]+")
_CSEQ = re.compile(rb"CSeq: ([0-9]{1,9} MESSAGE)")
_VARYING = (b"Via: ", _CALL_ID, b"CSeq: ", _LENGTH)


class Plain(NamedTuple):
    """A MESSAGE that is to be taken."""

    length: int
    """Content-Length."""
    answer: bytes
    """Its 200."""


class Shape(NamedTuple):
    """What the heads of one sender have in common."""

    transport: str
    lines: list[bytes]
    """The head's lines, empty where they vary."""
    via_at: int
    call_id_at: int
    cseq_at: int
    length_at: int
    before: bytes
    """The Via line before its branch, and behind it."""
    behind: bytes
    first: bytes
    """The answer up to the branch, and from there to the tag."""
    second: bytes
    port: int
    """What `answer_port` says."""

    def fits(self, raw: bytes, transport: str) -> Plain | None:
        """The message, where it has this shape."""
        lines = raw.split(b"\r\n")
        if len(lines) != len(self.lines) or transport != self.transport:
            return None
        via, call_id = lines[self.via_at], lines[self.call_id_at]
        cseq, length = _CSEQ.fullmatch(lines[self.cseq_at]), lines[self.length_at]
        lines[self.via_at] = lines[self.call_id_at] = lines[self.cseq_at] = lines[self.length_at] = b""
        if lines != self.lines or cseq is None:
            return None
        branch = via[len(self.before) : len(via) - len(self.behind)]
        digits = length[len(_LENGTH) :]
        if not (
            via.startswith(self.before)
            and via.endswith(self.behind)
            and _TOKEN.fullmatch(branch)
            and call_id.startswith(_CALL_ID)
            and _WORD.fullmatch(call_id, len(_CALL_ID))
            and length.startswith(_LENGTH)
            and digits.isdigit()
            and len(digits) <= 4
        ):
            return None
        tag = message_tag(call_id[len(_CALL_ID) :], cseq[1])
        text = b"%s%s%s%s\r\n%s\r\nCSeq: %s\r\nContent-Length: 0\r\n\r\n" % (
            self.first, branch, self.second, tag, call_id, cseq[1],
        )  # fmt: skip
        return Plain(int(digits), text)


def shape_of(raw: bytes, head: Head, row: Row, origin: Origin) -> Shape | None:
    """The shape of a head that the gate lets in; None where its form is not the usual one."""
    lines = raw.split(b"\r\n")
    at = [[i for i, line in enumerate(lines) if line.startswith(name)] for name in _VARYING]
    if row.action is not Action.TAKE or any(len(one) != 1 for one in at) or len(head.vias) != 1:
        return None
    via_at, call_id_at, cseq_at, length_at = (one[0] for one in at)
    via = lines[via_at]
    before, found, rest = via.partition(_BRANCH)
    branch, semicolon, behind = rest.partition(b";")
    if not found or b'"' in via or b"," in via or _BRANCH in behind or b"\r\n " in raw or b"\r\n\t" in raw:
        return None
    tag = message_tag(head.headers[b"call-id"], head.headers[b"cseq"])
    text = answer(head, origin, row)
    first, _, rest = text.partition(_BRANCH + branch)
    second, mark, _ = rest.partition(b";tag=%s\r\nCall-ID: " % tag)
    if not mark or not branch:
        return None
    for i in (via_at, call_id_at, cseq_at, length_at):
        lines[i] = b""
    shape = Shape(
        origin.transport, lines, via_at, call_id_at, cseq_at, length_at, before + _BRANCH, semicolon + behind,
        first + _BRANCH, second + b";tag=", answer_port(head, origin),
    )  # fmt: skip
    plain = shape.fits(raw, origin.transport)
    return shape if plain and (plain.answer, plain.length) == (text, head.length) else None
