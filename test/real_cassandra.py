"""A real Cassandra for the tests: one node a session, or the one that EC_TEST_CASSANDRA names.

``EC_TEST_CASSANDRA=[user:password@]host:port`` uses an existing cluster; tests that stop nodes, use
several, or need TLS are skipped there. Otherwise ``reference_cluster`` starts a node of its own with
logins switched on and TLS offered on the same port.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trustme
from free_ports import free_port
from needs import unavailable

from ec_server.storage.cassandra_known import KnownRows
from ec_server.storage.cassandra_store import CassandraStore
from reference_cluster import jars
from reference_cluster.cluster import Cluster
from reference_cluster.node import Node, NodeError, java
from utilities.cassandra_target import Target

_KEYSTORE_PASSWORD = "only for this test run"
_AUTH = """\
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
"""
_TLS = """\
client_encryption_options:
  enabled: true
  optional: true
  store_type: PKCS12
  keystore: {keystore}
  keystore_password: "{password}"
"""
TABLES = (
    "ec_consumption",
    "ec_block",
    "ec_replaced",
    "ec_checksum",
    "ec_minute",
    "ec_day",
    "ec_notable",
    "ec_device",
)


@dataclass(frozen=True)
class RealCassandra:
    """Where it is and how to log in."""

    host: str
    port: int
    username: str
    password: str
    node: Node | None = None
    tls_ca: Path | None = None
    spare: Any = field(default=None, repr=False)

    def target(self, keyspace: str, **changes: Any) -> Target:
        plain = Target((self.host,), self.port, keyspace, self.username, self.password)
        return replace(plain, **changes)

    def settings(self, keyspace: str) -> dict[str, str]:
        """Configuration keys as environment variables."""
        return {
            "EC_STORAGE_ENGINE": "cassandra",
            "EC_CASSANDRA_HOST": self.host,
            "EC_CASSANDRA_PORT": str(self.port),
            "EC_CASSANDRA_KEYSPACE": keyspace,
            "EC_CASSANDRA_USERNAME": self.username,
            "EC_CASSANDRA_PASSWORD": self.password,
        }

    def own_node(self) -> Node:
        """The node, for tests that stop it; they bring it back before they end."""
        if self.node is None:
            unavailable("EC_TEST_CASSANDRA names a cluster that tests must not stop")
        return self.node


def running(folder: Path) -> Iterator[RealCassandra]:
    """The body of the session's fixture."""
    existing = os.environ.get("EC_TEST_CASSANDRA")
    if existing:
        found = re.fullmatch(r"(?:([^:@]+):([^@]+)@)?([^:]+):(\d+)", existing)
        assert found, f"EC_TEST_CASSANDRA={existing} is not [user:password@]host:port"
        yield RealCassandra(found[3], int(found[4]), found[1] or "", found[2] or "")
        return
    try:
        java()
        jars.classpath()
    except (NodeError, jars.JarError) as error:
        unavailable(f"no Cassandra: {error}")
    ca = folder / "ca.pem"
    yaml = _AUTH + _TLS.format(keystore=keystore(folder, ca), password=_KEYSTORE_PASSWORD)
    cluster = Cluster(folder, 1, free_port(), free_port(), heap_mb=768, yaml=yaml)
    try:
        cluster.start()
        yield RealCassandra("127.0.0.1", cluster.native_port, "cassandra", "cassandra", cluster.nodes[0], ca)
    finally:
        cluster.clean()


def keystore(folder: Path, ca_file: Path) -> Path:
    """A node's certificate and key as PKCS#12, signed by an authority written to ``ca_file``."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        load_pem_private_key,
        pkcs12,
    )
    from cryptography.x509 import load_pem_x509_certificate

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    issued = authority.issue_cert("127.0.0.1", "127.0.0.2", "127.0.0.3")
    packed = pkcs12.serialize_key_and_certificates(
        b"node",
        load_pem_private_key(issued.private_key_pem.bytes(), None),
        load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()),
        None,
        BestAvailableEncryption(_KEYSTORE_PASSWORD.encode()),
    )
    path = folder / "node.p12"
    path.write_bytes(packed)
    return path


def forget_everything(store: CassandraStore) -> None:
    """Empty every table of the store's keyspace, cheaply where timestamps allow it, and its memory."""
    database = store._db
    store._writes._known = KnownRows(1000)
    store._claims._held.clear()
    for table in ("ec_minute", "ec_checksum"):
        for row in list(database.read(f"SELECT DISTINCT device_id, ec_date FROM {table}")):
            database.write([[_delete(table, ("device_id", "ec_date"), row)]])
    for table in ("ec_day", "ec_notable"):
        for row in list(database.read(f"SELECT DISTINCT device_id FROM {table}")):
            database.write([[_delete(table, ("device_id",), row)]])
    tables = ["ec_consumption", "ec_replaced", "ec_device"]
    if list(database.read("SELECT device_id FROM ec_block LIMIT 1")):
        tables.append("ec_block")
    for table in tables:
        database._session.execute(f"TRUNCATE {database.target.keyspace}.{table}")


def _delete(table: str, key: tuple[str, ...], row: Any) -> Any:
    from utilities.cassandra_values import Statement

    where = " AND ".join(f"{column} = ?" for column in key)
    return Statement(f"DELETE FROM {table} WHERE {where}", tuple(row))
