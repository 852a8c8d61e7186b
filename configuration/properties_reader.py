"""Reads config.properties and the environment into `Settings`, or reports every fault at once.

The environment wins over the file, the file over the defaults. A value that the environment
overrides must still be right: the file is checked whole, so that it stays usable without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configuration.consistency import conflicts
from configuration.devices import device_faults
from configuration.ini_file import Entry, Header, nearest, nearest_or_all, read_ini, shown
from configuration.kinds import refuse_control_characters
from configuration.settings import OPTIONS, SECTIONS, Option, Settings
from ec_server.errors import ConfigurationError

DEFAULT_PATH = Path(__file__).resolve().with_name("config.properties")
"""What is read when no file is named; where it is missing, everything has its default."""

NOT_KEYS = ("EC_SUPERVISED", "EC_TEST_")
"""Beginnings of ``EC_`` variables that are not keys: between the server's processes, and of its tests."""

_MASKED = "'***'"
_HINTS_AT_A_SECRET = re.compile(r"pass|pw|secret|token", re.IGNORECASE)

_BY_KEY = {option.key: option for option in OPTIONS}
_BY_VARIABLE = {option.variable: option for option in OPTIONS}
_FAMILIES = tuple({f"EC_{option.key.split('.')[0].upper()}_" for option in OPTIONS})


def read_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file at ``path`` (None: `DEFAULT_PATH`, if there) and of ``environ``.

    Raises ConfigurationError, a line a fault, with everything that is wrong in the file, in the
    environment, between options, and in the files that options name.
    """
    reading = _Reading()
    if path is None and DEFAULT_PATH.exists():
        path = DEFAULT_PATH
    if path is not None:
        _read_file(path, reading)
    _read_environment(environ, reading)
    settings = Settings(**reading.values)
    _read_between(settings, reading)
    if reading.faults:
        count = len(reading.faults)
        title = f"{count} fault{'s' if count > 1 else ''} in the configuration:"
        raise ConfigurationError("\n  ".join([title, *reading.faults]))
    return settings


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    values: dict[str, Any] = field(default_factory=dict)
    """Attribute of `Settings` to value."""
    places: dict[str, str] = field(default_factory=dict)
    """Key to where its value in use was given."""
    faulty: set[str] = field(default_factory=set)
    """Keys given a value that cannot be; what depends on them is not judged."""
    faults: list[str] = field(default_factory=list)

    def take(self, option: Option, text: str, place: str, said: str) -> None:
        """Parse ``text`` for ``option``; ``said`` is the assignment's left side as the operator wrote it."""
        self.places[option.key] = place
        try:
            self.values[option.attribute] = option.kind.parse(refuse_control_characters(text))
        except ValueError as error:
            value = _MASKED if option.secret else shown(text)
            reason = f" ({error})" if str(error) else ""
            self.faulty.add(option.key)
            self.faults.append(f"{place}: {said} = {value}{reason}; allowed: {option.kind.allowed}")


def _read_file(path: Path, reading: _Reading) -> None:
    ini = read_ini(path)
    reading.faults += ini.faults
    reading.faults += [fault for header in ini.headers for fault in _section_fault(header, path)]
    first_lines: dict[str, int] = {}
    for entry in ini.entries:
        place = f"{path}:{entry.line}"
        option = _BY_KEY.get(entry.key)
        if option is None:
            reading.faults.append(f"{place}: {_unknown_key(entry)}")
        elif first := first_lines.get(entry.key):
            reading.faults.append(f"{place}: {_said(entry)} is given again, first in line {first}")
        else:
            first_lines[entry.key] = entry.line
            if entry.section != option.section and (entry.section in SECTIONS or entry.section is None):
                reading.faults.append(f"{place}: {_said(entry)} belongs into the section [{option.section}]")
            reading.take(option, entry.value, place, _said(entry))


def _read_environment(environ: Mapping[str, str], reading: _Reading) -> None:
    for name in sorted(environ):
        if not name.startswith("EC_") or name.startswith(NOT_KEYS):
            continue
        if option := _BY_VARIABLE.get(name):
            reading.faulty.discard(option.key)
            reading.take(option, environ[name], "environment", name)
        elif found := nearest(name, _BY_VARIABLE):
            reading.faults.append(f"environment: {name} is no key of this server; the nearest is {found}")
        elif name.startswith(_FAMILIES):
            reading.faults.append(f"environment: {name} is no key of this server")


def _read_between(settings: Settings, reading: _Reading) -> None:
    """What only shows when all is read: options that contradict, files that options name."""
    for conflict in conflicts(settings):
        if reading.faulty.isdisjoint(conflict.keys):
            key = next((key for key in conflict.keys if key in reading.places), conflict.keys[0])
            place = reading.places.get(key, "default")
            section = _BY_KEY[key].section
            value = getattr(settings, _BY_KEY[key].attribute)
            said = _MASKED if _BY_KEY[key].secret else shown(_text(value))
            reading.faults.append(f"{place}: [{section}] {key} = {said}: {conflict.text}")
    if settings.devices_file is not None:
        reading.faults += device_faults(settings.devices_file)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


def _section_fault(header: Header, path: Path) -> list[str]:
    if header.name in SECTIONS:
        return []
    return [f"{path}:{header.line}: [{header.name}] is no section; {nearest_or_all(header.name, SECTIONS)}"]


def _said(entry: Entry) -> str:
    return f"[{entry.section}] {entry.key}" if entry.section else entry.key


def _unknown_key(entry: Entry) -> str:
    in_section = [option.key for option in OPTIONS if option.section == entry.section]
    found = nearest(entry.key, in_section) or nearest(entry.key, _BY_KEY)
    known = [found] if found else in_section or _BY_KEY
    secret = _HINTS_AT_A_SECRET.search(entry.key) or (found and _BY_KEY[found].secret)
    value = _MASKED if secret else shown(entry.value)
    return f"{_said(entry)} = {value}: no such key; {nearest_or_all(entry.key, known)}"
