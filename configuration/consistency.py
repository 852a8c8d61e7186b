"""Rules that involve several options, and checks of the files and folders that options name."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from configuration.settings import Settings
from utilities import extras


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rule that the settings violate."""

    keys: tuple[str, ...]
    """The options concerned, beginning with the one that should probably be changed."""
    text: str
    """What is wrong and what to do."""


def conflicts(settings: Settings) -> list[Conflict]:
    """Every violated rule. Reads the file system, changes nothing, opens no socket."""
    return [conflict for rule in _RULES for conflict in rule(settings)]


def _bind(settings: Settings) -> Iterator[Conflict]:
    if not settings.sip_bind:
        yield Conflict(
            ("sip.public_addr", "sip.bind"), "is a host name: set sip.bind to the address to listen on"
        )


def _tls(settings: Settings) -> Iterator[Conflict]:
    if "tls" in settings.sip_transports:
        for key, path in (
            ("sip.tls_certificate", settings.sip_tls_certificate),
            ("sip.tls_key", settings.sip_tls_key),
        ):
            if path is None:
                yield Conflict(("sip.transports", key), f"tls needs {key}")


def _pem_files(settings: Settings) -> Iterator[Conflict]:
    for family in ("sip", "sync", "cassandra"):
        certificate, key, authority = (
            getattr(settings, f"{family}_tls_{part}") for part in ("certificate", "key", "ca")
        )
        names = tuple(f"{family}.tls_{part}" for part in ("certificate", "key", "ca"))
        if certificate and key:
            yield from _pair(certificate, key, names)
        elif certificate or key:
            there, absent = names[:2] if certificate else (names[1], names[0])
            yield Conflict((there, absent), f"needs {absent} beside it")
        elif authority and family != "cassandra":
            yield Conflict((names[2], names[0]), f"needs {names[0]} and {names[1]}, which turn TLS on")
        if authority:
            yield from _authority(authority, names[2])
        elif certificate and family == "cassandra":
            yield Conflict((names[0], names[2]), f"needs {names[2]}, which turns TLS on")


def _pair(certificate: Path, key: Path, names: tuple[str, ...]) -> Iterator[Conflict]:
    unreadable = [*_unreadable(certificate, names[0]), *_unreadable(key, names[1])]
    yield from unreadable
    if unreadable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        yield Conflict(
            names[:2],
            f"no PEM certificate with its PEM key, without passphrase, in {names[1]} ({_reason(error)})",
        )


def _authority(authority: Path, name: str) -> Iterator[Conflict]:
    unreadable = list(_unreadable(authority, name))
    yield from unreadable
    if unreadable:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=authority)
    except (ssl.SSLError, ValueError) as error:
        yield Conflict((name,), f"no PEM certificate in it ({_reason(error)})")


def _unreadable(path: Path, name: str) -> Iterator[Conflict]:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        yield Conflict((name,), f"cannot be read: {error.strerror}")


def _no_passphrase() -> str:
    raise ValueError("it has a passphrase")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return str(error)


def _ports(settings: Settings) -> Iterator[Conflict]:
    if "tls" in settings.sip_transports and settings.sip_tls_port > 65535:
        yield Conflict(("sip.port", "sip.tls_port"), "leaves no port after it for TLS: set sip.tls_port")
    for (key, address, port), (other, other_address, other_port) in combinations(_tcp_ports(settings), 2):
        if port == other_port and _meet(address, other_address):
            yield Conflict((other, key), f"{key} and {other} would both listen on TCP port {port}")


def _tcp_ports(settings: Settings) -> list[tuple[str, str, int]]:
    listeners = [
        ("sip.port", settings.sip_bind, settings.sip_port, "tcp" in settings.sip_transports),
        ("sip.tls_port", settings.sip_bind, settings.sip_tls_port, "tls" in settings.sip_transports),
        ("sync.port", settings.sync_ip, settings.sync_port, True),
        ("status.port", settings.status_ip, settings.status_port, True),
    ]
    return [(key, address, port) for key, address, port, used in listeners if used]


def _meet(one: str, other: str) -> bool:
    """Whether both cannot listen on the same port: the addresses are equal, or one means all addresses."""
    if one == other or "::" in (one, other):
        return True
    return "0.0.0.0" in (one, other) and ":" not in one + other  # noqa: S104 - compared, not bound


def _registrar(settings: Settings) -> Iterator[Conflict]:
    if settings.sip_registrar and not settings.sip_registrar_user:
        yield Conflict(("sip.registrar", "sip.registrar_user"), "needs sip.registrar_user")


def _driver(settings: Settings) -> Iterator[Conflict]:
    if settings.storage_engine == "cassandra" and extras.is_missing("cassandra"):
        yield Conflict(("storage.engine",), f"needs {extras.install_text('cassandra')}")


def _data_centre(settings: Settings) -> Iterator[Conflict]:
    centres = [part.split(":")[0] for part in settings.cassandra_replication.split(",") if ":" in part]
    if centres and settings.cassandra_local_dc and settings.cassandra_local_dc not in centres:
        yield Conflict(
            ("cassandra.replication", "cassandra.local_dc"),
            f"gives no copy to cassandra.local_dc, {settings.cassandra_local_dc}",
        )


def _storage_path(settings: Settings) -> Iterator[Conflict]:
    path = settings.storage_path.absolute()
    try:
        existing = next(each for each in (path, *path.parents) if os.path.lexists(each))
        usable = existing.is_dir()
    except (OSError, ValueError) as error:
        yield Conflict(("storage.path",), f"cannot be a folder: {error}")
        return
    if not usable:
        yield Conflict(("storage.path",), f"cannot be a folder: {existing} is not one")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Conflict(("storage.path",), f"cannot be written to: no permission on {existing}")


_RULES = (_bind, _tls, _pem_files, _ports, _registrar, _driver, _data_centre, _storage_path)
