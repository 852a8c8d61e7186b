"""The fast path for a meter's next MESSAGE, whose head is like the previous one but for a few values; pure.

A meter sends the same head a thousand times per second, except for branch, From tag, Call-ID, CSeq and
Content-Length. (Behind a proxy there is one more Via, with a branch of its own.) Once sip_gate.py has decided
about one head, the decision holds for all heads of the same shape: the same lines, and values in a form that
cannot be wrong. Any other head takes the slow path. A test compares both paths on random heads.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from utilities.sip_gate import Action, Origin, Row, answer, answer_port, message_tag
from utilities.sip_request import Head

_FROM, _TAG, _BRANCH = b"From: ", b";tag=", b";branch="
_VIA, _CALL_ID = b"Via: ", b"Call-ID: "
_ONCE = (_FROM, _CALL_ID, b"CSeq: ", b"Content-Length: ")
_MOST_VIAS = 4
_TOKEN = re.compile(rb"[A-Za-z0-9.!%*_+`'~-]+").fullmatch
_WORD = re.compile(rb"Call-ID: ([!-~]+)").fullmatch
_CSEQ = re.compile(rb"CSeq: ([0-9]{1,9} MESSAGE)").fullmatch
_LENGTH = re.compile(rb"Content-Length: {1,6}([0-9]{1,4})").fullmatch
_MOST_SENDERS = 4096
_LONGEST_SENDER = 300


class Plain(NamedTuple):
    """A MESSAGE to be taken."""

    length: int
    """Content-Length."""
    answer: bytes
    """The 200 to it."""


class _Token(NamedTuple):
    """A line that varies in one token."""

    at: int
    before: bytes
    behind: bytes


class Shape(NamedTuple):
    """What the heads of one sender have in common."""

    transport: str
    lines: list[bytes]
    """The lines of the head; those that vary are empty."""
    tokens: list[_Token]
    """The branch of each Via, and the From tag."""
    call_id_at: int
    cseq_at: int
    length_at: int
    text: bytes
    """The answer, with %s for each of the tokens, its own tag, the Call-ID and the CSeq."""
    port: int
    """The port from `answer_port`."""

    def fits(self, raw: bytes, transport: str) -> Plain | None:
        """The message if it has this shape, else None."""
        lines = raw.split(b"\r\n")
        if len(lines) != len(self.lines) or transport != self.transport:
            return None
        values: list[bytes] = []
        for at, before, behind in self.tokens:
            line = lines[at]
            value = line[len(before) : len(line) - len(behind)]
            if not (line.startswith(before) and line.endswith(behind) and _TOKEN(value)):
                return None
            values.append(value)
            lines[at] = b""
        call_id, cseq = _WORD(lines[self.call_id_at]), _CSEQ(lines[self.cseq_at])
        length = _LENGTH(lines[self.length_at])
        lines[self.call_id_at] = lines[self.cseq_at] = lines[self.length_at] = b""
        if call_id is None or cseq is None or length is None or lines != self.lines:
            return None
        values += (message_tag(call_id[1], cseq[1]), call_id[1], cseq[1])
        return Plain(int(length[1]), self.text % tuple(values))


class KnownShapes:
    """The shapes of many senders. Cheap for senders without a shape, or whose shape changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Shape] = {}
        self._misses: dict[tuple[str, bytes], int] = {}

    def __len__(self) -> int:
        """Number of known senders."""
        return len(self._misses)

    def find(self, raw: bytes, origin: Origin) -> tuple[Shape, Plain] | None:
        """The message and its shape, if it has the shape known of its sender."""
        shape = self._known.get(_sender(raw, origin))
        plain = shape.fits(raw, origin.transport) if shape is not None else None
        return None if shape is None or plain is None else (shape, plain)

    def learn(self, raw: bytes, head: Head, row: Row, origin: Origin) -> None:
        """Remember the shape of a head that took the slow path.

        This is done for its sender's second head, then for the fourth, the eighth and so on, as computing a
        shape costs more than the slow path: never for a sender's only head, and rarely if it does not help.
        """
        sender = _sender(raw, origin)
        misses = self._misses[sender] = self._misses.get(sender, 0) + 1
        if misses > 1 and not misses & (misses - 1):
            shape = shape_of(raw, head, row, origin)
            if shape is not None:
                self._known[sender] = shape
        if len(self._misses) > _MOST_SENDERS:  # bounds _known as well: its senders are all in _misses
            self._misses.clear()
            self._known.clear()


def _sender(raw: bytes, origin: Origin) -> tuple[str, bytes]:
    """Identifies the sender: where the head came from, and its From header up to the tag."""
    at = raw.find(b"\r\nFrom: ")
    end = raw.find(_TAG, at, at + _LONGEST_SENDER)
    return origin.name, raw[at:end] if 0 <= at < end else b""


def shape_of(raw: bytes, head: Head, row: Row, origin: Origin) -> Shape | None:
    """The shape of a head that the gate accepts; None if its form is unusual."""
    lines = raw.split(b"\r\n")
    vias = [i for i, line in enumerate(lines) if line.startswith(_VIA)]
    at = [[i for i, line in enumerate(lines) if line.startswith(name)] for name in _ONCE]
    is_usual = row.action is Action.TAKE and all(len(one) == 1 for one in at)
    if not is_usual or not len(vias) == len(head.vias) <= _MOST_VIAS or b"\r\n " in raw or b"\r\n\t" in raw:
        return None
    from_at, call_id_at, cseq_at, length_at = (one[0] for one in at)
    tokens = [_split(i, lines[i], _BRANCH) for i in vias]
    if any(b'"' in lines[i] or b"," in lines[i] or _TAG in lines[i] for i in vias):
        return None
    tokens.append(_split(from_at, lines[from_at], _TAG))
    text = _answer(head, origin, row, lines, tokens)
    if text is None:
        return None
    for i in (*vias, from_at, call_id_at, cseq_at, length_at):
        lines[i] = b""
    places = call_id_at, cseq_at, length_at
    shape = Shape(origin.transport, lines, tokens, *places, text, answer_port(head, origin))
    plain = shape.fits(raw, origin.transport)
    is_right = plain == Plain(head.length or 0, answer(head, origin, row))
    return shape if is_right else None


def _split(at: int, line: bytes, mark: bytes) -> _Token:
    """A line, without the token after its only ``mark``."""
    before, _, rest = line.partition(mark)
    _, semicolon, behind = rest.partition(b";")
    return _Token(at, before + mark, semicolon + behind)


def _answer(head: Head, origin: Origin, row: Row, lines: list[bytes], tokens: list[_Token]) -> bytes | None:
    """The answer with %s where values vary; None if their places are not certain."""
    rest, parts = answer(head, origin, row), []
    for at, before, behind in tokens:
        mark = _TAG if before.endswith(_TAG) else _BRANCH
        value = lines[at][len(before) : len(lines[at]) - len(behind)]
        part, found, rest = rest.partition(mark + value)
        if not found or not value or mark in before[: -len(mark)] or mark in behind:
            return None
        parts.append(part + mark)
    own = message_tag(head.headers[b"call-id"], head.headers[b"cseq"])
    part, found, _ = rest.partition(_TAG + own + b"\r\nCall-ID: ")
    if not found:
        return None
    parts.append(part + _TAG)
    constant = [part.replace(b"%", b"%%") for part in parts]
    return b"%s".join(constant) + b"%s\r\nCall-ID: %s\r\nCSeq: %s\r\nContent-Length: 0\r\n\r\n"
