"""Seeded mutations of bytes: the short runs in the suite, and the flood against a live server."""

from __future__ import annotations

import random

PIECES = (
    b"\r\n",
    b"\0",
    b"|",
    b";",
    b",",
    b"||",
    b"\r\n\r\n",
    b"%s",
    b"\xff",
    b"<",
    b'"',
    b"\n",
    b"{",
    b"[",
    b":",
)
VALUES = (
    *(b"99999999999999999999", b"-1", b"0", b"nan", b"1e400", b"000000,", b"null", b'"length":'),
    *(b"maddr=slow.invalid", b"multipart/mixed", b"sip:[::1]"),
)


def mutated(chance: random.Random, message: bytes) -> bytes:
    """A message with a few bytes changed, moved, doubled or gone."""
    data = bytearray(message)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 8, 64))
        piece = bytes(data[at : at + length])
        kind = chance.randrange(6)
        if kind == 0:
            data[at : at + length] = b""
        elif kind == 1:
            data[at:at] = piece
        elif kind == 2:
            data[at : at + len(piece)] = chance.randbytes(len(piece))
        elif kind == 3:
            data[at:at] = chance.choice(PIECES)
        elif kind == 4:
            data[at : at + length] = chance.choice(VALUES)
        else:
            to = chance.randrange(len(data) + 1)
            data[at : at + length] = b""
            data[to:to] = piece
    return bytes(data)
