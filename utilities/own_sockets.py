"""This process's TCP sockets, found by their descriptors: PJSIP tells nobody which ones are its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def tcp_sockets() -> Iterator[tuple[int, socket.socket]]:
    """Each descriptor with a socket object for it, open until the next one is asked for."""
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError), _socket_of(descriptor) as one:
            if one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6):
                yield descriptor, one


def _socket_of(descriptor: int) -> socket.socket:
    """A socket object with a descriptor of its own; OSError where it is no socket, or gone."""
    another = os.dup(descriptor)
    try:
        return socket.socket(fileno=another)
    except OSError:
        os.close(another)
        raise


def connections() -> Iterator[tuple[int, str, socket.socket]]:
    """Those of them that are connected: descriptor, ``ip:port`` of the peer, socket object."""
    for descriptor, one in tcp_sockets():
        with suppress(OSError):
            host, port = one.getpeername()[:2]
            yield descriptor, address(host, port), one


def address(host: str, port: int) -> str:
    """``ip:port``, or ``[ip]:port`` of an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
