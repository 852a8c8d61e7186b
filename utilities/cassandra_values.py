"""Statements and the encoding of their values for the protocol; does not import the driver."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

PROTOCOL = 4
"""The protocol's version. Version 5 adds checksums of every frame, and is a tenth slower."""


class Statement(NamedTuple):
    """CQL with ``?`` and its values."""

    cql: str
    values: tuple[Any, ...]


Mutation = Sequence[Statement]
"""Statements on one partition key, applied as one: all or none."""


Encoders = tuple[Callable[[Any], bytes], ...]
"""One encoder for each ``?`` of a statement."""

_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "varchar": str.encode,
    "text": str.encode,
    "int": struct.Struct(">i").pack,
    "bigint": struct.Struct(">q").pack,
    "timeuuid": attrgetter("bytes"),
    "blob": bytes,
}
"""For the types in the schema: the driver's own binding is more general, and seven times slower."""


def encoder(kind: Any) -> Callable[[Any], bytes]:
    """How values of one of the driver's column types are encoded."""
    return _ENCODERS.get(kind.typename) or (lambda value: kind.serialize(value, PROTOCOL))


def encoded(encoders: Encoders, values: tuple[Any, ...]) -> list[bytes | None]:
    """A statement's values, encoded. Raises ValueError if their number is wrong."""
    if len(encoders) != len(values):
        raise ValueError(f"{len(values)} values for {len(encoders)} columns")
    return [None if value is None else encode(value) for encode, value in zip(encoders, values)]
