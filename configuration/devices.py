"""Who may send: the devices file, one section per device, read into a `DeviceDirectory`.

    [meter-7]
    name = Cellar, main feed
    key = 64 hex digits, for the synchronization's challenge
    networks = 10.1.0.0/16, 2001:db8::/32

Without a file every device may send. With one, a device that is not in it is rejected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from configuration import kinds
from configuration.ini_file import MASKED, Entry, Fault, Header, nearest_or_all, placed, read_ini, shown
from configuration.kinds import Kind, refuse_control_characters
from utilities.errors import ConfigurationError
from utilities.model import RejectReason

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """The entry of a device that may send."""

    device_id: str
    name: str = ""
    key: bytes = field(default=b"", repr=False)
    """32 bytes for the challenge; empty if the device has none and is not challenged."""
    networks: tuple[Network, ...] = ()
    """From where its messages and connections may come; empty means anywhere."""


class DeviceDirectory:
    """The devices that may send; immutable, so thread-safe."""

    def __init__(self, rules: Mapping[str, DeviceRule] | None = None) -> None:
        """``rules`` by device id; None: every device may send."""
        self._rules = dict(rules or {})
        self.open_to_all = rules is None

    @classmethod
    def read(cls, path: Path | None) -> DeviceDirectory:
        """The directory of a devices file (None: open to all); ConfigurationError with all errors."""
        if path is None:
            return cls()
        rules, faults = _read(path)
        if faults:
            raise ConfigurationError("\n  ".join(["errors in the devices file:", *faults]))
        return cls(rules)

    @property
    def rules(self) -> tuple[DeviceRule, ...]:
        """Every device in the file, in its order."""
        return tuple(self._rules.values())

    def rule(self, device_id: str) -> DeviceRule | None:
        """The file's entry for the device; None if it has none, or there is no file."""
        return self._rules.get(device_id)

    def admits_some(self, ip: str) -> bool:
        """Whether any device may send from the address ``ip`` (text, no port)."""
        if self.open_to_all or any(not rule.networks for rule in self._rules.values()):
            return True
        address = _address(ip)
        networks = (network for rule in self._rules.values() for network in rule.networks)
        return address is not None and any(address in network for network in networks)

    def admits(self, device_id: str, ip: str) -> RejectReason | None:
        """None if the device may send from the address ``ip`` (text, no port), else why not."""
        if self.open_to_all:
            return None
        rule = self._rules.get(device_id)
        if rule is None:
            return RejectReason.UNKNOWN_DEVICE
        if not rule.networks:
            return None
        address = _address(ip)
        if address is not None and any(address in network for network in rule.networks):
            return None
        return RejectReason.WRONG_NETWORK


def device_faults(path: Path) -> list[str]:
    """All errors in a devices file, one line each."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, DeviceRule], list[str]]:
    ini = read_ini(path)
    faults = [*ini.faults, *_header_faults(ini.headers)]
    values: dict[str, dict[str, Any]] = {header.name: {} for header in ini.headers}
    first_lines: dict[tuple[str, str], int] = {}
    for entry in ini.entries:
        first = first_lines.setdefault((entry.section, entry.key), entry.line)
        if not entry.section:
            faults.append(Fault(entry.line, f"{entry} is before the first [device id]"))
        elif entry.key not in _OPTIONS:
            known = nearest_or_all(entry.key, _OPTIONS)
            faults.append(Fault(entry.line, f"{entry}: a device has no such option; {known}"))
        elif first != entry.line:
            faults.append(Fault(entry.line, f"{entry} is given twice, first in line {first}"))
        else:
            faults += _take(entry, values[entry.section])
    rules = {device_id: DeviceRule(device_id, **given) for device_id, given in values.items()}
    return rules, placed(path, faults)


def _header_faults(headers: tuple[Header, ...]) -> list[Fault]:
    faults: list[Fault] = []
    first_lines: dict[str, int] = {}
    for header in headers:
        first = first_lines.setdefault(header.name, header.line)
        if not _DEVICE_ID.fullmatch(header.name):
            faults.append(
                Fault(header.line, f"{header} is not a device id; allowed: 1 to 64 of A-Z a-z 0-9 . _ -")
            )
        elif first != header.line:
            faults.append(Fault(header.line, f"{header} is given twice, first in line {first}"))
    return faults


def _take(entry: Entry, values: dict[str, Any]) -> list[Fault]:
    kind = _OPTIONS[entry.key]
    try:
        values[entry.key] = kind.parse(refuse_control_characters(entry.value))
    except ValueError as error:
        value = MASKED if entry.key == "key" else shown(entry.value)
        return [Fault(entry.line, f"{entry} = {value} ({error}); allowed: {kind.allowed}")]
    return []


def _key(text: str) -> bytes:
    if not _KEY.fullmatch(text):
        raise ValueError(f"{len(text)} characters")
    return bytes.fromhex(text)


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(_network(part.strip()) for part in text.split(",")) if text else ()


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        loose = ipaddress.ip_network(text, strict=False)
        raise ValueError(f"{text} is an address in a network: write {loose}") from None


_OPTIONS = {
    "name": kinds.TEXT,
    "key": Kind(_key, "exactly 64 hex digits"),
    "networks": Kind(
        _networks, "networks such as 10.1.0.0/16 or 2001:db8::/32, or single addresses, by comma"
    ),
}
"""The options of a device, and what each may be."""


@lru_cache(maxsize=8192)
def _address(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address, for comparison with networks: IPv4-mapped IPv6 as IPv4."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
