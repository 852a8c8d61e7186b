"""Reads any bytes as an INI file, into entries with line numbers.

The grammar is that of the standard library's `configparser`, applied to one line at a time. With a complete
file, `configparser` stops at the first key outside of a section, keeps no line numbers, silently accepts a
repeated ``key=``, and joins an indented line to the value above it. Here each line is parsed by itself, and
every error is found. Comments are lines that begin with ``#`` or ``;``, and whatever follows a blank and
``#`` in a line. ``%`` has no special meaning.
"""

from __future__ import annotations

import configparser
import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 16 * 1024 * 1024

MASKED = "'***'"
"""Shown in messages instead of a secret's value."""

# Stands for "no section": no file can contain this name, as names are stripped.
_NONE = " "


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``key = value``; ``section`` is empty before the first section."""

    line: int
    section: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"[{self.section}] {self.key}" if self.section else self.key


@dataclass(frozen=True, slots=True)
class Header:
    """One ``[section]``."""

    line: int
    name: str

    def __str__(self) -> str:
        return f"[{self.name}]"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong in a line; line 0 stands for the whole file."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Ini:
    """The contents of a file, in order; ``faults`` are the lines that are neither header nor entry."""

    headers: tuple[Header, ...] = ()
    entries: tuple[Entry, ...] = ()
    faults: tuple[Fault, ...] = ()


def read_ini(path: Path) -> Ini:
    """The contents of the file; if it cannot be read or decoded, only a fault that says why."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Ini(faults=(Fault(line, f"is not UTF-8 text: {error.reason}"),))
    except (OSError, ValueError) as error:
        return Ini(faults=(Fault(0, f"cannot be read: {getattr(error, 'strerror', None) or error}"),))
    if len(data) > MOST_BYTES:
        return Ini(faults=(Fault(0, f"is larger than {MOST_BYTES // 1024**2} MiB"),))
    return parse_ini(text)


def parse_ini(text: str) -> Ini:
    """As `read_ini`, from a text."""
    headers: list[Header] = []
    entries: list[Entry] = []
    faults: list[Fault] = []
    section, parser = "", _line_parser()
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        found = _parse_line(parser, stripped)
        if isinstance(found, str):
            section = found
            headers.append(Header(number, found))
        elif found:
            entries.append(Entry(number, section, *found))
        else:
            beginning = shown(stripped.split()[0][:20])  # not all of it: it may be part of a secret
            faults.append(Fault(number, f"the line {beginning}... is neither [section] nor key=value"))
    return Ini(tuple(headers), tuple(entries), tuple(faults))


def placed(path: Path, faults: Iterable[Fault]) -> list[str]:
    """The faults of a file for the operator, by line: ``FILE:LINE: TEXT``."""
    return [f"{path}{f':{fault.line}' if fault.line else ''}: {fault.text}" for fault in sorted(faults)]


def shown(value: str) -> str:
    """A value for a message: quoted, printable, at most a line."""
    return repr(value) if len(value) <= 80 else repr(value[:77]) + "..."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: the same except for case, or similar."""
    by_fold = {each.casefold(): each for each in known}
    alike = difflib.get_close_matches(name.casefold()[:100], by_fold, n=1, cutoff=0.75)
    return by_fold[alike[0]] if alike else None


def nearest_or_all(name: str, known: Collection[str]) -> str:
    """A text for an unknown name: the nearest known one, or all of them."""
    found = nearest(name, known)
    return f"the nearest is {found}" if found else f"allowed: {', '.join(known)}"


def _line_parser() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(
        strict=False,
        interpolation=None,
        comment_prefixes=("#", ";"),
        inline_comment_prefixes=("#",),
        default_section=_NONE,
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    return parser


def _parse_line(parser: configparser.RawConfigParser, line: str) -> str | tuple[str, str] | None:
    """The name of a section, a key with its value, or None if the line is neither.

    The parser is cleared and reused, as creating one takes longer than parsing a line.
    """
    for section in parser.sections():
        parser.remove_section(section)
    for key in list(parser.defaults()):
        parser.remove_option(_NONE, key)
    try:
        parser.read_string(f"[{_NONE}]\n{line}")
    except configparser.Error:
        return None
    if names := parser.sections():
        return names[0].strip() or None
    return next(iter(parser.defaults().items()), None)
