"""The kinds of option values, each with a parser and a description of what is allowed; pure.

A parser takes the text from the file, without surrounding blanks, and returns the value or raises ValueError,
with a reason if the description alone does not show what is wrong.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_RECEIVERS = 16
_MOST_HOURS = 876_000

CONSISTENCIES = ("ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE")
"""The levels for both reads and writes (ANY cannot read, the serial ones cannot write)."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
_KEYSPACE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,47}")
_REGISTRAR = re.compile(
    r"(sips?:)?(?P<host>\[[^][@;:]*(:[^][@;]*)+\]|[^][@;:\s]+)(:(?P<port>[0-9]{1,5}))?(;transport=(udp|tcp|tls))?"
)
_DATA_CENTRE = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)\s*:\s*(?P<copies>[0-9]{1,2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Kind:
    """How to parse a value, and a description of allowed values for the operator."""

    parse: Callable[[str], Any]
    allowed: str


def refuse_control_characters(text: str) -> str:
    """``text`` itself; ValueError if it contains control characters, which are invisible in a file."""
    if found := _CONTROL.search(text):
        raise ValueError(f"holds the control character {found[0]!r}")
    return text


def whole(low: int, high: int, note: str = "") -> Kind:
    """A decimal integer from ``low`` to ``high``, both inclusive."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return Kind(parse, f"a whole number, {low} to {high}{note}")


def number(low: float, high: float) -> Kind:
    """A finite decimal number from ``low`` to ``high``, both inclusive; fractions allowed."""

    def parse(text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise ValueError
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(parse, f"a number, {low:g} to {high:g}, fractions allowed")


def one_of(*choices: str) -> Kind:
    """One of ``choices``, in any case; the value is spelled as in ``choices``."""
    by_fold = {choice.casefold(): choice for choice in choices}

    def parse(text: str) -> str:
        if text.casefold() not in by_fold:
            raise ValueError
        return by_fold[text.casefold()]

    return Kind(parse, f"one of {', '.join(choices)}")


def some_of(*choices: str) -> Kind:
    """One or more of ``choices``, separated by commas, each once; a tuple in the order of ``choices``."""
    single = one_of(*choices)

    def parse(text: str) -> tuple[str, ...]:
        given = [single.parse(part.strip()) for part in text.split(",")]
        if len(set(given)) != len(given):
            raise ValueError("names one of them twice")
        return tuple(choice for choice in choices if choice in given)

    return Kind(parse, f"one or more of {', '.join(choices)}, by comma")


def or_empty(kind: Kind, empty: object, meaning: str) -> Kind:
    """``kind``, or an empty text, which stands for ``empty`` and means ``meaning``."""
    return Kind(lambda text: kind.parse(text) if text else empty, f"{kind.allowed}, or empty: {meaning}")


def usable_receivers() -> int:
    """The number of receivers for ``auto``: number of cores minus one, at least 1, at most 4."""
    return max(1, min(4, len(os.sched_getaffinity(0)) - 1))


def address_or_empty(host: str) -> str:
    """``host`` if it is an address, "" if it is a name."""
    try:
        return _address(host)
    except ValueError:
        return ""


def _address(text: str) -> str:
    return "127.0.0.1" if text.casefold() == "localhost" else str(ipaddress.ip_address(text))


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        looks_like_an_address = re.fullmatch(r"[0-9.]+", text)
        if looks_like_an_address or not _HOST_NAME.fullmatch(text):
            raise ValueError("") from None
        return text


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_host(part.strip()) for part in text.split(",")))


def _receivers(text: str) -> int:
    if text.casefold() == "auto":
        return usable_receivers()
    return int(whole(1, MOST_RECEIVERS).parse(text))


def _pack_after(text: str) -> float | None:
    return None if text.casefold() == "auto" else float(number(0, _MOST_HOURS).parse(text))


def _keyspace(text: str) -> str:
    if not _KEYSPACE.fullmatch(text):
        raise ValueError
    return text


def _registrar(text: str) -> str:
    found = _REGISTRAR.fullmatch(text)
    if not found or (found["port"] and not 1 <= int(found["port"]) <= 65535):
        raise ValueError
    _host(found["host"].strip("[]"))
    return text


def _replication(text: str) -> str:
    if _WHOLE.fullmatch(text):
        return str(whole(1, 99).parse(text))
    centres: dict[str, int] = {}
    for part in text.split(","):
        found = _DATA_CENTRE.fullmatch(part.strip())
        if not found or not int(found["copies"]):
            raise ValueError
        if found["name"] in centres:
            raise ValueError(f"names the data centre {found['name']} twice")
        centres[found["name"]] = int(found["copies"])
    return ",".join(f"{name}:{copies}" for name, copies in centres.items())


def _path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


PORT = whole(1, 65535)
ADDRESS = Kind(_address, "an IPv4 or IPv6 address, or localhost")
HOST = Kind(_host, "an IPv4 or IPv6 address or a host name")
HOSTS = Kind(_hosts, "IPv4 or IPv6 addresses or host names, one or more, by comma")
RECEIVERS = Kind(_receivers, f"auto, or a whole number, 1 to {MOST_RECEIVERS}")
PACK_AFTER = Kind(_pack_after, f"auto, or a number, 0 to {_MOST_HOURS}, fractions allowed")
KEYSPACE = Kind(_keyspace, "a letter, then up to 47 letters, digits and _")
REGISTRAR = Kind(_registrar, "HOST or HOST:PORT, with ;transport=udp, tcp or tls after it where wanted")
REPLICATION = Kind(_replication, "copies (1 to 99), or copies a data centre: dc1:3,dc2:2")
FOLDER = Kind(_path, "a folder; created if it is missing")
FILE = Kind(_path, "a file's name")
TEXT = Kind(str, "any text")
TOKEN = Kind(str.strip, "any text; blanks around it are ignored")
