"""Answers leave in small pieces: the time that a client has for each does not depend on the whole."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from ec_server.status.http_server import PIECE_BYTES, in_small_pieces

SIZES = (0, 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES, 5 * PIECE_BYTES + 7)


def sent(response: Response) -> list[Message]:
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(in_small_pieces(response)(scope, receive, send))
    return messages


@pytest.mark.parametrize("size", SIZES)
def test_a_large_answer_leaves_in_small_pieces_that_are_the_whole(size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    start, *pieces = sent(Response(body))
    assert dict(start["headers"])[b"content-length"] == str(size).encode()
    assert b"".join(piece["body"] for piece in pieces) == body
    assert max(len(piece["body"]) for piece in pieces) <= PIECE_BYTES
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]


def test_a_small_answer_is_one_piece() -> None:
    assert len(sent(JSONResponse({"status": "ok"}))) == 2
