"""The devices file: who is let in, from where, and that every fault of the file is found and placed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configuration.devices import DeviceDirectory, device_faults
from configuration.properties_reader import read_settings
from utilities.errors import ConfigurationError
from utilities.model import RejectReason

KEY = "00112233445566778899AABBccddeeff" * 2

FILE = f"""\
# The cellar.
[meter-7]
name = Cellar; main feed, 50 % # the large one
key = {KEY}
networks = 10.1.0.0/16, 2001:db8::/32 ,192.0.2.9

[Meter_8.b]
"""


@pytest.fixture
def file(tmp_path: Path):
    """Writes a devices file and gives its path."""

    def write(text: str) -> Path:
        path = tmp_path / "devices.ini"
        path.write_text(text)
        return path

    return write


def test_without_a_file_every_device_is_let_in() -> None:
    directory = DeviceDirectory.read(None)
    assert directory.open_to_all
    assert directory.rule("anything") is None
    assert directory.admits("anything", "203.0.113.1") is None


def test_a_device_has_its_name_key_and_networks(file) -> None:
    directory = DeviceDirectory.read(file(FILE))
    rule = directory.rule("meter-7")
    assert rule is not None
    assert rule.name == "Cellar; main feed, 50 %"
    assert rule.key == bytes.fromhex(KEY)
    assert [str(network) for network in rule.networks] == ["10.1.0.0/16", "2001:db8::/32", "192.0.2.9/32"]
    assert [rule.device_id for rule in directory.rules] == ["meter-7", "Meter_8.b"]


def test_each_option_of_a_device_may_be_absent(file) -> None:
    rule = DeviceDirectory.read(file(FILE)).rule("Meter_8.b")
    assert rule is not None
    assert (rule.name, rule.key, rule.networks) == ("", b"", ())


@pytest.mark.parametrize(
    ("device_id", "ip", "reason"),
    [
        ("meter-7", "10.1.255.255", None),
        ("meter-7", "10.2.0.0", RejectReason.WRONG_NETWORK),
        ("meter-7", "192.0.2.9", None),
        ("meter-7", "192.0.2.8", RejectReason.WRONG_NETWORK),
        ("meter-7", "2001:db8:ffff::1", None),
        ("meter-7", "2001:db9::1", RejectReason.WRONG_NETWORK),
        ("meter-7", "::ffff:10.1.2.3", None),
        ("meter-7", "no address", RejectReason.WRONG_NETWORK),
        ("meter-7", "", RejectReason.WRONG_NETWORK),
        ("Meter_8.b", "203.0.113.1", None),
        ("meter_8.b", "203.0.113.1", RejectReason.UNKNOWN_DEVICE),
        ("", "10.1.0.1", RejectReason.UNKNOWN_DEVICE),
    ],
)
def test_only_known_devices_from_their_networks_are_let_in(file, device_id, ip, reason) -> None:
    assert DeviceDirectory.read(file(FILE)).admits(device_id, ip) is reason


def test_a_file_without_devices_lets_nobody_in(file) -> None:
    directory = DeviceDirectory.read(file(""))
    assert not directory.open_to_all
    assert directory.admits("meter-7", "127.0.0.1") is RejectReason.UNKNOWN_DEVICE


def test_keys_are_in_no_repr_and_no_fault(file) -> None:
    directory = DeviceDirectory.read(file(FILE))
    assert repr(bytes.fromhex(KEY)) not in repr(directory.rule("meter-7"))
    for line in (
        f"key={KEY}0",
        f"key=x{KEY[1:]}",
        f"Key={KEY}",
        f"keys={KEY}",
        f"key {KEY}",
        f"key={KEY}\x07",
    ):
        (fault,) = device_faults(file(f"[m]\n{line}\n"))
        assert KEY[1:30] not in fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a b]\n", ":1: [a b] is not a device id; allowed: 1 to 64 of A-Z a-z 0-9 . _ -"),
        (f"[{'x' * 65}]\n", "is not a device id"),
        ("[mätre]\n", "is not a device id"),
        ("[m]\n\n[m]\n", ":3: [m] is given twice, first in line 1"),
        ("name=x\n", ":1: name is before the first [device id]"),
        ("[m]\nkey=\n", ":2: [m] key = '***' (0 characters); allowed: exactly 64 hex digits"),
        (f"[m]\nkey={KEY[:-1]}\n", ":2: [m] key = '***' (63 characters); allowed: exactly 64 hex digits"),
        (f"[m]\nkey={KEY}00\n", ":2: [m] key = '***' (66 characters); allowed: exactly 64 hex digits"),
        (f"[m]\nkey={KEY[:-1]}g\n", "allowed: exactly 64 hex digits"),
        (
            "[m]\nNetworks=10.0.0.0/8\n",
            ":2: [m] Networks: a device has no such option; the nearest is networks",
        ),
        ("[m]\ncolour=red\n", "a device has no such option; allowed: name, key, networks"),
        ("[m]\nname=a\nname=a\n", ":3: [m] name is given twice, first in line 2"),
        ("[m]\nnetworks=10.0.0.1/8\n", "10.0.0.1/8 is an address in a network: write 10.0.0.0/8"),
        ("[m]\nnetworks=10.0.0.0/33\n", ":2: [m] networks = '10.0.0.0/33' ("),
        ("[m]\nnetworks=10.0.0.0/8,\n", "allowed: networks such as"),
        ("[m]\nnetworks=example.org\n", "allowed: networks such as"),
        ("[m]\nwhat\n", ":2: the line 'what'... is neither [section] nor key=value"),
    ],
)
def test_each_fault_says_where_and_what_is_allowed(file, text, said) -> None:
    path = file(text)
    (fault,) = device_faults(path)
    assert said in fault.replace(str(path), "")


def test_all_faults_are_reported_at_once_also_by_the_configuration(file) -> None:
    path = file("[a b]\nkey=1\n[m]\nnetworks=x\nfoo=1\n")
    with pytest.raises(ConfigurationError) as caught:
        DeviceDirectory.read(path)
    found = str(caught.value).split("\n  ")[1:]
    assert [line.removeprefix(f"{path}:")[0] for line in found] == ["1", "2", "4", "5"]
    with pytest.raises(ConfigurationError) as caught:
        read_settings(None, {"EC_DEVICES_FILE": str(path), "EC_SIP_PORT": "x"})
    assert str(caught.value).split("\n  ")[2:] == found


def test_a_missing_file_is_a_fault(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        DeviceDirectory.read(tmp_path / "none.ini")


PIECES = st.one_of(
    st.sampled_from(
        ["[m]", "[", "]", "\n", "=", "key", "name", "networks", "10.0.0.0/8", ",", "::/0", KEY, "#"]
    ),
    st.text(max_size=8),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=100),
        st.lists(PIECES, max_size=30).map(lambda p: "".join(p).encode(errors="replace")),
    )
)
def test_any_file_gives_a_directory_or_a_configuration_error(content, tmp_path) -> None:
    path = tmp_path / "devices.ini"
    path.write_bytes(content)
    if device_faults(path):
        with pytest.raises(ConfigurationError):
            DeviceDirectory.read(path)
    else:
        DeviceDirectory.read(path).admits("m", "10.0.0.1")
