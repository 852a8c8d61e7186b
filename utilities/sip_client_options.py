"""What a SIP client needs to know before it exists; without the library, which not every installation has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MOST_ACCOUNTS = 8
"""The most meters per client: PJSUA's compiled-in limit."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files. Without an ``authority``, the server's certificate is not checked."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Where messages are sent. ``to`` is the address of record, if it is not the server itself."""

    host: str
    port: int
    transport: str
    tls: ClientTls = ClientTls()
    to: str = ""
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Credentials by device id, for a proxy that asks for digest authentication."""

    @property
    def uri(self) -> str:
        """The request URI of every message."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.to or f'sip:ecserver@{host}:{self.port}'};transport={self.transport}"
