"""The listening socket and the TLS settings of the sync port.

asyncio accepts up to ``backlog`` connections at a time, so a flood of them would delay all connected devices.
Here the kernel's queue is long, but only a few connections are accepted at a time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from configuration.settings import Settings

ACCEPTED_AT_ONCE = 8
_QUEUE = 2048


async def listen(settings: Settings, protocol: Callable[[], asyncio.BufferedProtocol]) -> asyncio.Server:
    """Listen on sync.ip and sync.port; OSError if that is not possible."""
    family = socket.AF_INET6 if ":" in settings.sync_ip else socket.AF_INET
    address = (settings.sync_ip, settings.sync_port)
    try:
        listening = socket.create_server(address, family=family, backlog=_QUEUE)
    except OSError as error:
        why = (error.strerror or str(error)).split(" (")[0].lower()
        raise OSError(error.errno, f"cannot listen on {address[0]}:{address[1]}: {why}") from error
    listening.setblocking(False)
    server = await asyncio.get_running_loop().create_server(
        protocol, sock=listening, backlog=ACCEPTED_AT_ONCE
    )
    listening.listen(_QUEUE)  # asyncio has set the queue length to its ``backlog``
    return server


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or later with the configured files; None if there is no certificate."""
    if settings.sync_tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.sync_tls_certificate, settings.sync_tls_key)
    if settings.sync_tls_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=settings.sync_tls_ca)
    return context
