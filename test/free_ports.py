"""Ports for tests that several test processes can run side by side.

Rules:

1. Ports lie below the range from which the kernel takes ports for outgoing connections, so that no
   connection can take a port between the moment it is given out and the moment it is bound.
2. Each port is locked by a file for the life of the test process that was given it. Without that, two
   test processes could be given the same port, and SIP receivers would share it (SO_REUSEPORT).
3. Only even ports are given out, so that a server may use the one above, as SIP over TLS does.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

LOOPBACK = "127.0.0.1"
_RANGE = range(12_000, 32_000, 2)
_FOLDER = Path(tempfile.gettempdir()) / f"ec-server-test-ports-{os.getuid()}"
_held: list[int] = []


def free_ports(count: int, address: str = LOOPBACK) -> list[int]:
    """``count`` ports that nobody has on TCP or UDP, and that no other test process is given."""
    _FOLDER.mkdir(exist_ok=True)
    found: list[int] = []
    for port in random.sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            return found
        if _lock(port):
            if _is_free(port, address):
                found.append(port)
            else:
                os.close(_held.pop())
    raise AssertionError(f"no {count} ports of {_RANGE} are free")


def free_port(address: str = LOOPBACK) -> int:
    """One port, as ``free_ports``."""
    return free_ports(1, address)[0]


def _lock(port: int) -> bool:
    handle = os.open(_FOLDER / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return False
    _held.append(handle)
    return True


def _is_free(port: int, address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                probe.bind((address, port))
    except OSError:
        return False
    return True
