"""Translates the Cassandra driver's errors: what failed, where, and what to do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import cassandra
from cassandra import cluster, connection, protocol

from utilities.cassandra_target import Target
from utilities.errors import ConfigurationError, PermanentStorageError, RetryableStorageError

DRIVER_ERRORS = (
    cassandra.DriverException,
    cassandra.OperationTimedOut,
    cluster.NoHostAvailable,
    connection.ConnectionException,
    protocol.ErrorMessage,
    OSError,
)
"""Every error that the driver raises."""
_PERMANENT = (cassandra.InvalidRequest, cassandra.Unauthorized, protocol.SyntaxException)


def is_busy(error: BaseException) -> bool:
    """Whether the connection to a live node is full: the driver refuses more until it has sent everything."""
    return isinstance(error, cluster.NoHostAvailable) and any(
        isinstance(one, connection.ConnectionBusy) for one in dict(error.errors).values()
    )


def is_permanent(error: BaseException | None) -> bool:
    """Whether the database refuses permanently: the same request would fail again."""
    return isinstance(error, _PERMANENT)


def translation(
    error: BaseException, place: str, target: Target
) -> RetryableStorageError | PermanentStorageError | ConfigurationError:
    """The error of utilities/errors.py that stands for a driver error."""
    for one in _causes(error):
        if isinstance(one, cassandra.AuthenticationFailed):
            return ConfigurationError(
                f"{place} refuses the login of {target.username or 'nobody'!r}: {one}; "
                "correct cassandra.username and cassandra.password"
            )
        if isinstance(one, cassandra.Unauthorized):
            return ConfigurationError(
                f"{place}: {one}; grant it to cassandra.username = {target.username}, on the keyspace "
                f"of cassandra.keyspace = {target.keyspace}"
            )
        if isinstance(one, ssl.SSLError) or "[SSL" in str(one):
            return ConfigurationError(
                f"{place}: {one}; check cassandra.tls_ca, cassandra.tls_certificate and cassandra.tls_key"
            )
    if is_permanent(error):
        return PermanentStorageError(f"{place} refuses: {error}")
    return RetryableStorageError(f"{place} does not answer: {_brief(error)}; it will be asked again")


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, cluster.NoHostAvailable) and isinstance(error.errors, dict):
        yield from (one for one in error.errors.values() if isinstance(one, BaseException))


def _brief(error: BaseException) -> str:
    named = [f"{host}: {one}" for host, one in _host_errors(error)] or [str(error)]
    return f"{type(error).__name__}: {'; '.join(named)}"[:400]


def _host_errors(error: BaseException) -> list[tuple[Any, Any]]:
    found = getattr(error, "errors", None)
    return list(found.items()) if isinstance(found, dict) else []
