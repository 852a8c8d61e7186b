"""Reads config.properties and the environment into `Settings`, or reports all errors together.

The environment overrides the file, and the file the defaults. A value that the environment overrides must
still be valid: the whole file is checked, so that it remains usable without the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configuration.consistency import conflicts
from configuration.devices import device_faults
from configuration.ini_file import (
    MASKED,
    Entry,
    Fault,
    Header,
    nearest,
    nearest_or_all,
    placed,
    read_ini,
    shown,
)
from configuration.kinds import refuse_control_characters
from configuration.settings import OPTIONS, SECTIONS, Option, Settings
from utilities.errors import ConfigurationError

DEFAULT_PATH = Path(__file__).resolve().with_name("config.properties")
"""The file that is read if none is named; if it is missing, every option has its default."""

NOT_KEYS = ("EC_SUPERVISED", "EC_TEST_")
"""Prefixes of ``EC_`` variables that are not keys: for the server's own processes, and for its tests."""

_HINTS_AT_A_SECRET = re.compile(r"pass|pw|secret|token", re.IGNORECASE)

_BY_KEY = {option.key: option for option in OPTIONS}
_BY_VARIABLE = {option.variable: option for option in OPTIONS}
_FAMILIES = tuple({f"EC_{option.key.split('.')[0].upper()}_" for option in OPTIONS})


def read_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings from the file at ``path`` (None: `DEFAULT_PATH`, if it exists) and ``environ``.

    Raises ConfigurationError with all errors, one line each: in the file, in the environment, between
    options, and in the files that options name.
    """
    return read_with_places(path, environ)[0]


def read_with_places(path: Path | None, environ: Mapping[str, str]) -> tuple[Settings, Mapping[str, str]]:
    """As `read_settings`, with the place where each key was set.

    A place is ``FILE:LINE`` or ``environment EC_...``; keys with their defaults are left out.
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
        title = f"{count} error{'s' if count > 1 else ''} in the configuration:"
        raise ConfigurationError("\n  ".join([title, *reading.faults]))
    return settings, reading.places


def value_text(option: Option, value: object) -> str:
    """A parsed value as in a configuration file; secrets are masked, unless empty."""
    return MASKED if option.secret and value else _text(value)


@dataclass(slots=True)
class _Reading:
    """The state of reading."""

    values: dict[str, Any] = field(default_factory=dict)
    """Attribute of `Settings` to value."""
    places: dict[str, str] = field(default_factory=dict)
    """Key to the place where the value in use was given."""
    faulty: set[str] = field(default_factory=set)
    """Keys with invalid values; rules that depend on them are not checked."""
    faults: list[str] = field(default_factory=list)

    def take(self, option: Option, text: str, place: str) -> str | None:
        """Take an option's value given at ``place``; returns what is wrong with it, if anything."""
        self.places[option.key] = place
        try:
            self.values[option.attribute] = option.kind.parse(refuse_control_characters(text))
        except ValueError as error:
            self.faulty.add(option.key)
            return f"{f' ({error})' if str(error) else ''}; allowed: {option.kind.allowed}"
        return None


def _read_file(path: Path, reading: _Reading) -> None:
    ini = read_ini(path)
    faults = [*ini.faults, *_unknown_sections(ini.headers)]
    first_lines: dict[str, int] = {}
    for entry in ini.entries:
        option = _BY_KEY.get(entry.key)
        if option is None:
            faults.append(Fault(entry.line, _unknown_key(entry)))
            continue
        said = f"{entry} = {_shown(option, entry.value)}"
        first = first_lines.setdefault(entry.key, entry.line)
        if first != entry.line:
            faults.append(Fault(entry.line, f"{said}: is given twice, first in line {first}"))
            continue
        if entry.section != option.section and entry.section in ("", *SECTIONS):
            faults.append(Fault(entry.line, f"{said}: belongs in section [{option.section}]"))
        if fault := reading.take(option, entry.value, f"{path}:{entry.line}"):
            faults.append(Fault(entry.line, f"{said}{fault}"))
    reading.faults += placed(path, faults)


def _read_environment(environ: Mapping[str, str], reading: _Reading) -> None:
    for name in sorted(environ):
        if not name.startswith("EC_") or name.startswith(NOT_KEYS):
            continue
        if option := _BY_VARIABLE.get(name):
            reading.faulty.discard(option.key)
            if fault := reading.take(option, environ[name], f"environment {name}"):
                reading.faults.append(f"environment: {name} = {_shown(option, environ[name])}{fault}")
        elif found := nearest(name, _BY_VARIABLE):
            reading.faults.append(f"environment: {name} is not a recognised key; the nearest is {found}")
        elif name.startswith(_FAMILIES):
            reading.faults.append(f"environment: {name} is not a recognised key")


def _read_between(settings: Settings, reading: _Reading) -> None:
    """Checks after reading everything: contradictions between options, and files that options name."""
    for conflict in conflicts(settings):
        if reading.faulty.isdisjoint(conflict.keys):
            key = next((key for key in conflict.keys if key in reading.places), conflict.keys[0])
            option = _BY_KEY[key]
            value = _shown(option, _text(getattr(settings, option.attribute)))
            place = reading.places.get(key, "default")
            reading.faults.append(f"{place}: [{option.section}] {key} = {value}: {conflict.text}")
    if settings.devices_file is not None:
        reading.faults += device_faults(settings.devices_file)


def _shown(option: Option, text: str) -> str:
    return MASKED if option.secret else shown(text)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


def _unknown_sections(headers: tuple[Header, ...]) -> list[Fault]:
    return [
        Fault(header.line, f"{header} is not a section; {nearest_or_all(header.name, SECTIONS)}")
        for header in headers
        if header.name not in SECTIONS
    ]


def _unknown_key(entry: Entry) -> str:
    in_section = [option.key for option in OPTIONS if option.section == entry.section]
    found = nearest(entry.key, in_section) or nearest(entry.key, _BY_KEY)
    known = [found] if found else in_section or ["the keys of docs/configuration.md"]
    secret = _HINTS_AT_A_SECRET.search(entry.key) or (found and _BY_KEY[found].secret)
    value = MASKED if secret else shown(entry.value)
    return f"{entry} = {value}: not a recognised key; {nearest_or_all(entry.key, known)}"
