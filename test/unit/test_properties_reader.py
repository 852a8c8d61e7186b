"""The configuration file and the environment: what is taken, and that every fault is found and placed."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from configuration_faults import faults, only_fault, write_configuration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configuration import properties_reader
from configuration.check import check
from configuration.properties_reader import read_settings
from configuration.settings import OPTIONS, SECTIONS, Settings
from utilities.errors import ConfigurationError

AS_PRINTED = """\
[SIP]
sip.public_addr=127.0.0.1 # SIP server URI: public address
sip.port=34567 # SIP server URI: port

[CassandraDB]
cassandra.host=127.0.0.1 # Cassandra Server: address
cassandra.port=9042 # Cassandra Server: port
cassandra.keyspace=mykeyspace # Cassandra Server: keyspace name

[Synchronization]
sync.syncfreq=30 # every 30 minutes for synchronization
sync.ip=127.0.0.1 # Sync Server: address
sync.port=27979 # Sync Server: port
"""


@pytest.fixture
def file(tmp_path: Path):
    """Writes a configuration file and gives its path."""
    return partial(write_configuration, tmp_path)


class TestWhatIsTaken:
    @pytest.mark.parametrize("indent", ["", " ", "\t", "    "])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    def test_the_originals_file_as_printed_is_a_valid_configuration(self, file, indent, newline) -> None:
        text = "".join(indent + line + newline for line in AS_PRINTED.splitlines())
        assert read_settings(file(text), {}) == Settings()
        changed = text.replace("34567", "5070").replace("27979", "5071")
        assert read_settings(file(changed), {}) == Settings(sip_port=5070, sync_port=5071)

    def test_a_growing_indent_does_not_join_lines(self, file) -> None:
        found = read_settings(file("[SIP]\n sip.port=5000\n   sip.public_addr=192.0.2.1\n"), {})
        assert (found.sip_port, found.sip_public_addr) == (5000, "192.0.2.1")

    def test_the_values_of_the_file_are_used(self, file) -> None:
        text = AS_PRINTED.replace("34567", "5070").replace("=30 ", "=0.5 ").replace("mykeyspace", "energy")
        found = read_settings(file(text), {})
        assert (found.sip_port, found.sync_syncfreq, found.cassandra_keyspace) == (5070, 0.5, "energy")

    def test_an_empty_file_is_all_defaults(self, file) -> None:
        assert read_settings(file(""), {}) == Settings()

    @pytest.mark.parametrize("beyond", [False, True], ids=["sample file", "no file"])
    def test_without_a_named_file_everything_has_its_default(self, beyond, tmp_path, monkeypatch) -> None:
        if beyond:
            monkeypatch.setattr(properties_reader, "DEFAULT_PATH", tmp_path / "absent.properties")
        assert read_settings(None, {}) == Settings()

    def test_a_byte_order_mark_and_other_letters_are_taken(self, file) -> None:
        found = read_settings(file("\ufeff[CassandraDB]\ncassandra.username=Jürgen\n"), {})
        assert found.cassandra_username == "Jürgen"

    @pytest.mark.parametrize(
        ("written", "value"),
        [
            ("pass#word", "pass#word"),
            ("pass;word ; still", "pass;word ; still"),
            ("%(x)s%%${y}", "%(x)s%%${y}"),
            ("a=b:c", "a=b:c"),
            ("secret # comment # more", "secret"),
            ("secret\t# comment", "secret"),
            ('"quoted"', '"quoted"'),
            ("# all comment", ""),
            ("", ""),
        ],
    )
    def test_a_value_ends_where_a_comment_begins_and_nowhere_else(self, file, written, value) -> None:
        found = read_settings(file(f"[CassandraDB]\ncassandra.password = {written}\n"), {})
        assert found.cassandra_password == value

    def test_comment_lines_are_skipped_and_a_colon_assigns_too(self, file) -> None:
        found = read_settings(file("# one\n; two\n[ SIP ] # three\n  # four\nsip.bind: ::1\n"), {})
        assert found.sip_bind == "::1"

    def test_a_section_may_come_in_two_parts(self, file) -> None:
        found = read_settings(file("[SIP]\nsip.port=1\n[Log]\n[SIP]\nsip.receivers=2\n"), {})
        assert (found.sip_port, found.sip_receivers) == (1, 2)


class TestTheEnvironment:
    def test_it_overrides_the_file(self, file) -> None:
        environ = {"EC_SIP_PORT": "5080", "EC_CASSANDRA_PASSWORD": "a # b;c", "EC_SIP_PUBLIC_ADDR": "::1"}
        found = read_settings(file(AS_PRINTED), environ)
        assert (found.sip_port, found.cassandra_password, found.sip_bind) == (5080, "a # b;c", "::1")

    @pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
    def test_every_key_can_be_given(self, option) -> None:
        fault = only_fault(None, {option.variable: "\x07"})
        assert fault.startswith(f"environment: {option.variable} = ")
        assert fault.endswith(f"allowed: {option.kind.allowed}")

    def test_a_bad_value_is_placed_there(self) -> None:
        assert only_fault(None, {"EC_SYNC_PORT": "no"}) == (
            "environment: EC_SYNC_PORT = 'no'; allowed: a whole number, 1 to 65535"
        )

    def test_a_bad_value_in_the_file_is_a_fault_though_overridden(self, file) -> None:
        fault = only_fault(file("[SIP]\nsip.port=x\n"), {"EC_SIP_PORT": "5080"})
        assert re.search(r"server\.properties:2: \[SIP\] sip\.port = 'x'", fault)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("EC_SIP_PROT", "the nearest is EC_SIP_PORT"),
            ("EC_CASSANDRA_PASWORD", "the nearest is EC_CASSANDRA_PASSWORD"),
            ("EC_CASANDRA_HOST", "the nearest is EC_CASSANDRA_HOST"),
            ("EC_sip_port", "the nearest is EC_SIP_PORT"),
            ("EC_STORAGE_ZZZZZZZZZZ", "EC_STORAGE_ZZZZZZZZZZ is not a recognised key"),
        ],
    )
    def test_a_variable_that_looks_like_a_key_must_be_one(self, name, said) -> None:
        fault = only_fault(None, {name: "hunter2"})
        assert said in fault
        assert "hunter2" not in fault

    def test_other_variables_are_ignored(self) -> None:
        environ = {
            "EC_SUPERVISED": "1",
            "EC_TEST_SIP_PORT": "x:1",
            "EC_OTHER": "",
            "PATH": "",
            "SIP_PORT": "x",
        }
        assert read_settings(None, environ) == Settings()

    @pytest.mark.parametrize("text", ["a\nb", "\x00", "x\udcff", "\x1b[2J"])
    def test_what_cannot_be_seen_is_not_a_value(self, text) -> None:
        assert "control character" in only_fault(None, {"EC_CASSANDRA_USERNAME": text})
        assert check(None, {"EC_STORAGE_PATH": text})[0] == 2


class TestFaults:
    def test_all_are_reported_at_once_in_the_order_of_their_lines(self, file, tmp_path) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[a b]\n")
        path = file(
            "early=1\n"
            "[SPI]\n"
            "sip.port=99999 # too high\n"
            "what is this\n"
            "[SIP]\n"
            "sip.Port=1\n"
            "sip.port=5000\n"
            "sync.port=70\n"
            "[Storage]\n"
            "storage.engine=mysql\n"
            "storage.path=/dev/null\n"
            f"[Devices]\ndevices.file={devices}\n"
        )
        found = faults(path, {"EC_STATUS_PORT": "-1"})
        places = [line.replace(str(tmp_path), "").split(": ")[0] for line in found]
        lines = [f"/server.properties:{n}" for n in (1, 2, 3, 4, 6, 7, 8, 10)]
        assert places == [*lines, "environment", "/server.properties:11", "/devices.ini:1"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "[SIP]\nsip.port = 0\n",
                ":2: [SIP] sip.port = '0'; allowed: a whole number, 1 to 65535",
            ),
            ("[sip]\n", ":1: [sip] is not a section; the nearest is SIP"),
            ("[Nothing]\n", ":1: [Nothing] is not a section; allowed: SIP, Ingest, Storage,"),
            (
                "[SIP]\nsip.prot=1\n",
                ":2: [SIP] sip.prot = '1': not a recognised key; the nearest is sip.port",
            ),
            (
                "[SIP]\nSIP.PORT=1\n",
                ":2: [SIP] SIP.PORT = '1': not a recognised key; the nearest is sip.port",
            ),
            ("[SIP]\nport=1\n", "not a recognised key"),
            ("[Log]\nqqqqq=1\n", "not a recognised key; allowed: log.level"),
            ("[Log]\nsip.port=1\n", ":2: [Log] sip.port = '1': belongs in section [SIP]"),
            ("sip.port=1\n", ":1: sip.port = '1': belongs in section [SIP]"),
            (
                "[SIP]\nsip.port=1\n\nsip.port=1\n",
                ":4: [SIP] sip.port = '1': is given twice, first in line 2",
            ),
            ("[SIP]\nsip.port\n", ":2: the line 'sip.port'... is neither [section] nor key=value"),
            ("[SIP]\n=5\n", ":2: the line '=5'..."),
            ("[]\n", ":1: the line '[]'..."),
            ("[SIP\n", ":1: the line '[SIP'..."),
            ("[ ]\n", ":1: the line '['..."),
            ("[SIP]\nsip.transports=udp,sctp\n", "allowed: one or more of udp, tcp, tls, by comma"),
            ("[SIP]\nsip.transports=udp,UDP\n", "(names one of them twice)"),
            ("[SIP]\nsip.public_addr=meters.example.org\n", "is a host name: set sip.bind"),
            ("[SIP]\nsip.registrar=10.0.0.1\n", "needs sip.registrar_user"),
            ("[Synchronization]\nsync.syncfreq=0\n", ":2: [Synchronization] sync.syncfreq = '0'; allowed:"),
            ("[Synchronization]\nsync.port=34567\n", "sip.port and sync.port would both listen on TCP port"),
            (
                "[Status]\nstatus.port=27979\n",
                "sync.port and status.port would both listen on TCP port 27979",
            ),
            ("[Status]\nstatus.ip=::\nstatus.port=27979\n", "would both listen"),
            (
                "[CassandraDB]\ncassandra.replication=dc1:3\ncassandra.local_dc=dc2\n",
                ":2: [CassandraDB] cassandra.replication = 'dc1:3': gives no copy to cassandra.local_dc, dc2",
            ),
            ("[Storage]\nstorage.path=\n", "storage.path = ''; allowed: a folder"),
            ("[Storage]\nstorage.path=/dev/null/x\n", "cannot be a folder: /dev/null is not one"),
            ("[Devices]\ndevices.file=/no/such\n", "/no/such: cannot be read: No such file or directory"),
        ],
    )
    def test_each_says_where_and_what_is_allowed(self, file, text, said) -> None:
        path = file(text)
        assert said in only_fault(path).replace(str(path), "")

    @pytest.mark.parametrize(
        "text",
        [
            "[Status]\nstatus.port=0\n[Synchronization]\nsync.port=8034\n",
            "[Status]\nstatus.ip=127.0.0.2\nstatus.port=34567\n",
            "[Status]\nstatus.ip=::1\nstatus.port=27979\n[Synchronization]\nsync.ip=0.0.0.0\n",
            "[SIP]\nsip.transports=udp\n[Synchronization]\nsync.port=34567\n",
        ],
    )
    def test_ports_that_do_not_meet_are_no_fault(self, file, text) -> None:
        read_settings(file(text), {})

    def test_what_depends_on_a_faulty_value_is_not_judged(self, file) -> None:
        path = file("[SIP]\nsip.port=x\n[Synchronization]\nsync.port=34567\n")
        assert "sip.port = 'x'" in only_fault(path)

    @pytest.mark.parametrize(
        "text",
        [
            "cassandra.password=hunter2\x07",
            "cassandra.pasword=hunter2",
            "cassandra.password hunter2",
            "db_pass=hunter2",
            "cassandra.password=x\ncassandra.password=hunter2",
        ],
    )
    def test_a_password_is_never_shown(self, file, text) -> None:
        code, said = check(file(f"[CassandraDB]\n{text}\n"), {})
        assert code == 2
        assert "hunter2" not in said

    def test_a_named_file_must_be_there(self, tmp_path) -> None:
        assert only_fault(tmp_path / "none").endswith("none: cannot be read: No such file or directory")
        assert only_fault(tmp_path).endswith("cannot be read: Is a directory")
        assert "cannot be read" in only_fault(Path("\0"))

    def test_a_file_that_is_not_utf_8_says_in_which_line(self, file) -> None:
        assert ":3: is not UTF-8 text" in only_fault(file(b"[SIP]\n\n# \xff\n"))
        assert "is not UTF-8" in only_fault(file("[SIP]".encode("utf-16")))

    def test_a_file_without_end_is_not_read_to_its_end(self) -> None:
        assert "is larger than 16 MiB" in only_fault(Path("/dev/zero"))


PIECES = st.one_of(
    st.sampled_from([option.key for option in OPTIONS]),
    st.sampled_from([f"[{section}]" for section in SECTIONS]),
    st.sampled_from(["\n", "\r\n", "=", " = ", ":", "#", " # ", ";", "[", "]", ",", "%", " ", "\ufeff"]),
    st.sampled_from(["auto", "0", "65536", "nan", "1e400", "udp,tls", "::1", "/dev/null", "\0", "dc1:3,"]),
    st.text(max_size=12),
)
TEXTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=300))

NUMBERS = {
    "sip.port": st.integers(1, 8000),
    "sip.receivers": st.integers(1, 16),
    "sync.port": st.integers(35_000, 65_535),
    "sync.syncfreq": st.floats(0.001, 1000),
    "sync.grace": st.floats(0, 86_400),
    "storage.retention_days": st.integers(0, 36_500),
    "storage.pack_after_hours": st.floats(0, 1000),
}


class TestAnything:
    @staticmethod
    def is_settled(path: Path, environ: dict[str, str]) -> None:
        """Settings or ConfigurationError, the check agreeing and its text printable."""
        expected = 0
        try:
            read_settings(path, environ)
        except ConfigurationError:
            expected = 2
        code, text = check(path, environ)
        assert code == expected
        text.encode("utf-8")

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(content=st.one_of(st.binary(max_size=200), TEXTS.map(lambda text: text.encode(errors="replace"))))
    def test_any_file_gives_settings_or_a_configuration_error(self, content, tmp_path) -> None:
        path = tmp_path / "server.properties"
        path.write_bytes(content)
        self.is_settled(path, {})

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        environ=st.dictionaries(
            st.one_of(
                st.sampled_from([option.variable for option in OPTIONS]), st.text().map(lambda t: "EC_" + t)
            ),
            st.one_of(PIECES, st.text(max_size=30)),
            max_size=6,
        )
    )
    def test_any_environment_gives_settings_or_a_configuration_error(self, environ, tmp_path) -> None:
        path = tmp_path / "server.properties"
        path.write_bytes(b"")
        self.is_settled(path, environ)

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(values=st.fixed_dictionaries({}, optional=NUMBERS))
    def test_what_is_written_in_a_file_or_in_the_environment_is_what_is_read(self, values, tmp_path) -> None:
        options = {option.key: option for option in OPTIONS}
        path = tmp_path / "server.properties"
        path.write_text("\n".join(f"[{options[key].section}]\n{key}={values[key]}" for key in values))
        found = read_settings(path, {})
        assert {key: getattr(found, options[key].attribute) for key in values} == values
        path.write_text("")
        assert read_settings(path, {options[key].variable: str(values[key]) for key in values}) == found
