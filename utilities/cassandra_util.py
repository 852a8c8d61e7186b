"""Sessions and requests to a keyspace of a Cassandra cluster; knows nothing about what is stored in it.

Only the ``cassandra_`` modules of this folder import the driver: ``batch``, ``errors``, ``policies`` and
``tables`` besides this one.

Rules:

1. ``Database`` connects in a background thread, so that creating it does not block, and keeps trying
   indefinitely, with at most 2 s between attempts. Until it has a session, and whenever the cluster stops
   answering, every call fails immediately with RetryableStorageError, while that thread probes until the
   cluster answers again. So at most one call per outage waits for a timeout.
2. Every statement is prepared and idempotent, so that the driver may repeat it on another node: a node that
   dies or hangs causes a delay of a second, not an error. An error is reported only if no node accepts the
   request, after at most four seconds.
3. The number of requests in flight is bounded. ``write`` and ``read_each`` return when every request has
   its outcome. A request that does not fit into a node's connection is tried again until it does, for as
   long as a request may take.
4. What the operator must change (password, permissions, tables of another shape) is reported as a
   ConfigurationError that names the key.

Thread safety: ``Database`` may be used by several threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cassandra import cluster, query

from utilities import cassandra_schema
from utilities.cassandra_batch import EncodedBatch, EncodedRows, Protocol
from utilities.cassandra_errors import DRIVER_ERRORS, is_busy, is_permanent, translation
from utilities.cassandra_policies import LONGEST_PAUSE_S, REQUEST_TIMEOUT_S, cluster_of
from utilities.cassandra_tables import SCHEMA_TIMEOUT_S, ensure_schema, refuse_unknown_data_centre
from utilities.cassandra_target import Target
from utilities.cassandra_values import Encoders, Mutation, Statement, encoded, encoder
from utilities.errors import (
    ConfigurationError,
    PermanentStorageError,
    RetryableStorageError,
    StorageError,
)

_PROBE_TIMEOUT_S = 2.0
_IN_FLIGHT = 24
BUSY_PAUSE_S = 0.005
_TICK_S = 1.0
_PROBE = "SELECT device_id FROM ec_device WHERE device_id = '?'"
_DISK_USAGE = (
    "SELECT table_name, mebibytes FROM system_views.disk_usage WHERE keyspace_name = %s ALLOW FILTERING"
)

_log = logging.getLogger(__name__)
logging.getLogger("cassandra").setLevel(logging.CRITICAL)  # it logs every attempt; _note logs once

Row = Any
"""A named tuple of the selected columns."""


class Database:
    """A keyspace of a cluster, connected in the background; see the module's rules."""

    def __init__(
        self,
        target: Target,
        tables: str,
        *,
        read_only: bool = False,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to connect. ``tables`` is the CQL of every table; missing ones are created.

        ``on_tick`` is called about once a second by the background thread while the database
        answers. A read-only database creates nothing.
        """
        self.target = target
        self._tables = tables
        self._read_only = read_only
        self._on_tick = on_tick
        self._cluster: Any = None
        self._session: Any = None
        self._prepared: dict[str, tuple[Any, Encoders]] = {}
        self._preparing = threading.Lock()
        self._trouble: StorageError | ConfigurationError = RetryableStorageError(
            f"not yet connected to {self._place()}"
        )
        self._answers = False
        self._first_attempt = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected, name="cassandra", daemon=True)
        self._thread.start()

    # --- life -----------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> None:
        """Wait until the first attempt to connect has ended, successful or not.

        Raises ConfigurationError if the operator must change something.
        """
        self._first_attempt.wait(timeout_s)
        if isinstance(self._trouble, ConfigurationError) and not self._answers:
            raise self._trouble

    def state(self) -> tuple[bool, str]:
        """``(whether it answers, why not)``, without sending a request."""
        return self._answers, "" if self._answers else str(self._trouble)

    def close(self) -> None:
        """End the background thread and every connection."""
        self._closing.set()
        self._thread.join(SCHEMA_TIMEOUT_S)
        if self._cluster is not None:
            self._cluster.shutdown()

    # --- use ------------------------------------------------------------------------------

    def read(self, cql: str, *values: Any) -> Iterator[Row]:
        """The rows of one SELECT, fetched page by page as they are consumed."""
        session = self._usable()
        (result,) = self._run(session, [self._statement(session, Statement(cql, values))])
        while True:
            yield from result.current_rows
            if not result.has_more_pages:
                return
            with _Translated(self):
                result.fetch_next_page()

    def read_each(self, cql: str, values: Iterable[tuple[Any, ...]]) -> list[list[Row]]:
        """The rows of one small SELECT for each of several value tuples, in the same order."""
        session = self._usable()
        bound = (self._statement(session, Statement(cql, one)) for one in values)
        return [list(outcome) for outcome in self._run(session, bound)]

    def write(self, mutations: Iterable[Mutation]) -> None:
        """Apply every mutation; returns when all have reached the configured consistency.

        Raises once all have their outcome: RetryableStorageError if some may not have been applied (the
        others stay), PermanentStorageError if the database refuses one permanently.
        """
        session = self._usable()
        self._run(session, (self._together(session, mutation) for mutation in mutations))

    def write_rows(self, cql: str, pieces: Iterable[EncodedRows]) -> None:
        """``write`` for thousands of rows, each of which is one statement ``cql``."""
        session = self._usable()
        prepared, _ = self._prepare(session, cql)
        keyspace = self.target.keyspace
        self._run(session, (EncodedBatch(prepared, piece, keyspace) for piece in pieces))

    def disk_usage(self) -> dict[str, int] | None:
        """Bytes of each of the keyspace's tables on the disks of all live nodes, accurate to 1 MB.

        None if a node does not report it: it has just gone down, is older than 4.0, or the user may not
        read ``system_views``.
        """
        session = self._usable()
        found: dict[str, int] = {}
        asked = query.SimpleStatement(_DISK_USAGE, is_idempotent=True)
        for host in [host for host in self._cluster.metadata.all_hosts() if host.is_up]:
            try:
                rows = session.execute(asked, (self.target.keyspace,), host=host)
            except DRIVER_ERRORS:  # one missing node is not an outage of the cluster
                return None
            for row in rows:
                found[row.table_name] = found.get(row.table_name, 0) + row.mebibytes * 2**20
        return found

    def _usable(self) -> Any:
        if not self._answers:
            if isinstance(self._trouble, ConfigurationError):
                raise PermanentStorageError(str(self._trouble))
            raise self._trouble
        return self._session

    def _run(self, session: Any, statements: Iterable[Any]) -> list[Any]:
        """Execute with bounded concurrency; after a failure start no more, but wait for those in flight."""
        with _Translated(self):
            outcomes: list[Any] = []
            in_flight: deque[tuple[Any, Any]] = deque()
            worst: Exception | None = None
            patient_until_s = time.monotonic() + REQUEST_TIMEOUT_S

            def settle_oldest() -> None:
                nonlocal worst
                statement, future = in_flight.popleft()
                while True:
                    try:
                        outcomes.append(future.result())
                    except Exception as error:
                        if is_busy(error) and time.monotonic() < patient_until_s:
                            self._closing.wait(BUSY_PAUSE_S)
                            future = session.execute_async(statement)
                            continue
                        worst = worst if is_permanent(worst) else error
                    return

            for statement in statements:
                if len(in_flight) >= _IN_FLIGHT:
                    settle_oldest()
                if worst is not None:
                    break
                in_flight.append((statement, session.execute_async(statement)))
            while in_flight:
                settle_oldest()
            if worst is not None:
                raise worst
            return outcomes

    def _statement(self, session: Any, statement: Statement) -> Any:
        prepared, encoders = self._prepare(session, statement.cql)
        bound = query.BoundStatement(prepared)
        bound.values = encoded(encoders, statement.values)
        return bound

    def _together(self, session: Any, mutation: Mutation) -> Any:
        """One request; creates one bound statement per CQL, as that is the most expensive part."""
        if len(mutation) == 1:
            return self._statement(session, mutation[0])
        batch = query.BatchStatement(batch_type=query.BatchType.UNLOGGED)
        batch.is_idempotent = True
        cql = ""
        encoders: Encoders = ()
        bound: Any = None
        for statement in mutation:
            if statement.cql != cql:
                cql = statement.cql
                prepared, encoders = self._prepare(session, cql)
                bound = query.BoundStatement(prepared)
            bound.values = encoded(encoders, statement.values)
            batch.add(bound)
        return batch

    def _prepare(self, session: Any, cql: str) -> tuple[Any, Encoders]:
        known = self._prepared.get(cql)
        if known is None:
            with self._preparing, _Translated(self):
                prepared = session.prepare(cassandra_schema.qualified(cql, self.target.keyspace))
                prepared.is_idempotent = True
                encoders = tuple(encoder(column.type) for column in prepared.column_metadata)
                known = self._prepared[cql] = (prepared, encoders)
        return known

    # --- connecting -----------------------------------------------------------------------

    def _keep_connected(self) -> None:
        pause_s = 0.0
        while not self._closing.wait(pause_s):
            if self._session is None:
                self._try_to_connect()
                self._first_attempt.set()
            elif not self._answers:
                self._probe()
            else:
                self._tick()
            pause_s = _TICK_S if self._answers else min(LONGEST_PAUSE_S, max(0.5, pause_s * 1.5))

    def _try_to_connect(self) -> None:
        try:
            self._connect()
        except (ConfigurationError, StorageError) as error:
            self._note(error)
            self._drop_cluster()
        except Exception as error:
            self._note(translation(error, self._place(), self.target))
            self._drop_cluster()

    def _drop_cluster(self) -> None:
        self._session = None
        if self._cluster is not None:
            try:
                self._cluster.shutdown()
            finally:
                self._cluster = None

    def _connect(self) -> None:
        self._cluster = cluster_of(self.target)
        try:
            session = self._cluster.connect()
        except cluster.NoHostAvailable:
            refuse_unknown_data_centre(self._cluster, self.target)
            raise
        ensure_schema(self._cluster, session, self.target, self._tables, read_only=self._read_only)
        schema = cassandra_schema.Schema(self._tables, self.target.keyspace)
        for advice in () if self._read_only else schema.compaction_advice(self._cluster.metadata):
            _log.warning("%s", advice)
        session.client_protocol_handler = Protocol
        self._prepared.clear()
        self._session = session
        self._answers = True
        _log.info("connected to %s", self._place())

    def _probe(self) -> None:
        """Ask for a row that does not exist, at the consistency of all other requests."""
        try:
            cql = cassandra_schema.qualified(_PROBE, self.target.keyspace)
            asked = query.SimpleStatement(cql, is_idempotent=True)
            self._session.execute(asked, timeout=_PROBE_TIMEOUT_S)
        except Exception as error:
            self._note(translation(error, self._place(), self.target))
        else:
            self._answers = True
            _log.info("%s answers again", self._place())

    def _tick(self) -> None:
        try:
            self._on_tick()
        except StorageError as error:
            _log.warning("%s", error)
        except Exception:
            _log.exception("upkeep of %s failed", self._place())

    def lost(self, error: BaseException) -> StorageError | ConfigurationError:
        """The translated error; after a retryable one, calls fail until a probe succeeds."""
        translated = translation(error, self._place(), self.target)
        if isinstance(translated, RetryableStorageError):
            self._note(translated)
            return translated
        return PermanentStorageError(str(translated))

    def _note(self, error: StorageError | ConfigurationError) -> None:
        if self._answers or str(error) != str(self._trouble):
            _log.warning("%s", error)
        self._trouble = error
        self._answers = False

    def _place(self) -> str:
        return f"Cassandra at {','.join(self.target.host)}:{self.target.port}"


class _Translated:
    """Turns the driver's errors into StorageError, chained."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, DRIVER_ERRORS):
            raise self._database.lost(error) from error
