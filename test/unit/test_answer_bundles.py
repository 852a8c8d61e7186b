"""Under load the answers of one poll wait for each other, and never longer than the poll."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest

from utilities.answer_bundles import AnswerBundles
from utilities.own_sockets import address


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        connection, _ = server.accept()
        with connection:
            yield connection, client


def is_corked(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK))


def under_load() -> AnswerBundles:
    bundles = AnswerBundles()
    for _ in range(10):
        bundles.note("127.0.0.1:1")
    bundles.poll_ended()
    return bundles


def test_under_load_a_connection_is_corked_until_the_poll_ends(pair):
    connection, client = pair
    sender = address(*client.getsockname())
    bundles = under_load()
    bundles.note(sender)
    assert is_corked(connection)
    connection.sendall(b"an answer")
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)
    bundles.poll_ended()
    assert not is_corked(connection)
    client.settimeout(5)
    assert client.recv(100) == b"an answer"


def test_few_messages_are_answered_one_by_one(pair):
    connection, client = pair
    bundles = AnswerBundles()
    for _ in range(3):
        bundles.note(address(*client.getsockname()))
        bundles.poll_ended()
        bundles.note(address(*client.getsockname()))
        assert not is_corked(connection)


def test_what_came_over_udp_or_is_gone_is_left_alone(pair):
    _, client = pair
    bundles = under_load()
    bundles.note("127.0.0.1:2")
    bundles.note(address(*client.getsockname()))
    bundles.connections_changed()
    bundles.poll_ended()
    bundles.note("127.0.0.1:2")


def test_a_search_that_fails_costs_no_message(pair, monkeypatch):
    connection, client = pair
    monkeypatch.setattr("utilities.own_sockets.Path", _Unreadable)
    bundles = under_load()
    bundles.note(address(*client.getsockname()))
    assert not is_corked(connection)


class _Unreadable:
    def __init__(self, *_: object) -> None: ...

    def iterdir(self) -> NoReturn:
        raise OSError("too many open files")
