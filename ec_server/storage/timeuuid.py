"""Moments as Cassandra's ``timeuuid``, to the microsecond and back; pure."""

from __future__ import annotations

import struct
import uuid

_EPOCH = 0x01B21DD213814000
"""100-nanosecond intervals from the UUID epoch (1582-10-15) to 1970."""
_NODE = 0x01_65_63_73_72_76
"""The multicast bit marks it as not being a network address (RFC 9562, 6.10)."""
_FIELDS = struct.Struct(">IHHQ")


def timeuuid(moment_us: int, sequence: int = 0) -> uuid.UUID:
    """The version 1 UUID of a time in epoch microseconds; the same arguments give the same UUID."""
    return uuid.UUID(bytes=timeuuid_bytes(moment_us, sequence))


def timeuuid_bytes(moment_us: int, sequence: int = 0) -> bytes:
    """The 16 bytes of ``timeuuid``."""
    steps = moment_us * 10 + _EPOCH
    return _FIELDS.pack(
        steps & 0xFFFFFFFF,
        steps >> 32 & 0xFFFF,
        steps >> 48 | 0x1000,
        (sequence & 0x3FFF | 0x8000) << 48 | _NODE,
    )


def microseconds(moment: uuid.UUID) -> int:
    """The time of a version 1 UUID, in epoch microseconds."""
    return (moment.time - _EPOCH) // 10
