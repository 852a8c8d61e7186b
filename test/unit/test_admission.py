"""Who may speak for a device: the certificate's name, the devices file, its networks."""

from __future__ import annotations

import ipaddress

import pytest

from configuration.devices import DeviceDirectory, DeviceRule
from ec_server.ingest.admission import Admission, address_of
from utilities.model import RawMessage, RejectReason

OPEN = Admission(DeviceDirectory())
LISTED = Admission(
    DeviceDirectory(
        {
            "anywhere": DeviceRule("anywhere"),
            "cellar": DeviceRule(
                "cellar",
                networks=(ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("2001:db8::/32")),
            ),
        }
    )
)


def judge(admission: Admission, device: str, sender: str, peer_name: str = "") -> RejectReason | None:
    rejection = admission(device, RawMessage(b"", sender, 0, peer_name))
    if rejection is None:
        return None
    assert rejection.device_id == device
    assert rejection.detail
    return rejection.reason


def test_without_a_devices_file_everybody_may_send() -> None:
    assert judge(OPEN, "anybody", "203.0.113.9:5060") is None


def test_a_certificate_is_valid_for_its_own_device_only() -> None:
    assert judge(OPEN, "meter-7", "10.0.0.1:5061", "meter-7") is None
    assert judge(OPEN, "meter-8", "10.0.0.1:5061", "meter-7") == RejectReason.WRONG_CERTIFICATE
    assert judge(OPEN, "meter-7", "10.0.0.1:5061", "METER-7") == RejectReason.WRONG_CERTIFICATE
    assert judge(LISTED, "cellar", "10.1.0.1:5061", "anywhere") == RejectReason.WRONG_CERTIFICATE


@pytest.mark.parametrize(
    ("device", "sender", "reason"),
    [
        ("anywhere", "203.0.113.9:5060", None),
        ("cellar", "10.1.255.255:1", None),
        ("cellar", "[2001:db8::7]:5060", None),
        ("cellar", "[::ffff:10.1.2.3]:5060", None),
        ("cellar", "10.2.0.1:5060", RejectReason.WRONG_NETWORK),
        ("cellar", "[2001:db9::7]:5060", RejectReason.WRONG_NETWORK),
        ("cellar", "", RejectReason.WRONG_NETWORK),
        ("stranger", "10.1.0.1:5060", RejectReason.UNKNOWN_DEVICE),
    ],
)
def test_a_devices_file_decides_who_and_from_where(
    device: str, sender: str, reason: RejectReason | None
) -> None:
    assert judge(LISTED, device, sender) == reason


def test_the_address_of_a_sender_is_what_comes_before_the_port() -> None:
    assert address_of("127.0.0.1:5060") == "127.0.0.1"
    assert address_of("[fe80::1]:5060") == "fe80::1"
