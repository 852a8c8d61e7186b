"""Checks before the start whether the server's ports are available.

Receivers share their port on purpose (SO_REUSEPORT). So two servers of one user would silently share it as
well, and each would get a part of the messages. Hence all ports are bound once without that option, at the
same time, and then released.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from configuration.settings import Settings
from utilities.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Port:
    """A socket that the server is going to bind, and the keys that configure its address."""

    use: str
    kind: socket.SocketKind
    address: str
    number: int
    address_key: str
    number_key: str


_STREAM = socket.SOCK_STREAM

_WHAT_TO_DO = {
    errno.EADDRINUSE: "another program has it: end that one, or change {number_key}",
    errno.EADDRNOTAVAIL: "this machine has no such address: change {address_key}",
    errno.EACCES: "this user may not open it: change {number_key} (ports below 1024 are privileged)",
}


def server_ports(settings: Settings) -> list[Port]:
    """Every configured port that will be opened."""
    ports = [_sip_port(settings, transport) for transport in settings.sip_transports]
    ports.append(
        Port("synchronization", _STREAM, settings.sync_ip, settings.sync_port, "sync.ip", "sync.port")
    )
    if settings.status_port:
        ports.append(
            Port("status page", _STREAM, settings.status_ip, settings.status_port, "status.ip", "status.port")
        )
    return ports


def _sip_port(settings: Settings, transport: str) -> Port:
    kind = socket.SOCK_DGRAM if transport == "udp" else _STREAM
    key = "sip.tls_port" if transport == "tls" else "sip.port"
    number = settings.sip_tls_port if transport == "tls" else settings.sip_port
    return Port(f"SIP over {transport.upper()}", kind, settings.sip_bind, number, "sip.bind", key)


def probe(ports: Sequence[Port]) -> None:
    """Bind each port, and release it again.

    Raises ConfigurationError that names every port that is not available, and the key to change.
    """
    faults = []
    with ExitStack() as held:
        for port in ports:
            try:
                held.enter_context(_bound(port))
            except OSError as error:
                faults.append(_fault(port, error))
    if faults:
        raise ConfigurationError("\n".join(faults))


def _bound(port: Port) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(
        port.address, port.number, type=port.kind, flags=socket.AI_PASSIVE
    )[0]
    opened = socket.socket(family, kind)
    try:
        if kind == _STREAM:
            # As the servers do: remaining connections of a former run do not matter.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        if kind == _STREAM:
            opened.listen(1)
    except OSError:
        opened.close()
        raise
    return opened


def _fault(port: Port, error: OSError) -> str:
    advice = _WHAT_TO_DO.get(error.errno or 0, "change {address_key} or {number_key}")
    where = f"{port.address} port {port.number}"
    what = error.strerror or str(error)
    return f"{port.use}: cannot listen on {where}: {what}; {advice.format_map(_keys(port))}"


def _keys(port: Port) -> dict[str, str]:
    return {"address_key": port.address_key, "number_key": port.number_key}
