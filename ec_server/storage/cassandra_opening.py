"""Opens a Cassandra store according to the configuration."""

from __future__ import annotations

from configuration.settings import Settings
from ec_server.storage.cassandra_store import CassandraStore
from utilities.cassandra_target import Target

_FIRST_CONNECTION_S = 20.0


def open_cassandra_store(settings: Settings, *, read_only: bool = False) -> CassandraStore:
    """The store that ``settings`` describe; waits up to 20 s for the first attempt to connect.

    A cluster that does not answer is not an error: ``health`` reports it, and the store keeps trying.
    Raises ConfigurationError if the cluster answers and refuses.
    """
    store = CassandraStore(
        target_of(settings),
        read_only=read_only,
        retention_days=settings.storage_retention_days,
        packs=settings.storage_pack_after_hours > 0,
    )
    store.wait(_FIRST_CONNECTION_S)
    return store


def target_of(settings: Settings) -> Target:
    """The cluster that the ``cassandra.`` keys describe."""
    return Target(
        host=settings.cassandra_host,
        port=settings.cassandra_port,
        keyspace=settings.cassandra_keyspace,
        username=settings.cassandra_username,
        password=settings.cassandra_password,
        local_dc=settings.cassandra_local_dc,
        consistency=settings.cassandra_consistency,
        replication=settings.cassandra_replication,
        tls_ca=settings.cassandra_tls_ca,
        tls_certificate=settings.cassandra_tls_certificate,
        tls_key=settings.cassandra_tls_key,
    )
