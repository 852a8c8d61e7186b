"""What is checked beyond single values: certificates and keys that options name; and ``--check-config``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trustme
from configuration_faults import faults, only_fault, write_configuration
from cryptography.hazmat.primitives import serialization

from configuration.check import check, warnings
from configuration.properties_reader import read_settings
from configuration.settings import Settings


@pytest.fixture
def file(tmp_path: Path):
    """Writes a configuration file and gives its path."""
    return partial(write_configuration, tmp_path)


class TestCertificates:
    @pytest.fixture(scope="class")
    @staticmethod
    def pem(tmp_path_factory) -> dict[str, Path]:
        folder = tmp_path_factory.mktemp("pem")
        authority = trustme.CA()
        server, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
        files = {
            name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "other_key", "locked", "text")
        }
        authority.cert_pem.write_to_path(files["ca"])
        server.cert_chain_pems[0].write_to_path(files["cert"])
        server.private_key_pem.write_to_path(files["key"])
        other.private_key_pem.write_to_path(files["other_key"])
        loaded = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)
        files["locked"].write_bytes(
            loaded.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"pass"),
            )
        )
        files["text"].write_text("no certificate\n")
        return files

    def given(self, pem: dict[str, Path], **parts: str) -> dict[str, str]:
        return {f"EC_{part.upper()}": str(pem[name]) if name in pem else name for part, name in parts.items()}

    def test_tls_with_certificate_key_and_authority_is_accepted(self, pem) -> None:
        parts = {
            f"{family}_tls_{part}": name
            for family in ("sip", "sync", "cassandra")
            for part, name in (("certificate", "cert"), ("key", "key"), ("ca", "ca"))
        }
        found = read_settings(None, self.given(pem, sip_transports="udp,tcp,tls", **parts))
        assert found.sip_tls_certificate == pem["cert"]
        assert found.sip_tls_port == 34568

    def test_cassandra_takes_an_authority_alone(self, pem) -> None:
        assert read_settings(None, self.given(pem, cassandra_tls_ca="ca")).cassandra_tls_ca == pem["ca"]

    def test_tls_among_the_transports_needs_certificate_and_key(self) -> None:
        found = faults(None, {"EC_SIP_TRANSPORTS": "tls"})
        assert [line.split(": ")[-1] for line in found] == [
            "tls needs sip.tls_certificate",
            "tls needs sip.tls_key",
        ]

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            ({"sync_tls_certificate": "cert"}, "needs sync.tls_key beside it"),
            ({"sip_tls_key": "key"}, "needs sip.tls_certificate beside it"),
            ({"sync_tls_ca": "ca"}, "needs sync.tls_certificate and sync.tls_key"),
            ({"cassandra_tls_certificate": "cert", "cassandra_tls_key": "key"}, "needs cassandra.tls_ca"),
            ({"sip_tls_certificate": "cert", "sip_tls_key": "other_key"}, "key values mismatch"),
            ({"sip_tls_certificate": "cert", "sip_tls_key": "locked"}, "it has a passphrase"),
            ({"sip_tls_certificate": "text", "sip_tls_key": "key"}, "no PEM certificate with its PEM key"),
            ({"sip_tls_certificate": "cert", "sip_tls_key": "text"}, "no PEM certificate with its PEM key"),
            ({"sip_tls_certificate": "/no", "sip_tls_key": "key"}, "sip.tls_certificate = '/no': cannot be"),
            ({"cassandra_tls_ca": "text"}, "cassandra.tls_ca = "),
            ({"cassandra_tls_ca": "/no"}, "cannot be read: No such file or directory"),
        ],
    )
    def test_files_that_do_not_load_are_faults(self, pem, parts, said) -> None:
        assert said in only_fault(None, self.given(pem, **parts))

    def test_tls_beside_tcp_needs_a_port_of_its_own(self, pem) -> None:
        environ = self.given(
            pem, sip_transports="tcp,tls", sip_tls_certificate="cert", sip_tls_key="key", sip_tls_port="34567"
        )
        assert "sip.port and sip.tls_port would both listen" in only_fault(None, environ)
        at_the_end = {**environ, "EC_SIP_PORT": "65535", "EC_SIP_TLS_PORT": "0"}
        assert "leaves no port after it for TLS" in only_fault(None, at_the_end)


class TestCheckConfig:
    def test_a_valid_file_gives_0(self, file) -> None:
        path = file("[SIP]\nsip.port=34567 # SIP server URI: port\n")
        assert check(path, {}) == (0, f"the configuration is valid ({path})")

    def test_faults_give_2_and_their_text(self, file) -> None:
        code, text = check(file("[SIP]\nsip.port=0\nsip.receivers=0\n"), {})
        assert code == 2
        assert text.startswith("2 errors in the configuration:\n  ")
        assert text.count("\n") == 2

    def test_its_text_can_be_printed_whatever_the_files_name(self) -> None:
        check(Path("\udcff"), {})[1].encode("utf-8")

    def test_an_open_server_beyond_loopback_causes_a_warning(self, tmp_path) -> None:
        assert warnings(Settings()) == []
        (warning,) = warnings(Settings(sip_bind="0.0.0.0"))
        assert "every device may send" in warning
        assert "SIP on 0.0.0.0" in warning
        (warning,) = warnings(Settings(sync_ip="::"))
        assert "synchronization on ::" in warning
        assert check(None, {"EC_SYNC_IP": "::"})[1].endswith(f"\nwarning: {warning}")

    def test_a_device_without_a_key_causes_a_warning_where_synchronization_is_open(self, tmp_path) -> None:
        path = tmp_path / "devices.ini"
        path.write_text(f"[m1]\n[m2]\nkey={'0' * 64}\n")
        assert warnings(Settings(devices_file=path)) == []
        (warning,) = warnings(Settings(devices_file=path, sync_ip="192.0.2.1"))
        assert "m1 can be impersonated" in warning
        assert warnings(Settings(devices_file=path, sync_ip="192.0.2.1", sync_tls_ca=path)) == []

    def test_a_devices_file_without_devices_causes_a_warning(self, tmp_path) -> None:
        path = tmp_path / "devices.ini"
        path.write_text("# none yet\n")
        assert "every message will be rejected" in warnings(Settings(devices_file=path))[0]
