"""How the driver connects: retries, timeouts, TLS. Every statement is idempotent, so it may be repeated."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any

from cassandra import ConsistencyLevel, auth, cluster, policies, query
from cassandra.io.libevreactor import LibevConnection

from utilities.cassandra_target import Target
from utilities.cassandra_values import PROTOCOL
from utilities.errors import ConfigurationError

LONGEST_PAUSE_S = 2.0
"""The longest pause between two attempts to connect."""
REQUEST_TIMEOUT_S = 4.0
_HEARTBEAT_S = 5
_SPECULATIVE_DELAY_S = 1.0


class _NeverGivesUp(policies.ReconnectionPolicy):  # type: ignore[misc]
    """Waits one second before the first new attempt to reach a node, then two seconds between attempts."""

    def new_schedule(self) -> Iterator[float]:
        pause_s = 1.0
        while True:
            yield pause_s
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)


class _AsksAnotherNode(policies.RetryPolicy):  # type: ignore[misc]
    """Retries on up to two other coordinators, as every statement is idempotent."""

    _TIMES = 2

    def _decide(self, _query: Any, consistency: Any, *, retry_num: int, **_details: Any) -> Any:
        if retry_num < self._TIMES:
            return self.RETRY_NEXT_HOST, consistency
        return self.RETHROW, None

    on_read_timeout = on_write_timeout = on_unavailable = on_request_error = _decide


class _Connection(LibevConnection):  # type: ignore[misc]
    """Passes a request to the socket as a whole, not in pieces of 4 KB."""

    out_buffer_size = 256 * 1024
    in_buffer_size = 32 * 1024


def cluster_of(target: Target) -> Any:
    """The driver's cluster, not yet connected. Raises ConfigurationError where TLS files cannot be used."""
    nodes = policies.TokenAwarePolicy(policies.DCAwareRoundRobinPolicy(target.local_dc))
    profile = cluster.ExecutionProfile(
        load_balancing_policy=nodes,
        retry_policy=_AsksAnotherNode(),
        consistency_level=getattr(ConsistencyLevel, target.consistency),
        request_timeout=REQUEST_TIMEOUT_S,
        speculative_execution_policy=policies.ConstantSpeculativeExecutionPolicy(_SPECULATIVE_DELAY_S, 1),
        row_factory=query.named_tuple_factory,
    )
    login = {"username": target.username, "password": target.password}
    return cluster.Cluster(
        contact_points=list(target.host),
        port=target.port,
        protocol_version=PROTOCOL,
        auth_provider=auth.PlainTextAuthProvider(**login) if target.username else None,
        ssl_context=_tls_context(target),
        execution_profiles={cluster.EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=_NeverGivesUp(),
        connection_class=_Connection,
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        connect_timeout=REQUEST_TIMEOUT_S,
        control_connection_timeout=REQUEST_TIMEOUT_S,
        idle_heartbeat_interval=_HEARTBEAT_S,
        idle_heartbeat_timeout=_HEARTBEAT_S,
        monitor_reporting_enabled=False,
        application_name="energy-consumption-server",
    )


def _tls_context(target: Target) -> ssl.SSLContext | None:
    if target.tls_ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(target.tls_ca))
        context.check_hostname = False  # nodes are contacted by address; the CA is the cluster's own
        if target.tls_certificate is not None:
            context.load_cert_chain(target.tls_certificate, target.tls_key)
    except OSError as error:
        raise ConfigurationError(
            f"cassandra.tls_ca, cassandra.tls_certificate or cassandra.tls_key cannot be used: {error}"
        ) from error
    return context
