"""TLS of the SIP transport: its files, checked at the start, and whose certificate a peer showed."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utilities.errors import ConfigurationError

NAMELESS = "(no single common name)"
"""Stands for the name of a certificate that has none, or several; no device id looks like it."""

_COMMON_NAME = re.compile(r"/CN=([^/]*)(?=/[A-Za-z0-9.]+=|$)")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; with an ``authority``, peers must show a certificate that it signed."""

    certificate: Path
    key: Path
    authority: Path | None = None


def set_tls(config: Any, files: TlsFiles | None) -> None:
    """Put the files into PJSUA2's ``TlsConfig``. Raises ConfigurationError where one cannot be used."""
    if files is None:
        raise ConfigurationError("transport tls needs sip.tls_certificate and sip.tls_key")
    _check_tls(files)
    config.certFile = str(files.certificate)
    config.privKeyFile = str(files.key)
    if files.authority:
        config.CaListFile = str(files.authority)
        config.verifyClient = True
        config.requireClientCert = True


def common_name(subject: str) -> str:
    """The only common name of a certificate's subject, ``/O=Works/CN=meter-7``; NAMELESS for none.

    PJSIP's own reading takes the first that looks like one, and ends it at a slash.
    """
    found = _COMMON_NAME.search(subject)
    return found[1] if found and found[1] and subject.count("/CN=") == 1 else NAMELESS


def _check_tls(files: TlsFiles) -> None:
    """Read the files as PJSIP will only at the first connection, and say then only there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"sip.tls_certificate {files.certificate} and sip.tls_key {files.key}: {error}"
        ) from error
    try:
        if files.authority:
            context.load_verify_locations(files.authority)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"sip.tls_ca {files.authority}: {error}") from error
