"""The torture messages of RFC 4475, and mutated MESSAGEs, against a live receiver.

What is expected follows the contract: a MESSAGE that is well-formed where it matters is taken; everything
else is refused without a state, or dropped; an answer goes to the source, and the receiver goes on.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fuzz.mutation import mutated
from system.receiver_process import Receiver, wait_until
from system.sip_peer import Peer, request
from system.torture_messages import MESSAGES, RESPONSE, Torture, built

DROPPED, CLOSED = 0, -1
PROBE = b"z9hG4bKprobe"

# Section to (as the RFC's request, as a MESSAGE); where TCP differs, because a length is the frame there,
# the third and fourth. Everything else: another method is refused (405), the MESSAGE taken (200).
EXPECTED: dict[str, tuple[int, ...]] = {
    "3.1.1.2": (400, 400),  # a valid message, but no meter sends NUL and BEL in a name
    "3.1.1.11": (415, 415),
    "3.1.1.12": (DROPPED, DROPPED),
    "3.1.1.13": (DROPPED, DROPPED),
    "3.1.2.2": (405, 200, CLOSED, CLOSED),
    "3.1.2.3": (400, 400),
    "3.1.2.4": (400, 400),
    "3.1.2.5": (DROPPED, DROPPED),
    "3.1.2.7": (405, 416),
    "3.1.2.8": (DROPPED, DROPPED),
    "3.1.2.9": (DROPPED, DROPPED),
    "3.1.2.10": (DROPPED, DROPPED),
    "3.1.2.16": (505, 505),
    "3.1.2.17": (400, 400),
    "3.1.2.18": (400, 400),
    "3.1.2.19": (DROPPED, DROPPED),
    "3.3.1": (DROPPED, DROPPED),
    "3.3.2": (405, 416),
    "3.3.3": (405, 416),
    "3.3.5": (405, 420),
    "3.3.8": (400, 400),
    "3.3.9": (400, 400),
    "3.3.10": (DROPPED, DROPPED),
}
_USUAL = (405, 200)

CASES = [
    (torture, method, transport)
    for torture in MESSAGES
    for method in dict.fromkeys((torture.method, "MESSAGE"))
    if torture.method != RESPONSE or method == RESPONSE
    for transport in ("UDP", "TCP")
]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path_factory.mktemp("receiver"))
    yield receiver.ready()
    receiver.clean_up()


def body(microsecond: int = 1, device: str = "torture") -> bytes:
    return f"{device}|{int(time.time())}|{microsecond:06d},230.5||".encode()


def expected(torture: Torture, method: str, transport: str) -> int:
    wanted = EXPECTED.get(torture.section, _USUAL)
    as_message = method == "MESSAGE"
    return wanted[2 + as_message] if transport == "TCP" and len(wanted) == 4 else wanted[as_message]


def first_answer(receiver: Receiver, torture: Torture, method: str, transport: str) -> int:
    """What the message is answered with; the one sent behind it is answered, too, or all is closed."""
    kind = socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sender:
        sender.bind(("127.0.0.1", 0))
        sender.connect(("127.0.0.1", receiver.port))  # what comes from elsewhere is not heard
        sender.settimeout(20)
        port = sender.getsockname()[1]
        sender.sendall(built(torture, method, port, body()))
        probe = request("MESSAGE", body(2), transport, call_id="probe", local=f"127.0.0.1:{port}")
        if torture.section == "3.1.2.2" and transport == "TCP":
            sender.sendall(b"x" * 9_999)  # what its length announces
        answers = b""
        try:
            sender.sendall(probe)
            while PROBE not in answers:
                more = sender.recv(65_536)
                if not more:
                    break
                answers += more
        except ConnectionError:
            pass
    parts = [part for part in answers.split(b"SIP/2.0 ")[1:] if PROBE not in part]
    if parts:
        return int(parts[0][:3])
    return DROPPED if PROBE in answers else CLOSED


@pytest.mark.parametrize(
    ("torture", "method", "transport"), CASES, ids=lambda value: getattr(value, "section", value)
)
def test_a_torture_message_is_taken_refused_or_dropped_and_nothing_else(
    receiver: Receiver, torture: Torture, method: str, transport: str
) -> None:
    assert first_answer(receiver, torture, method, transport) == expected(torture, method, transport)
    with Peer("TCP", receiver.port) as honest:
        assert honest.ask(body(3)) == 200


def test_no_section_of_the_rfc_is_left_out() -> None:
    numbers = [torture.section for torture in MESSAGES]
    valid, invalid = [f"3.1.1.{n}" for n in range(1, 14)], [f"3.1.2.{n}" for n in range(1, 20)]
    assert numbers == [*valid, *invalid, "3.2.1", *(f"3.3.{n}" for n in range(1, 16)), "3.4.1"]


# --- mutations ------------------------------------------------------------------------------


class HonestMeter:
    """Sends a message each 20 ms beside the flood, one connection, and notes how long each took."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self.worst_s = 0.0
        self.refused: list[int] = []
        self._stop = threading.Event()
        self._peer = Peer("TCP", port)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            begin = time.monotonic()
            try:
                status = self._peer.ask(body(self.sent % 1_000_000, "honest"))
            except OSError:
                status = 0
            self.worst_s = max(self.worst_s, time.monotonic() - begin)
            self.sent += 1
            if status != 200:
                self.refused.append(status)
                return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._peer.close()


class Flood:
    """Mutated MESSAGEs over UDP and TCP from one seed; reads and throws away what is answered."""

    def __init__(self, port: int, seed: int) -> None:
        self._port, self._chance = port, random.Random(seed)
        self._stream: socket.socket | None = None
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.connect(("127.0.0.1", port))
        self._datagrams.setblocking(False)

    def send(self, count: int) -> None:
        """So many messages; half in datagrams, half on connections that are opened again when they end."""
        for number in range(count):
            transport = ("UDP", "TCP")[number % 2]
            extra = self._chance.choice(
                ("", "Contact: <sip:a@slow.invalid>\r\n", "Route: <sip:192.0.2.1;lr>\r\n", "Expires: 0\r\n")
            )
            whole = request(
                "MESSAGE",
                body(number % 1_000_000, "mutant"),
                transport,
                headers=f"Content-Type: text/plain\r\n{extra}",
            )
            data = mutated(self._chance, whole)
            if transport == "UDP":
                self._over_udp(data)
            else:
                self._over_tcp(data)

    def _over_udp(self, data: bytes) -> None:
        try:
            self._datagrams.send(data)
            while self._datagrams.recv(65_536):
                pass
        except (BlockingIOError, ConnectionError, OSError):
            pass

    def _over_tcp(self, data: bytes) -> None:
        try:
            if self._stream is None:
                self._stream = socket.create_connection(("127.0.0.1", self._port), 10)
            self._stream.settimeout(5)
            self._stream.sendall(data)
            self._stream.setblocking(False)
            while self._stream.recv(65_536):
                pass
            raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            if self._stream is not None:
                self._stream.close()
            self._stream = None

    def close(self) -> None:
        self._datagrams.close()
        if self._stream is not None:
            self._stream.close()


def memory_bytes(pid: int) -> int:
    """What a receiver and its writer have of their own; the ring is a file, whose pages do not count."""
    process = psutil.Process(pid)
    found = [p.memory_info() for p in (process, *process.children(recursive=True))]
    return int(sum(memory.rss - memory.shared for memory in found))


@pytest.mark.parametrize(
    "count", [4_000, pytest.param(1_000_000, marks=(pytest.mark.soak, pytest.mark.timeout(3_600)))]
)
def test_mutated_messages_end_slow_or_fill_nothing(tmp_path: Path, count: int) -> None:
    # Devices that a mutation invents would be state that grows with the test.
    devices = tmp_path / "devices.ini"
    devices.write_text("[honest]\n[mutant]\n")
    receiver = Receiver(tmp_path, **{"devices.file": devices}).ready()
    try:
        flood, honest = Flood(receiver.port, seed=4475), HonestMeter(receiver.port)
        try:
            flood.send(count // 4)  # what is needed once is there
            before = memory_bytes(receiver.process.pid)
            flood.send(count - count // 4)
            after = memory_bytes(receiver.process.pid)
        finally:
            honest.stop()
            flood.close()
        print(
            f"{count} mutated messages: memory {before >> 20} MiB, then {after >> 20} MiB; "
            f"the honest meter's {honest.sent} messages took {honest.worst_s * 1000:.0f} ms at most"
        )
        assert receiver.process.poll() is None
        assert honest.sent > 0
        assert honest.refused == []
        assert after < 1.1 * before + (8 << 20)
        wait_until(
            lambda: len([device for device, _ in receiver.rows() if device == "honest"]) == honest.sent,
            "every message of the honest meter as a row",
        )
        figures = receiver.figures()
        assert figures["received"] >= honest.sent
        assert receiver.stop() == 0
    finally:
        receiver.clean_up()
