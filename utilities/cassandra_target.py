"""Which Cassandra cluster to use, as which user, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """The configuration's ``cassandra.`` keys."""

    host: tuple[str, ...]
    port: int
    keyspace: str
    username: str = ""
    password: str = field(default="", repr=False)
    local_dc: str = ""
    consistency: str = "LOCAL_QUORUM"
    replication: str = "1"
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
