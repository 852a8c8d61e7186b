"""TLS of one connection without a socket: bytes in, bytes out, and the plain text between.

A server's first step of the handshake costs a signature; see handshake_turns.py for when it is made.
"""

from __future__ import annotations

import ssl
from typing import Any

_READ_BYTES = 1 << 16


class TlsChannel:
    """One connection's TLS, as the server; raises ssl.SSLError if the peer breaks its rules."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._fed = bytearray()
        self.begun = False
        """Whether a step of the handshake was made."""
        self.established = False
        """Whether the handshake is over."""
        self.at_end = False

    @property
    def fed(self) -> int:
        """Bytes that were put aside for the next step."""
        return len(self._fed)

    def feed(self, data: bytes) -> None:
        """Put what came from the network aside."""
        self._fed += data

    def _take_fed(self) -> None:
        self._incoming.write(self._fed)
        self._fed.clear()

    def handshake_step(self) -> None:
        """Go on with the handshake as far as the bytes reach."""
        self.begun = True
        self._take_fed()
        try:
            self._tls.do_handshake()
            self.established = True
        except ssl.SSLWantReadError:
            pass

    def read(self) -> bytes:
        """The plain bytes of all that was fed; ``at_end`` is set where the peer closed TLS."""
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
        """Say that nothing more follows."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            return  # the peer's own close has not come yet, or never will

    def data_to_send(self) -> bytes:
        """The bytes for the network since the last call."""
        return self._outgoing.read()

    def common_name(self) -> str:
        """The only common name in the certificate that the peer showed; "" if there is none."""
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        subject = certificate.get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        return str(names[0]) if len(names) == 1 else ""
