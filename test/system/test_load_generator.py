"""The load generator against small SIP servers on real sockets: what it says it sent is what arrived."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reference_client.load_generator import run_load
from reference_client.load_plan import FORMATS, LoadPlan

ROOT = Path(__file__).parents[2]
_LENGTH = re.compile(rb"\r\nContent-Length: +(\d+)\r\n")
_COPIED = re.compile(rb"^(?:Via|From|To|Call-ID|CSeq): .*\r\n", re.MULTILINE)


def answer(head: bytes, status: bytes = b"200 OK") -> bytes:
    return b"SIP/2.0 " + status + b"\r\n" + b"".join(_COPIED.findall(head)) + b"Content-Length: 0\r\n\r\n"


def both_transports() -> tuple[socket.socket, socket.socket]:
    """A datagram and a listening socket on one port; another port where somebody has the second."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0), backlog=64)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            return udp, tcp


class Responder:
    """Takes MESSAGEs on one port; ``judge(number of the message)`` gives the status, or None for silence."""

    def __init__(
        self, judge: Callable[[int], bytes | None], hang_up_after: int | None = None, copies: int = 1
    ) -> None:
        self.judge, self.hang_up_after, self.copies = judge, hang_up_after, copies
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.arrived_at: list[float] = []
        self.most_unanswered = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.udp, self.tcp = both_transports()
        self.udp.settimeout(0.1)
        self.port = self.udp.getsockname()[1]
        self.tcp.settimeout(0.1)
        self.threads = [threading.Thread(target=work) for work in (self._serve_udp, self._serve_tcp)]
        for thread in self.threads:
            thread.start()

    def take(self, head: bytes, body: bytes) -> bytes:
        with self.lock:
            self.heads.append(head)
            self.bodies.append(body)
            self.arrived_at.append(time.monotonic())
            status = self.judge(len(self.bodies))
        if status is None:
            return b""
        return self.copies * (answer(head, b"100 Trying") + answer(head, status))

    def _serve_udp(self) -> None:
        while not self.stopping.is_set():
            try:
                datagram, peer = self.udp.recvfrom(65536)
            except TimeoutError:
                continue
            head, _, body = datagram.partition(b"\r\n\r\n")
            if reply := self.take(head + b"\r\n", body):
                self.udp.sendto(reply, peer)

    def _serve_tcp(self) -> None:
        while not self.stopping.is_set():
            try:
                peer, _ = self.tcp.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve_connection, args=(peer,))
            self.threads.append(thread)
            thread.start()

    def _serve_connection(self, peer: socket.socket) -> None:
        peer.settimeout(0.1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        taken, pending = 0, b""
        with peer:
            while not self.stopping.is_set():
                try:
                    received = peer.recv(1 << 16)
                except TimeoutError:
                    continue
                if not received:
                    return
                pending += received
                replies = []
                while (end := pending.find(b"\r\n\r\n")) >= 0:
                    head = pending[: end + 2]
                    found = _LENGTH.search(head)
                    assert found
                    stop = end + 4 + int(found[1])
                    if len(pending) < stop:
                        break
                    replies.append(self.take(head, pending[end + 4 : stop]))
                    pending, taken = pending[stop:], taken + 1
                    if taken == self.hang_up_after:
                        return
                self.most_unanswered = max(self.most_unanswered, len(replies))
                peer.sendall(b"".join(replies))

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(5)
        self.udp.close()
        self.tcp.close()


@contextmanager
def responding(
    judge: Callable[[int], bytes | None] = lambda _n: b"200 OK",
    hang_up_after: int | None = None,
    copies: int = 1,
) -> Iterator[Responder]:
    responder = Responder(judge, hang_up_after, copies)
    try:
        yield responder
    finally:
        responder.stop()


def row(body: bytes) -> tuple[str, int, str]:
    """A body as a row, by code that shares nothing with the generator."""
    device, second, samples = body.split(b"|", 2)
    assert samples.endswith(b"||")
    samples = samples[:-2]
    if re.fullmatch(rb"[0-9+\-.eE,;]+", samples):
        return device.decode(), int(second), samples.decode()
    assert len(samples) % 9 == 8
    fields = struct.iter_unpack("<ifc", samples + b";")
    return device.decode(), int(second), ";".join(f"{us:06d},{value:.9g}" for us, value, _ in fields)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("form", list(FORMATS))
def test_the_plan_says_row_by_row_what_arrived(transport: str, form: str):
    with responding() as server:
        plan = LoadPlan(
            port=server.port, transport=transport, format=form, devices=3, messages=950, connections=2
        )
        report = run_load(plan)
    assert (report.answered, report.lost, report.unsent, report.other) == (950, 0, 0, {})
    rows = [row(body) for body in server.bodies]
    if not report.retransmitted:
        assert len(rows) == 950
    assert set(rows) == set(plan.batches())
    assert len(set(rows)) == 950
    assert len({text for _, _, text in rows}) == 950
    for device in range(3):
        mine = [planned for planned in plan.batches() if planned[0] == plan.device_id(device)]
        assert [(second, text[:6]) for _, second, text in mine] == sorted(
            (second, text[:6]) for _, second, text in mine
        )


def test_a_full_second_of_a_device_is_every_sample_of_it():
    for form, messages in (("text44", 1000), ("binary44", 1000), ("binary300", 147)):
        plan = LoadPlan(devices=1, connections=1, messages=messages + 1, format=form, start=1_772_366_400)
        rows = list(plan.batches())
        assert {second for _, second, _ in rows[:messages]} == {1_772_366_400}
        assert rows[messages][1] == 1_772_366_401
        samples = ";".join(text for _, _, text in rows[:messages]).split(";")
        assert [int(s[:6]) for s in samples] == [i * 1_000_000 // 44_000 for i in range(44_000)]


def test_each_message_is_a_transaction_of_its_own():
    with responding() as server:
        run_load(LoadPlan(port=server.port, messages=200))
    for pattern in (rb"branch=(z9hG4bK\S+)", rb"Call-ID: (\S+)"):
        found = [re.search(pattern, head) for head in server.heads]
        assert len({match[1] for match in found if match}) == 200
    for name in (b"Via", b"Max-Forwards", b"From", b"To", b"Call-ID", b"CSeq", b"Content-Type"):
        assert all(head.count(b"\r\n" + name + b": ") == 1 for head in server.heads)


def test_connections_share_the_messages_without_gap_or_overlap():
    for spread in (False, True):
        for devices, messages in ((5, 23), (3, 3), (4, 0), (7, 100)):
            plan = LoadPlan(devices=devices, messages=messages, connections=3, spread=spread)
            shares = [list(plan.numbers(connection)) for connection in range(3)]
            assert sorted(n for share in shares for n in share) == list(range(messages))
            assert [len(share) for share in shares] == [plan.share(c) for c in range(3)]


def test_over_udp_what_is_not_answered_is_sent_again_after_half_a_second():
    seen: set[int] = set()

    def silent_at_first(number: int) -> bytes | None:
        first_time = number <= 20
        seen.add(number)
        return None if first_time else b"200 OK"

    with responding(silent_at_first) as server:
        report = run_load(LoadPlan(port=server.port, transport="udp", messages=20, connections=1, window=20))
    assert (report.answered, report.lost, report.retransmitted) == (20, 0, 20)
    assert server.bodies[20:] == server.bodies[:20]
    assert server.heads[20:] == server.heads[:20]
    assert 500 <= report.latency_ms["p50"] < 1500


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_what_is_never_answered_is_lost_by_number(transport: str):
    with responding(lambda n: None if n % 10 == 0 else b"200 OK") as server:
        plan = LoadPlan(
            port=server.port, transport=transport, messages=100, connections=1, devices=1, give_up_s=0.4
        )
        report = run_load(plan)
    assert (report.answered, report.lost) == (90, 10)
    assert report.unanswered == tuple(range(9, 100, 10))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_answer_that_comes_twice_counts_once(transport: str):
    with responding(copies=2) as server:
        report = run_load(LoadPlan(port=server.port, transport=transport, messages=300))
    assert (report.answered, report.other, report.lost) == (300, {}, 0)


def test_other_answers_are_counted_by_status():
    with responding(lambda n: b"503 Service Unavailable" if n <= 3 else b"200 OK") as server:
        report = run_load(LoadPlan(port=server.port, messages=50, devices=1, connections=1))
    assert (report.answered, report.other, report.lost) == (47, {503: 3}, 0)
    assert report.unanswered == (0, 1, 2)


def test_a_broken_tcp_connection_is_opened_again_and_unanswered_messages_are_lost():
    with responding(hang_up_after=100) as server:
        plan = LoadPlan(port=server.port, messages=450, devices=1, connections=1, window=8)
        report = run_load(plan)
    assert report.answered + report.lost == 450
    assert report.reconnected >= 4
    assert 0 < report.lost <= 5 * 8
    assert len(report.unanswered) == report.lost
    answered = set(range(450)) - set(report.unanswered)
    assert {plan.batch(n) for n in answered} <= {row(body) for body in server.bodies}


def test_nobody_there_leaves_everything_unsent():
    with responding() as server:
        port = server.port
    report = run_load(LoadPlan(port=port, messages=50, give_up_s=0.3))
    assert (report.answered, report.unsent) == (0, 50)
    assert len(report.unanswered) == 50


def test_no_more_than_the_window_is_open():
    unanswered: list[int] = []

    def watch(number: int) -> bytes | None:
        unanswered.append(number)
        return b"200 OK" if number > 5 else None

    with responding(watch) as server:
        report = run_load(
            LoadPlan(port=server.port, messages=40, devices=1, connections=1, window=5, give_up_s=0.5)
        )
    assert report.lost == 5
    assert server.arrived_at[5] - server.arrived_at[4] >= 0.3


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_an_offered_rate_is_kept(transport: str):
    with responding() as server:
        report = run_load(LoadPlan(port=server.port, transport=transport, messages=500, rate=1000))
    assert report.answered == 500
    assert 0.45 <= report.elapsed_s < 2
    assert server.arrived_at[499] - server.arrived_at[0] > 0.3


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_what_is_late_is_left_out_by_number(transport: str):
    with responding(lambda number: None) as server:
        report = run_load(
            LoadPlan(
                port=server.port, transport=transport, messages=2000, rate=2000, window=5, connections=1,
                devices=1, give_up_s=0.4, late_s=0.2,
            )
        )  # fmt: skip
    assert report.lost + report.unsent == 2000
    assert report.unsent > report.lost > 0, "a window of five is full at once"
    assert report.unanswered == tuple(range(2000))


def test_several_processes_send_one_plan():
    with responding() as server:
        plan = LoadPlan(port=server.port, messages=600, devices=4, connections=4, processes=2)
        report = run_load(plan)
    assert report.answered == 600
    assert {row(body) for body in server.bodies} == set(plan.batches())


def test_the_command_prints_its_report_and_says_by_its_exit_code_whether_all_was_answered():
    command = [sys.executable, "-m", "reference_client.load_generator", "--json", "--messages", "100"]
    with responding() as server:
        done = subprocess.run(
            [*command, "--server", f"127.0.0.1:{server.port}"], cwd=ROOT, capture_output=True, check=False
        )
        report = json.loads(done.stdout)
        assert done.returncode == 0
        assert (report["messages"], report["answered"]) == (100, 100)
    failed = subprocess.run(
        [*command, "--server", f"127.0.0.1:{server.port}", "--give-up", "0.2"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert failed.returncode == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"transport": "sctp"},
        {"connections": 9},
        {"processes": 5},
        {"rate": 0},
        {"format": "xml"},
        {"start": 1},
    ],
)
def test_a_plan_that_cannot_be_sent_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValueError, match="cannot be sent"):
        LoadPlan(**wrong)  # type: ignore[arg-type]
