"""The front of deploy/kamailio with the real Kamailio: who gets through to a receiver, and as what."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from kamailio_front import DEPLOY, LOOPBACK, ROOT, Front, FrontPeer, credentials, status
from needs import need
from system.receiver_process import Receiver, wait_until

_numbers = count(1)


class Served:
    """A front and the receiver behind it, for the tests of this file together."""

    def __init__(self, front: Front, receiver: Receiver) -> None:
        self.front, self.receiver = front, receiver

    def device(self) -> Device:
        """A device that nobody else uses, in the credentials."""
        return self.devices(1)[0]

    def devices(self, number: int) -> list[Device]:
        ids = [f"meter-{next(_numbers)}" for _ in range(number)]
        devices = [Device(device_id, self.front.add_device(device_id)) for device_id in ids]
        self.front.reload()
        return devices

    def rows(self, *devices: Device) -> list[str]:
        """The stored values of these devices."""
        ids = {device.id for device in devices}
        return [values for device_id, values in self.receiver.rows() if device_id in ids]

    def received(self) -> int:
        return self.receiver.figures()["received"]


class Device(NamedTuple):
    id: str
    password: str


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path_factory.mktemp("receiver"))
    yield receiver.ready()
    receiver.clean_up()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Served]:
    with Front(tmp_path_factory.mktemp("front"), receiver.port) as front:
        yield Served(front, receiver)


def message(device: Device, microsecond: int = 1) -> bytes:
    return f"{device.id}|{int(time.time())}|{microsecond:06d},230.5||".encode()


def test_the_files_and_the_placeholder_that_the_readme_names_are_there(served: Served) -> None:
    readme = (DEPLOY / "README.md").read_text()
    for path in re.findall(r"deploy/kamailio/[a-z.-]+[a-z]", readme):
        assert (ROOT / path).exists(), path
    (placeholder,) = re.findall(r"s/([a-z-]+)/\$\(", readme)
    assert placeholder in (DEPLOY / "site.cfg").read_text()
    assert (DEPLOY / "add-device").stat().st_mode & 0o111
    assert "change-this" not in "".join(
        re.findall(r'"secret", "(.*)"', (DEPLOY / "kamailio.cfg").read_text())
    )
    for table in ("ha1", "proven", "failures"):
        assert f"htable.dump {table}" in readme or f"htable.reload {table}" in readme
        assert served.front.ask_kamailio("htable.dump", table) is not None


def test_an_invalid_id_gets_no_password(tmp_path: Path) -> None:
    for wrong in ("", "a b", "a:b", "a\nb", "x" * 65):
        ended = subprocess.run(
            [str(DEPLOY / "add-device"), wrong, str(tmp_path)], capture_output=True, check=False
        )
        assert ended.returncode == 2
        assert b"add-device" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_each_change_of_the_credentials_bears_a_later_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kamailio compares whole seconds; the second may end while the file is being written."""
    add = [str(DEPLOY / "add-device"), "meter-1", str(tmp_path / "credentials")]
    subprocess.run(add, check=True, capture_output=True)
    table = tmp_path / "credentials" / "devices"
    later = int(time.time()) + 60
    os.utime(table, (later, later))
    clock = tmp_path / "date"
    clock.write_text(f"#!/bin/sh\necho {later + 60}\n")
    clock.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    subprocess.run(add, check=True, capture_output=True)
    assert table.stat().st_mtime > later


def test_a_device_proves_itself_once_per_connection_over_tls_1_3(served: Served) -> None:
    device = served.device()
    with FrontPeer(served.front) as peer:
        assert isinstance(peer.socket, ssl.SSLSocket)
        assert peer.socket.version() == "TLSv1.3"
        assert status(peer.prove(*device, message(device))) == 200
        assert status(peer.ask(device.id, message(device, 2))) == 200
    with FrontPeer(served.front) as peer:
        assert status(peer.ask(device.id, message(device, 3))) == 407
    wait_until(lambda: len(served.rows(device)) == 2, "two rows")


def test_a_receivers_own_rejection_reaches_the_account_and_binary_bodies_pass_whole(served: Served) -> None:
    device, second, before = served.device(), int(time.time()), served.received()
    binary = f"{device.id}|{second}|".encode() + b"\x01\0\0\0\0\0\x80?;\x02\0\0\0|;\x80?||"
    with FrontPeer(served.front) as peer:
        assert status(peer.prove(*device, binary)) == 200
        assert status(peer.ask(device.id, f"{device.id}|{second}|000001,nan||".encode())) == 200
    wait_until(lambda: len(served.rows(device)) == 1, "one row")
    assert served.rows(device)[0].startswith("000001,1;000002,")
    assert served.received() == before + 2


def test_wrong_missing_and_borrowed_credentials_do_not_get_through(served: Served) -> None:
    (device, other), before = served.devices(2), served.received()
    with FrontPeer(served.front) as peer:
        assert status(peer.prove(device.id, "wrong", message(device))) == 407
        assert status(peer.prove("stranger", "0", message(Device("stranger", "")))) == 407
        # A device with another's From, with another's credentials, and with another's id in the body.
        assert status(peer.prove(other.id, device.password, message(other), user=device.id)) == 407
        assert status(peer.prove(*device, message(other))) == 403
        assert status(peer.ask(device.id, message(other))) == 403
        assert status(peer.ask(device.id, device.id.encode() + b"0|1|000001,1||")) == 403
        assert status(peer.ask(other.id, message(other))) == 407
    assert served.received() == before


def test_a_captured_answer_to_a_challenge_does_not_serve_another_device(served: Served) -> None:
    (device, other), before = served.devices(2), served.received()
    with FrontPeer(served.front) as peer:
        line = credentials(peer.ask(device.id, message(device)), *device)
        assert status(peer.ask(device.id, message(device), credentials=line)) == 200
    with FrontPeer(served.front) as thief:
        assert status(thief.ask(other.id, message(other), credentials=line)) == 407
    assert served.received() == before + 1


def test_only_plain_messages_outside_dialogs_pass(served: Served) -> None:
    device, before = served.device(), served.received()
    with FrontPeer(served.front) as peer:
        assert status(peer.prove(*device, message(device))) == 200
        for method in ("OPTIONS", "SUBSCRIBE", "REGISTER", "INVITE", "BYE", "NOTIFY", "PUBLISH"):
            assert status(peer.ask(device.id, message(device), method=method)) == 405, method
        assert status(peer.ask(device.id, message(device), kind="multipart/mixed;boundary=x")) == 415
        assert status(peer.ask(device.id, message(device), kind="text/plainer")) == 415
        assert status(peer.ask(device.id, message(device), to_tag=";tag=5")) == 403
        assert status(peer.ask(device.id, message(device), more="Route: <sip:192.0.2.1;lr>\r\n")) == 403
        assert status(peer.ask(device.id, message(device, 2))) == 200
    assert served.received() == before + 2


def test_the_longest_message_that_passes_leaves_the_receivers_connection_open(served: Served) -> None:
    device = served.device()
    with FrontPeer(served.front) as peer:
        assert status(peer.prove(*device, message(device))) == 200
        answers = [
            status(peer.ask(device.id, message(device).ljust(length))) for length in range(2_700, 4_000, 20)
        ]
        passed = answers.index(413)
        assert answers == [200] * passed + [413] * (len(answers) - passed)
        assert 2_700 + 20 * passed > 3_300
        assert status(peer.ask(device.id, message(device, 2))) == 200


def test_headers_that_name_other_places_are_not_passed_on(served: Served) -> None:
    device = served.device()
    more = (
        "Contact: <sip:x@slow.invalid>\r\nRecord-Route: <sip:192.0.2.1;lr>\r\nExpires: 0\r\n"
        "Via: SIP/2.0/TCP 192.0.2.1;maddr=slow.invalid\r\nContent-Type: multipart/mixed;boundary=x\r\n"
    )
    with FrontPeer(served.front) as peer:
        assert status(peer.prove(*device, message(device))) == 200
        assert status(peer.ask(device.id, message(device, 2), more=more)) in {200, 400, 415}
        assert status(peer.ask(device.id, message(device, 3))) == 200
    assert served.receiver.process.poll() is None


def test_a_device_that_was_added_or_changed_gets_in_after_a_reload(served: Served) -> None:
    device = served.device()
    new = served.device()
    changed = Device(device.id, served.front.add_device(device.id))
    served.front.reload()
    with FrontPeer(served.front) as peer:
        assert status(peer.prove(*new, message(new))) == 200
        assert status(peer.prove(*device, message(device))) == 407
        assert status(peer.prove(*changed, message(changed))) == 200


def test_a_flood_without_credentials_is_dropped_and_proven_devices_go_on(
    tmp_path: Path, receiver: Receiver
) -> None:
    few = {"UNAUTHENTICATED_PER_2S 2000": "UNAUTHENTICATED_PER_2S 50"}
    front = Front(tmp_path / "front", receiver.port, more=few)
    device = Device("flooded", front.add_device("flooded"))
    with front, FrontPeer(front) as proven, FrontPeer(front) as stranger:
        assert status(proven.prove(*device, message(device))) == 200
        stranger.socket.settimeout(1)
        answered = 0
        with suppress(TimeoutError):
            while answered < 500:
                assert status(stranger.ask(device.id, message(device))) == 407
                answered += 1
        assert answered < 200
        assert status(proven.ask(device.id, message(device, 2))) == 200


def test_one_device_cannot_send_more_than_its_rate(tmp_path: Path, receiver: Receiver) -> None:
    few = {"MESSAGES_PER_DEVICE_PER_S@!3000": "MESSAGES_PER_DEVICE_PER_S@!50"}
    front = Front(tmp_path / "front", receiver.port, more=few)
    fast, other = (Device(name, front.add_device(name)) for name in ("fast", "other"))
    with front, FrontPeer(front) as peer:
        for device in (fast, other):
            assert status(peer.prove(*device, message(device))) == 200
        answers = [status(peer.ask(fast.id, message(fast))) for _ in range(500)]
        assert set(answers) == {200, 503}
        assert status(peer.ask(other.id, message(other))) == 200


def test_a_front_without_a_receiver_says_so_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "receiver"
    folder.mkdir()
    first = Receiver(folder).ready()
    front = Front(tmp_path / "front", first.port)
    device = Device("patient", front.add_device("patient"))
    with front, FrontPeer(front) as peer:
        assert status(peer.prove(*device, message(device))) == 200
        peer.socket.settimeout(2)

        def answered(microsecond: int) -> int:
            # What is on its way when the receiver dies has no answer.
            with suppress(TimeoutError):
                return status(peer.ask(device.id, message(device, microsecond)))
            return 0

        first.clean_up()
        wait_until(lambda: answered(2) == 503, "a 503")
        again = Receiver(folder, **{"sip.port": first.port})
        try:
            again.ready()
            wait_until(lambda: answered(9) == 200, "a 200 again")
        finally:
            again.clean_up()


SCENARIO = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE scenario SYSTEM "sipp.dtd">
<scenario name="meter with digest authentication">
  <send retrans="500"><![CDATA[
      MESSAGE sip:ecserver@[remote_ip]:[remote_port] SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
      From: <sip:DEVICE@[local_ip]:[local_port]>;tag=[call_number]
      To: <sip:ecserver@[remote_ip]:[remote_port]>
      Call-ID: [call_id]
      CSeq: 1 MESSAGE
      Max-Forwards: 70
      Content-Type: text/plain
      Content-Length: [len]

      DEVICE|SECOND|[field0],-[call_number].5||
  ]]></send>
  <recv response="407" auth="true"/>
  <send retrans="500"><![CDATA[
      MESSAGE sip:ecserver@[remote_ip]:[remote_port] SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
      From: <sip:DEVICE@[local_ip]:[local_port]>;tag=[call_number]
      To: <sip:ecserver@[remote_ip]:[remote_port]>
      Call-ID: [call_id]
      CSeq: 2 MESSAGE
      Max-Forwards: 70
      [authentication username=DEVICE password=PASSWORD]
      Content-Type: text/plain
      Content-Length: [len]

      DEVICE|SECOND|[field0],-[call_number].5||
  ]]></send>
  <recv response="200"/>
</scenario>
"""


@pytest.mark.parametrize("mode", ["u1", "t1"])
def test_sipp_with_digest_over_the_plain_ports_is_stored_whole(
    served: Served, tmp_path: Path, mode: str
) -> None:
    messages, device = 200, served.device()
    numbers = "".join(f"{number:06d};\n" for number in range(messages))
    (tmp_path / "numbers.csv").write_text("SEQUENTIAL\n" + numbers)
    scenario = SCENARIO.replace("SECOND", str(int(time.time())))
    scenario = scenario.replace("PASSWORD", device.password).replace("DEVICE", device.id)
    (tmp_path / "meter.xml").write_text(scenario)
    command = [need("sipp", "sip-tester"), f"{LOOPBACK}:{served.front.plain_port}", "-i", LOOPBACK]
    command += ["-sf", "meter.xml", "-inf", "numbers.csv", "-t", mode, "-m", str(messages), "-r", "200"]
    command += ["-timeout", "40s", "-timeout_error", "-nostdin"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    wait_until(lambda: len(served.rows(device)) == messages, "every message as a row")


def run_meters(front: Front, tmp_path: Path, devices: int, *, seconds: int, options: Sequence[str]) -> str:
    """Run reference meters through a front that has their passwords; what they print at the end."""
    command = [sys.executable, "-m", "reference_client", "--server", f"{LOOPBACK}:{front.tls_port}"]
    command += ["--transport", "tls", "--ca", str(front.folder / "ca.pem"), "--devices", str(devices)]
    command += ["--passwords", str(tmp_path / "passwords"), "--seconds", str(seconds)]
    command += ["--id-prefix", "fleet", "--store", str(tmp_path / "meters"), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:] + front.log[-2000:]
    return ended.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("meters", "faults"),
    [
        (8, []),
        pytest.param(500, ["--faults", "drop=95%"], marks=(pytest.mark.soak, pytest.mark.timeout(900))),
    ],
)
def test_reference_meters_over_tls_through_one_receiver_lose_nothing(
    tmp_path: Path, meters: int, faults: Sequence[str]
) -> None:
    """Of 500 meters each sends a twentieth of its second: what is measured is how many there are."""
    folder = tmp_path / "receiver"
    folder.mkdir()
    receiver = Receiver(folder).ready()
    front = Front(tmp_path / "front", receiver.port, more={"PER_2S 2000": "PER_2S 20000"})
    ids = [f"fleet-{number + 1}" for number in range(meters)]
    (tmp_path / "passwords").write_text("".join(f"{device}:{front.add_device(device)}\n" for device in ids))
    try:
        with front:
            options = ["--speed", "max", "--window", "16", *faults]
            said = run_meters(front, tmp_path, meters, seconds=1, options=options)
        found = re.search(r"sent (\d+), acknowledged (\d+), failed 0, skipped 0", said)
        assert found is not None, said
        sent, acknowledged = map(int, found.groups())
        assert sent == acknowledged
        assert sent == 1_000 * meters or faults
        # A ring that is full of messages takes longer than a stop may.
        until = time.monotonic() + 600
        while receiver.figures()["stored"] < sent and time.monotonic() < until:
            time.sleep(0.1)
        assert receiver.stop() == 0
        rows = Counter(device for device, _ in receiver.rows())
        assert (rows.keys(), rows.total()) == (set(ids), sent)
    finally:
        receiver.clean_up()


@pytest.mark.parametrize(
    "meters", [60, pytest.param(500, marks=(pytest.mark.soak, pytest.mark.timeout(600)))]
)
def test_meters_each_on_a_tls_connection_of_its_own_share_few_to_the_receiver(
    tmp_path: Path, receiver: Receiver, meters: int
) -> None:
    front = Front(tmp_path / "front", receiver.port)
    devices = [Device(f"alone-{meters}-{n}", "") for n in range(meters)]
    devices = [Device(device.id, front.add_device(device.id)) for device in devices]
    with front, ExitStack() as stack:
        peers = [stack.enter_context(FrontPeer(front)) for _ in devices]
        for peer, device in zip(peers, devices):
            assert status(peer.prove(*device, message(device))) == 200
        for number in range(2, 11):
            for peer, device in zip(peers, devices):
                assert status(peer.ask(device.id, message(device, number))) == 200
        inner = [
            connection
            for connection in psutil.Process(receiver.process.pid).net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED
        ]
        assert len(inner) <= 8
    wanted = {device.id: 10 for device in devices}
    wait_until(
        lambda: Counter(device for device, _ in receiver.rows() if device in wanted) == wanted, "all rows"
    )
