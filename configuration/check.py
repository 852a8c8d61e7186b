"""``--check-config``: reads the configuration as a start would and reports the result."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from configuration.devices import DeviceDirectory
from configuration.properties_reader import DEFAULT_PATH, read_settings
from configuration.settings import Settings
from utilities.errors import ConfigurationError

VALID, FAULTY = 0, 2


def check(path: Path | None, environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit code (0, or 2 if there are faults) and the text for the operator, without a last newline."""
    try:
        settings = read_settings(path, environ)
    except ConfigurationError as error:
        return FAULTY, printable(str(error))
    source = path or (DEFAULT_PATH if DEFAULT_PATH.exists() else "no file, all defaults")
    lines = [f"the configuration is valid ({source})"]
    return VALID, printable("\n".join(lines + [f"warning: {each}" for each in warnings(settings)]))


def warnings(settings: Settings) -> list[str]:
    """Warnings about settings that are allowed but risky, one line each."""
    found = []
    directory = DeviceDirectory.read(settings.devices_file)
    listening = {"SIP": settings.sip_bind, "synchronization": settings.sync_ip}
    beyond = [f"{what} on {address}" for what, address in listening.items() if not _is_loopback(address)]
    if directory.open_to_all and beyond:
        found.append(
            f"every device may send, and the server listens beyond loopback ({', '.join(beyond)}): "
            "set devices.file to say which devices may send"
        )
    if settings.status_port and not _is_loopback(settings.status_ip) and not settings.status_token:
        found.append(
            f"everybody who reaches {settings.status_ip} port {settings.status_port} can read the "
            "status page: set status.token; until then samples and power are not served"
        )
    keyless = [rule.device_id for rule in directory.rules if not rule.key]
    if not _is_loopback(settings.sync_ip) and settings.sync_tls_ca is None and keyless:
        found.append(
            f"synchronization listens beyond loopback ({settings.sync_ip}), and {_some(keyless)} "
            "can be impersonated: give each a key in the devices file, or set sync.tls_ca"
        )
    if not directory.open_to_all and not directory.rules:
        found.append(f"{settings.devices_file} names no device: every message will be rejected")
    return found


def printable(text: str) -> str:
    """``text`` with escapes for characters that cannot be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
