"""TLS of the SIP port: its files, checked at the start, and the name in a peer's certificate."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utilities.errors import ConfigurationError

NAMELESS = "(no single common name)"
"""The name used for a certificate that has none or several; no device id can be equal to it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; with an ``authority``, peers must present a certificate that it signed."""

    certificate: Path
    key: Path
    authority: Path | None = None


def server_context(files: TlsFiles | None) -> ssl.SSLContext:
    """TLS 1.2 or newer with these files. Raises ConfigurationError if one cannot be used."""
    if files is None:
        raise ConfigurationError("transport tls needs sip.tls_certificate and sip.tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.num_tickets = 0  # no session resumption, so that every connection shows its certificate
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"sip.tls_certificate {files.certificate} and sip.tls_key {files.key}: {error}"
        ) from error
    try:
        if files.authority:
            context.load_verify_locations(files.authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"sip.tls_ca {files.authority}: {error}") from error
    return context


def common_name(certificate: Mapping[str, Any] | None) -> str:
    """The common name in a peer's certificate, as ``ssl`` returns it; NAMELESS if it has none or several."""
    subject = (certificate or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 and names[0] else NAMELESS
