"""Addresses as they are written for people and in URLs."""

from __future__ import annotations

_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared, not bound)


def host_port(address: str, port: int) -> str:
    """``HOST:PORT``, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def from_here(address: str) -> str:
    """The address at which this machine reaches what listens on ``address``."""
    return _ALL.get(address, address)
