"""Creates the keyspace and tables that are missing; refuses existing ones of another shape."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import cassandra
from cassandra import protocol

from utilities import cassandra_schema
from utilities.cassandra_target import Target
from utilities.errors import ConfigurationError, RetryableStorageError

SCHEMA_TIMEOUT_S = 30.0


def ensure_schema(owner: Any, session: Any, target: Target, tables: str, *, read_only: bool) -> None:
    """Refuse existing tables of another shape, and create what is missing."""
    schema = cassandra_schema.Schema(tables, target.keyspace)
    schema.refuse_other_shapes(owner.metadata)
    if _is_complete(schema, owner):
        return
    if read_only:
        raise RetryableStorageError(
            f"keyspace {target.keyspace} lacks tables or columns; the server creates them when it starts"
        )
    _make(owner, session, target, schema)
    owner.refresh_schema_metadata(max_schema_agreement_wait=SCHEMA_TIMEOUT_S)
    schema.refuse_other_shapes(owner.metadata)
    if not _is_complete(schema, owner):
        raise RetryableStorageError(f"the nodes do not yet agree on keyspace {target.keyspace}")


def _is_complete(schema: cassandra_schema.Schema, owner: Any) -> bool:
    return not schema.missing(owner.metadata) and not schema.missing_columns(owner.metadata)


def _make(owner: Any, session: Any, target: Target, schema: cassandra_schema.Schema) -> None:
    """All servers ask the same node, so that two that start at once do not create a table twice."""
    up = sorted((host for host in owner.metadata.all_hosts() if host.is_up), key=lambda host: host.address)
    chosen = up[0] if up else None
    try:
        if target.keyspace not in owner.metadata.keyspaces:
            cql = schema.keyspace_cql(target.replication)
            session.execute(cql, host=chosen, timeout=SCHEMA_TIMEOUT_S)
    except (cassandra.InvalidRequest, protocol.ConfigurationException) as error:
        raise ConfigurationError(
            f"keyspace {target.keyspace} cannot be created: {error}; correct cassandra.replication"
        ) from error
    for statement in schema.statements:
        session.execute(statement, host=chosen, timeout=SCHEMA_TIMEOUT_S)
    for statement in schema.missing_columns(owner.metadata):
        with suppress(cassandra.InvalidRequest):  # another server added it meanwhile
            session.execute(statement, host=chosen, timeout=SCHEMA_TIMEOUT_S)


def refuse_unknown_data_centre(owner: Any, target: Target) -> None:
    """Raise ConfigurationError if no node is in the configured data centre."""
    known = sorted({str(host.datacenter) for host in owner.metadata.all_hosts() if host.datacenter})
    if target.local_dc and known and target.local_dc not in known:
        raise ConfigurationError(
            f"no node is in cassandra.local_dc = {target.local_dc}; there are: {', '.join(known)}"
        )
