"""A process finds its own TCP sockets, and keeps nothing open for having looked."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from utilities.own_sockets import address, connections, tcp_sockets


def open_descriptors() -> set[str]:
    return {str(entry.name) for entry in Path("/proc/self/fd").iterdir()}


def test_a_search_leaves_no_descriptor_open(tmp_path):
    pipe = os.pipe()
    with (
        (tmp_path / "file").open("wb"),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        before = len(open_descriptors())
        for _ in range(20):
            found = {descriptor for descriptor, _ in tcp_sockets()}
            peers = {descriptor: peer for descriptor, peer, _ in connections()}
        assert len(open_descriptors()) == before
        assert {server.fileno(), client.fileno()} <= found
        assert peers[client.fileno()] == address(*server.getsockname())
        assert server.fileno() not in peers
    for end in pipe:
        os.close(end)


def test_an_address_of_ipv6_stands_in_brackets():
    assert address("::1", 5060) == "[::1]:5060"
