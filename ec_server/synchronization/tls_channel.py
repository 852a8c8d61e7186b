"""The TLS layer of one connection, without a socket: encrypted bytes on one side, plain text on the other.

The server's first step of a handshake requires a signature; handshake_turns.py decides when it is done.
"""

from __future__ import annotations

import ssl
from typing import Any

_READ_BYTES = 1 << 16


class TlsChannel:
    """The server's side of TLS; raises ssl.SSLError if the peer violates the protocol."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._fed = bytearray()
        self.begun = False
        """Whether a step of the handshake was done."""
        self.established = False
        """Whether the handshake is over."""
        self.at_end = False

    @property
    def fed(self) -> int:
        """Number of bytes that wait for the next step."""
        return len(self._fed)

    def feed(self, data: bytes) -> None:
        """Buffer bytes from the network."""
        self._fed += data

    def _take_fed(self) -> None:
        self._incoming.write(self._fed)
        self._fed.clear()

    def handshake_step(self) -> None:
        """Continue the handshake as far as the received bytes allow."""
        self.begun = True
        self._take_fed()
        try:
            self._tls.do_handshake()
            self.established = True
        except ssl.SSLWantReadError:
            pass

    def read(self) -> bytes:
        """Decrypt everything that was fed; ``at_end`` is set if the peer closed TLS."""
        self._take_fed()
        parts = []
        try:
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
            self.at_end = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.at_end = True
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Encrypt; see ``data_to_send``."""
        self._tls.write(data)

    def close(self) -> None:
        """Send close_notify."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            return  # the peer's close_notify has not arrived yet, or never will

    def data_to_send(self) -> bytes:
        """The bytes for the network since the last call."""
        return self._outgoing.read()

    def common_name(self) -> str:
        """The only common name in the certificate that the peer showed; "" if there is none."""
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        subject = certificate.get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        return str(names[0]) if len(names) == 1 else ""
