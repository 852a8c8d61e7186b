"""The option table: defaults, what each kind of value may be, what is resolved and what is hidden."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from configuration import kinds
from configuration.kinds import CONSISTENCIES, Kind, usable_receivers
from configuration.settings import OPTIONS, SECTIONS, Settings

ORIGINAL = {
    ("SIP", "sip.public_addr"): "127.0.0.1",
    ("SIP", "sip.port"): 34567,
    ("CassandraDB", "cassandra.host"): ("127.0.0.1",),
    ("CassandraDB", "cassandra.port"): 9042,
    ("CassandraDB", "cassandra.keyspace"): "mykeyspace",
    ("Synchronization", "sync.syncfreq"): 30,
    ("Synchronization", "sync.ip"): "127.0.0.1",
    ("Synchronization", "sync.port"): 27979,
}


def test_the_originals_keys_keep_their_names_sections_and_values() -> None:
    defaults = Settings()
    found = {(option.section, option.key): getattr(defaults, option.attribute) for option in OPTIONS}
    assert {key: found.get(key) for key in ORIGINAL} == ORIGINAL


def test_every_field_is_an_option_and_every_key_names_its_variable() -> None:
    assert [option.attribute for option in OPTIONS] == [field.name for field in dataclasses.fields(Settings)]
    assert len({option.key for option in OPTIONS}) == len(OPTIONS)
    by_key = {option.key: option for option in OPTIONS}
    assert by_key["cassandra.password"].variable == "EC_CASSANDRA_PASSWORD"
    assert by_key["sip.tls_certificate"].variable == "EC_SIP_TLS_CERTIFICATE"
    assert set(SECTIONS) >= {"SIP", "Storage", "CassandraDB", "Synchronization", "Devices", "Status"}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
def test_every_default_is_allowed_and_every_option_is_explained(option) -> None:
    option.kind.parse(option.default)
    assert option.help
    assert option.kind.allowed
    assert "|" not in option.help + option.kind.allowed
    assert "#" not in option.help


def test_nothing_listens_beyond_loopback_by_default() -> None:
    defaults = Settings()
    assert {defaults.sip_bind, defaults.sync_ip, defaults.status_ip} == {"127.0.0.1"}


def test_an_empty_bind_address_is_the_public_one() -> None:
    assert Settings(sip_public_addr="192.0.2.1").sip_bind == "192.0.2.1"
    assert Settings(sip_public_addr="localhost").sip_bind == "127.0.0.1"
    assert Settings(sip_public_addr="192.0.2.1", sip_bind="::").sip_bind == "::"


@pytest.mark.parametrize(
    ("transports", "tls_port", "resolved"),
    [(("tls",), 0, 5000), (("udp", "tls"), 0, 5000), (("tcp", "tls"), 0, 5001), (("tcp", "tls"), 7, 7)],
)
def test_tls_has_the_sip_port_unless_tcp_is_there(transports, tls_port, resolved) -> None:
    settings = Settings(sip_transports=transports, sip_port=5000, sip_tls_port=tls_port)
    assert settings.sip_tls_port == resolved


def test_passwords_are_not_in_the_repr() -> None:
    text = repr(Settings(sip_registrar_password="alpha-one", cassandra_password="beta-two"))
    assert "alpha-one" not in text
    assert "beta-two" not in text
    assert "sip_port=34567" in text


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().sip_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("engine", "text", "hours"),
    [("sqlite", "auto", 2.0), ("cassandra", "AUTO", 0.0), ("cassandra", "0.25", 0.25), ("sqlite", "0", 0.0)],
)
def test_packing_begins_after_two_hours_on_sqlite_and_elsewhere_when_it_is_asked_for(
    engine: str, text: str, hours: float
) -> None:
    after = kinds.PACK_AFTER.parse(text)
    assert Settings(storage_engine=engine, storage_pack_after_hours=after).storage_pack_after_hours == hours


def test_auto_receivers_leave_a_core_and_stay_between_one_and_four() -> None:
    before = os.sched_getaffinity(0)
    assert usable_receivers() == max(1, min(4, len(before) - 1))
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_receivers() == kinds.RECEIVERS.parse("auto") == 1
    finally:
        os.sched_setaffinity(0, before)


def test_the_consistency_levels_are_the_drivers_that_read_and_write() -> None:
    cassandra = pytest.importorskip("cassandra")
    others = {"ANY", "SERIAL", "LOCAL_SERIAL"}
    assert set(CONSISTENCIES) == set(cassandra.ConsistencyLevel.name_to_value) - others


GOOD: list[tuple[Kind, str, object]] = [
    (kinds.PORT, "1", 1),
    (kinds.PORT, "65535", 65535),
    (kinds.whole(0, 5), "0", 0),
    (kinds.number(0, 100), ".5", 0.5),
    (kinds.number(0, 100), "1e1", 10.0),
    (kinds.ADDRESS, "::", "::"),
    (kinds.ADDRESS, "2001:DB8::1", "2001:db8::1"),
    (kinds.ADDRESS, "LocalHost", "127.0.0.1"),
    (kinds.HOST, "meters.example.org", "meters.example.org"),
    (kinds.HOSTS, "10.0.0.1, db-2 ,::1,10.0.0.1", ("10.0.0.1", "db-2", "::1")),
    (kinds.some_of("udp", "tcp", "tls"), "TLS , udp", ("udp", "tls")),
    (kinds.one_of("sqlite", "cassandra"), "SQLite", "sqlite"),
    (kinds.RECEIVERS, "16", 16),
    (kinds.KEYSPACE, "energy_2", "energy_2"),
    (kinds.TOKEN, " two words ", "two words"),
    (kinds.REPLICATION, "3", "3"),
    (kinds.REPLICATION, "dc1:3, eu-west:2", "dc1:3,eu-west:2"),
    (kinds.REGISTRAR, "sip:registrar.example.org:5070", "sip:registrar.example.org:5070"),
    (kinds.REGISTRAR, "[2001:db8::1]:5060;transport=tcp", "[2001:db8::1]:5060;transport=tcp"),
    (kinds.REGISTRAR, "10.0.0.1", "10.0.0.1"),
    (kinds.FOLDER, "a b/c", Path("a b/c")),
]

BAD: list[tuple[Kind, str]] = [
    *[(kinds.PORT, text) for text in ("", "0", "65536", "1.0", "0x1", "1_0", "٣", "5 5", "9" * 5000, "auto")],
    *[
        (kinds.number(0, 100), text)
        for text in ("", "nan", "inf", "-1", "1e999", "1,5", "100.01", "1_0", ".")
    ],
    *[(kinds.ADDRESS, text) for text in ("", "*", "example.org", "127.0.0", "1.2.3.256", "[::1]", "::1/64")],
    *[(kinds.HOST, text) for text in ("", "a b", "1.2.3.4.5", "-x", "a..b", "host:9042", "x" * 300)],
    *[(kinds.HOSTS, text) for text in ("", ",", "a,,b", "a,")],
    *[(kinds.some_of("udp", "tcp"), text) for text in ("", "udp,", "udp,udp", "sctp", "udp tcp")],
    *[(kinds.RECEIVERS, text) for text in ("", "0", "17", "-1", "many")],
    *[(kinds.KEYSPACE, text) for text in ("", "1a", "a-b", "a.b", "x" * 49)],
    *[
        (kinds.REPLICATION, text)
        for text in ("", "0", "-1", "dc1", "dc1:0", "dc1:1,dc1:2", "dc1:1,", "d c:1")
    ],
    *[
        (kinds.REGISTRAR, text)
        for text in ("sip:", "a b", "host:0", "host:99999", "[::g]", "u@h", "sip:h;x=1")
    ],
    (kinds.FOLDER, ""),
]


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_a_value_of_its_kind_is_accepted(kind: Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(("kind", "text"), BAD)
def test_a_value_of_another_kind_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reader writes the message
        kind.parse(text)
