"""Every option of the server, once: its section, default, range and help.

Three rules. Each field of `Settings` is an option: its name is the key with ``_`` instead of the first ``.``,
and its default is the default text, parsed like any other value, so that the two cannot disagree. The order
here is that of config.properties and docs/configuration.md, and a test compares all three. Values read from
`Settings` need no further checks: `properties_reader` has checked them.
"""

# ruff: noqa: RUF009 - _option returns a dataclass field, whose default is computed for each Settings

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from configuration import kinds
from configuration.kinds import Kind

_PACK_AFTER_HOURS = {"sqlite": 2.0, "cassandra": 0.0}
"""The value of ``auto``. On Cassandra, users query rows with their own tools, and tables are compressed."""

_PEM = kinds.or_empty(kinds.FILE, None, "none")


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as described to the operator."""

    section: str
    key: str
    default: str
    kind: Kind
    help: str
    secret: bool

    @property
    def attribute(self) -> str:
        """The field of `Settings` that holds the value."""
        return self.key.replace(".", "_", 1)

    @property
    def variable(self) -> str:
        """The environment variable that overrides the files."""
        return "EC_" + self.attribute.upper()


def _option(section: str, default: str, kind: Kind, meaning: str, *, secret: bool = False) -> Any:
    return field(
        default_factory=lambda: kind.parse(default),
        repr=not secret,
        metadata={"option": (section, default, kind, meaning, secret)},
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's configuration, checked and complete; ``Settings()`` has all defaults.

    Secrets are left out of its repr. ``sip_bind``, ``sip_tls_port``, ``sip_receivers`` and
    ``storage_pack_after_hours`` are resolved: they have the value in use, never one that refers to another.
    """

    sip_public_addr: str = _option(
        "SIP", "127.0.0.1", kinds.HOST, "SIP server URI: public address, to which devices send"
    )
    sip_port: int = _option("SIP", "34567", kinds.PORT, "SIP server URI: port, UDP and TCP")
    sip_bind: str = _option(
        "SIP",
        "",
        kinds.or_empty(kinds.ADDRESS, "", "the value of sip.public_addr"),
        "address to listen on; 0.0.0.0 or :: for all addresses of the machine",
    )
    sip_transports: tuple[str, ...] = _option(
        "SIP", "udp,tcp", kinds.some_of("udp", "tcp", "tls"), "transports that devices may use"
    )
    sip_receivers: int = _option(
        "SIP",
        "auto",
        kinds.RECEIVERS,
        "receiver processes that share the port; auto: number of cores minus one, at least 1, at most 4",
    )
    sip_tls_port: int = _option(
        "SIP",
        "0",
        kinds.whole(0, 65535),
        "port for TLS; 0: sip.port if tcp is not among the transports, else sip.port + 1",
    )
    sip_tls_certificate: Path | None = _option(
        "SIP", "", _PEM, "PEM file: the server's certificate, followed by intermediate certificates"
    )
    sip_tls_key: Path | None = _option("SIP", "", _PEM, "PEM file: the certificate's key, without passphrase")
    sip_tls_ca: Path | None = _option(
        "SIP",
        "",
        _PEM,
        "PEM file: authority of the devices' certificates, whose common name must be the device id",
    )
    sip_registrar: str = _option(
        "SIP",
        "",
        kinds.or_empty(kinds.REGISTRAR, "", "none"),
        "SIP registrar to register with, so that devices can send to an address of record",
    )
    sip_registrar_user: str = _option("SIP", "", kinds.TEXT, "user name at the registrar")
    sip_registrar_password: str = _option(
        "SIP", "", kinds.TEXT, "password at the registrar; better set in the environment", secret=True
    )

    ingest_queue_batches: int = _option(
        "Ingest",
        "20000",
        kinds.whole(1, 1_000_000),
        "messages that a receiver holds before senders have to wait",
    )
    ingest_commit_batches: int = _option(
        "Ingest", "1000", kinds.whole(1, 100_000), "batches per transaction at most"
    )
    ingest_commit_ms: int = _option(
        "Ingest",
        "100",
        kinds.whole(1, 60_000),
        "milliseconds after which a transaction is committed, even if it is small",
    )
    ingest_max_ahead_days: float = _option(
        "Ingest",
        "1",
        kinds.number(0, 36_500),
        "days by which a message's time may be ahead of the server's clock",
    )
    ingest_max_back_days: float = _option(
        "Ingest",
        "400",
        kinds.number(0, 36_500),
        "days by which a message's time may be behind the server's clock",
    )
    ingest_max_samples: int = _option(
        "Ingest", "1000", kinds.whole(1, 100_000), "samples that a message may hold"
    )

    storage_engine: str = _option("Storage", "sqlite", kinds.one_of("sqlite", "cassandra"), "database engine")
    storage_path: Path = _option(
        "Storage", "data", kinds.FOLDER, "SQLite day files and spools; relative to the working folder"
    )
    storage_retention_days: int = _option(
        "Storage", "0", kinds.whole(0, 36_500), "days for which data is kept; 0: forever"
    )
    storage_pack_after_hours: float = _option(
        "Storage",
        "auto",
        kinds.PACK_AFTER,
        "hours after a minute's end before its rows are packed; 0: never; auto: 2, on Cassandra never",
    )
    storage_min_free_mb: int = _option(
        "Storage",
        "512",
        kinds.whole(0, 1_000_000_000),
        "megabytes of free disk space below which the server stops accepting messages",
    )
    storage_quarantine_mb: int = _option(
        "Storage",
        "16",
        kinds.whole(0, 1_000_000),
        "megabytes of messages to keep whose time was too far ahead or back; 0: none",
    )
    storage_synchronous: str = _option(
        "Storage",
        "normal",
        kinds.one_of("normal", "full"),
        "SQLite, after a power loss: normal may lose the last commits, full loses none and is slower",
    )
    storage_spool_mb: int = _option(
        "Storage",
        "4096",
        kinds.whole(1, 1_000_000_000),
        "megabytes that may wait on disk while Cassandra is unavailable; when full, senders wait",
    )

    cassandra_host: tuple[str, ...] = _option(
        "CassandraDB", "127.0.0.1", kinds.HOSTS, "Cassandra Server: address, or several"
    )
    cassandra_port: int = _option("CassandraDB", "9042", kinds.PORT, "Cassandra Server: port")
    cassandra_keyspace: str = _option(
        "CassandraDB", "mykeyspace", kinds.KEYSPACE, "Cassandra Server: keyspace name; created if missing"
    )
    cassandra_username: str = _option("CassandraDB", "", kinds.TEXT, "user name; empty: no login")
    cassandra_password: str = _option(
        "CassandraDB", "", kinds.TEXT, "password; better set in the environment", secret=True
    )
    cassandra_local_dc: str = _option(
        "CassandraDB", "", kinds.TEXT, "data centre whose nodes are used; empty: that of the first host"
    )
    cassandra_consistency: str = _option(
        "CassandraDB",
        "LOCAL_QUORUM",
        kinds.one_of(*kinds.CONSISTENCIES),
        "consistency level of reads and writes",
    )
    cassandra_replication: str = _option(
        "CassandraDB", "1", kinds.REPLICATION, "copies of each row, for a keyspace that the server creates"
    )
    cassandra_tls_ca: Path | None = _option(
        "CassandraDB",
        "",
        _PEM,
        "PEM file: authority that must have signed the nodes' certificates; turns TLS on",
    )
    cassandra_tls_certificate: Path | None = _option(
        "CassandraDB", "", _PEM, "PEM file: client certificate, for nodes that ask for one"
    )
    cassandra_tls_key: Path | None = _option(
        "CassandraDB", "", _PEM, "PEM file: that certificate's key, without passphrase"
    )

    sync_syncfreq: float = _option(
        "Synchronization",
        "30",
        kinds.number(0.001, 525_600),
        "minutes from one round of a device to the next",
    )
    sync_ip: str = _option("Synchronization", "127.0.0.1", kinds.ADDRESS, "Sync Server: address")
    sync_port: int = _option("Synchronization", "27979", kinds.PORT, "Sync Server: port")
    sync_grace: float = _option(
        "Synchronization", "10", kinds.number(0, 86_400), "seconds after a minute's end before it is compared"
    )
    sync_recheck_hours: float = _option(
        "Synchronization",
        "48",
        kinds.number(0, 876_000),
        "hours back for which a new connection is asked again about empty and not confirmable minutes",
    )
    sync_max_second_samples: int = _option(
        "Synchronization",
        "200000",
        kinds.whole(1, 1_000_000),
        "samples that a second may hold; a second with more is not fetched",
    )
    sync_tls_certificate: Path | None = _option(
        "Synchronization", "", _PEM, "PEM file: the server's certificate; turns TLS on"
    )
    sync_tls_key: Path | None = _option(
        "Synchronization", "", _PEM, "PEM file: the certificate's key, without passphrase"
    )
    sync_tls_ca: Path | None = _option(
        "Synchronization",
        "",
        _PEM,
        "PEM file: authority of the devices' certificates, whose common name must be the device id",
    )

    devices_file: Path | None = _option(
        "Devices",
        "",
        kinds.or_empty(kinds.FILE, None, "every device may send"),
        "INI file of the devices that may send, with their keys and networks",
    )

    status_ip: str = _option(
        "Status", "127.0.0.1", kinds.ADDRESS, "address of the status page, health and metrics"
    )
    status_port: int = _option(
        "Status", "8034", kinds.whole(0, 65535), "port of the status page, health and metrics; 0: off"
    )

    status_max_device_metrics: int = _option(
        "Status",
        "1000",
        kinds.whole(0, 1_000_000),
        "devices with metrics of their own, those that need attention first; 0: none",
    )
    status_token: str = _option(
        "Status",
        "",
        kinds.TOKEN,
        "token that everything but /healthz and /readyz asks for; better set in the environment",
        secret=True,
    )

    log_level: str = _option(
        "Log", "info", kinds.one_of("debug", "info", "warning", "error"), "lowest severity that is logged"
    )

    def __post_init__(self) -> None:
        if not self.sip_bind:
            object.__setattr__(self, "sip_bind", kinds.address_or_empty(self.sip_public_addr))
        if not self.sip_tls_port:
            object.__setattr__(self, "sip_tls_port", self.sip_port + ("tcp" in self.sip_transports))
        if self.storage_pack_after_hours is None:
            object.__setattr__(self, "storage_pack_after_hours", _PACK_AFTER_HOURS[self.storage_engine])


def _options() -> tuple[Option, ...]:
    found = []
    for each in fields(Settings):
        section, default, kind, meaning, secret = each.metadata["option"]
        found.append(Option(section, each.name.replace("_", ".", 1), default, kind, meaning, secret))
    return tuple(found)


OPTIONS: tuple[Option, ...] = _options()
"""All options, in the order of the files."""

SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(option.section for option in OPTIONS))
