"""One receiver process as the launcher starts it: from SIP to rows, and each way to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from free_ports import free_ports
from system.sip_peer import Peer

from ec_server.account.figures import RECEIVER_FIGURES, RUN_FOLDER, queued, receiver_name
from ec_server.account.worker_page import WorkerPage

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 25.0
DAY_S = 86_400


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Receiver:
    """A data_receiver.py process in a folder of its own."""

    def __init__(self, folder: Path, *, supervised: bool = False, **options: object) -> None:
        self.folder, self.data = folder, folder / "data"
        self.port = int(str(options.pop("sip.port", 0) or free_ports(1)[0]))
        given = {"sip.port": self.port, "storage.path": self.data, "storage.min_free_mb": 0, **options}
        config = folder / "config.properties"
        sections = {"sip": "SIP", "storage": "Storage", "ingest": "Ingest", "devices": "Devices"}
        config.write_text(
            "".join(f"[{sections[key.split('.')[0]]}]\n{key}={value}\n" for key, value in given.items())
        )
        self.log_path = folder / "log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "data_receiver.py"), "-c", str(config), "--worker", "3"],
                stdin=subprocess.PIPE,
                stderr=log,
                stdout=log,
                env={"PATH": "/usr/bin", **({"EC_SUPERVISED": "1"} if supervised else {})},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8")

    def page(self) -> WorkerPage:
        return WorkerPage.open(self.data / RUN_FOLDER / f"{receiver_name(3)}.page")

    def state(self) -> str:
        try:
            page = self.page()
        except (OSError, ValueError):
            return ""
        with closing(page):
            return page.state()[0] if page.pid() == self.process.pid else ""

    def reason(self) -> str:
        with closing(self.page()) as page:
            return page.state()[1]

    def writer(self) -> int:
        """Process id of the writer of the moment; 0 while there is none."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if (
                parent == self.process.pid
                and (process / "cmdline").read_bytes().find(b"ec_server.ingest") >= 0
            ):
                return int(process.name)
        return 0

    def figures(self) -> dict[str, int]:
        with closing(self.page()) as page:
            return page.figures()

    def ready(self) -> Receiver:
        wait_until(lambda: self.state() == "ready" or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.log
        return self

    def rows(self) -> list[tuple[str, str]]:
        """(device, values) of every stored row."""
        found: list[tuple[str, str]] = []
        for path in sorted(self.data.glob("ec-*.sqlite")):
            with closing(sqlite3.connect(path)) as database:
                if not database.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = 'ec_consumption'"
                ).fetchone():
                    continue  # the file is just being made
                found += database.execute("SELECT device_id, ec_consumption_values FROM ec_consumption")
        return sorted(found)

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    receivers: list[Receiver] = []

    def begin(**options: object) -> Receiver:
        folder = tmp_path / str(len(receivers))
        folder.mkdir()
        receivers.append(Receiver(folder, **options))  # type: ignore[arg-type]
        return receivers[-1]

    yield begin
    for receiver in receivers:
        receiver.clean_up()


def body(us: int, device: str = "meter-7", second: int | None = None) -> bytes:
    return f"{device}|{int(time.time()) if second is None else second}|{us:06d},{us}||".encode()


class TestStoring:
    def test_every_message_is_stored_or_rejected_and_accounted_for(
        self, start: Callable[..., Receiver]
    ) -> None:
        receiver = start().ready()
        now = int(time.time())
        good = [body(us, second=now) for us in range(20)]
        bad = [b"nonsense", body(1)[:-2], body(1, "no id"), body(1, second=now + 3 * DAY_S), b""]
        with Peer("TCP", receiver.port) as tcp, Peer("UDP", receiver.port) as udp:
            assert {tcp.ask(one) for one in (*good[:10], *bad)} == {200}
            assert {udp.ask(one) for one in (*good[10:], good[0])} == {200}
        wait_until(lambda: queued(receiver.figures()) == 0, "settled")
        figures = receiver.figures()
        assert figures["received"] == 26
        assert (figures["stored"], figures["duplicate"], figures["samples_stored"]) == (20, 1, 20)
        reasons = {
            name: number for name, number in figures.items() if name.startswith("rejected_") and number
        }
        assert reasons == {
            "rejected_no_end_mark": 3,
            "rejected_bad_device_id": 1,
            "rejected_time_too_far_ahead": 1,
        }
        assert receiver.rows() == sorted(("meter-7", f"{us:06d},{us}") for us in range(20))
        (kept,) = (receiver.data / "quarantine.jsonl").read_text("ascii").splitlines()
        assert json.loads(kept)["reason"] == "time_too_far_ahead"
        assert "rejected: bad_device_id" in receiver.log
        assert receiver.stop() == 0

    def test_a_message_is_committed_soon_after_it_came(self, start: Callable[..., Receiver]) -> None:
        receiver = start().ready()
        with Peer("TCP", receiver.port) as peer:
            for us in range(3):
                assert peer.ask(body(us)) == 200
                began = time.monotonic()
                wait_until(lambda us=us: len(receiver.rows()) == us + 1, "committed")  # type: ignore[misc]
                assert time.monotonic() - began < 2

    def test_a_device_that_is_not_on_file_is_rejected(
        self, start: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\nnetworks = 127.0.0.0/8\n[meter-8]\nnetworks = 10.0.0.0/8\n")
        receiver = start(**{"devices.file": devices}).ready()
        with Peer("UDP", receiver.port) as peer:
            for device in ("meter-7", "meter-8", "stranger"):
                assert peer.ask(body(5, device)) == 200
        wait_until(lambda: queued(receiver.figures()) == 0, "settled")
        figures = receiver.figures()
        assert (figures["stored"], figures["rejected_wrong_network"], figures["rejected_unknown_device"]) == (
            1,
            1,
            1,
        )
        assert "[stranger] rejected: unknown_device" in receiver.log


class TestFullQueue:
    def test_while_the_database_is_locked_senders_wait_the_heart_beats_and_nothing_is_lost(
        self, start: Callable[..., Receiver]
    ) -> None:
        receiver = start(**{"ingest.queue_batches": 5, "ingest.commit_batches": 5}).ready()
        with Peer("TCP", receiver.port) as peer:
            assert peer.ask(body(0)) == 200
            wait_until(lambda: len(receiver.rows()) == 1, "first row")
            (day,) = receiver.data.glob("ec-*.sqlite")
            with closing(sqlite3.connect(day, isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                for us in range(1, 40):
                    peer.send(body(us))
                wait_until(lambda: receiver.figures()["received"] >= 6, "the queue is full")
                time.sleep(0.5)  # the SIP thread stands still now, and must not look dead
                received = receiver.figures()["received"]
                assert received < 20
                with closing(receiver.page()) as page:
                    before = page.silent_for_s()
                    wait_until(lambda: page.silent_for_s() < before or before < 0.3, "a beat")
                    assert page.silent_for_s() < 3
                assert receiver.figures()["received"] == received, "nothing more was taken"
                wait_until(lambda: receiver.state() == "degraded", "degraded")
                database.execute("ROLLBACK")
            assert [peer.receive()[:11] for _ in range(39)] == ["SIP/2.0 200"] * 39
        wait_until(lambda: receiver.figures()["stored"] == 40, "all stored")
        wait_until(lambda: receiver.state() == "ready", "ready again")
        assert len(receiver.rows()) == 40
        assert receiver.stop() == 0

    def test_a_stop_with_a_database_that_stays_locked_ends_in_time_and_says_what_was_left(
        self, start: Callable[..., Receiver]
    ) -> None:
        receiver = start(**{"ingest.queue_batches": 5, "ingest.commit_batches": 5}).ready()
        with Peer("TCP", receiver.port) as peer:
            assert peer.ask(body(0)) == 200
            wait_until(lambda: len(receiver.rows()) == 1, "first row")
            (day,) = receiver.data.glob("ec-*.sqlite")
            with closing(sqlite3.connect(day, isolation_level=None)) as database:
                database.execute("BEGIN IMMEDIATE")
                for us in range(1, 40):
                    peer.send(body(us))
                wait_until(lambda: receiver.figures()["received"] >= 6, "the queue is full")
                began = time.monotonic()
                assert receiver.stop() == 1
                assert time.monotonic() - began < 18
        assert "which the next start stores" in receiver.log
        assert queued(receiver.figures()) == 5, "what is left is in the ring"


class TestHealth:
    """A receiver whose writer is not writing says so, with the reason, whatever the cause."""

    def test_a_writer_that_cannot_start_again_makes_it_degraded_until_it_can(
        self, start: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\n")
        receiver = start(**{"devices.file": devices}).ready()
        devices.write_text("[meter-7]\nnetworks = nowhere\n")
        os.kill(receiver.writer(), signal.SIGKILL)
        wait_until(lambda: receiver.state() == "degraded", "degraded")
        wait_until(lambda: "devices.ini" in receiver.reason(), "the reason")
        with Peer("UDP", receiver.port) as peer:
            assert peer.ask(body(1)) == 200
        assert queued(receiver.figures()) == 1, "what comes in is in the ring"
        devices.write_text("[meter-7]\n")
        wait_until(lambda: receiver.state() == "ready", "ready again")
        wait_until(lambda: receiver.figures()["stored"] == 1, "stored")
        assert receiver.stop() == 0

    def test_a_frozen_writer_makes_it_degraded_and_is_replaced(self, start: Callable[..., Receiver]) -> None:
        receiver = start().ready()
        frozen = receiver.writer()
        os.kill(frozen, signal.SIGSTOP)
        wait_until(lambda: receiver.state() == "degraded", "degraded")
        assert "has not answered" in receiver.reason()
        with Peer("UDP", receiver.port) as peer:
            assert peer.ask(body(1)) == 200
        wait_until(lambda: receiver.figures()["stored"] == 1, "stored by another writer")
        wait_until(lambda: receiver.state() == "ready", "ready again")
        assert receiver.writer() != frozen


class TestRing:
    def test_a_second_receiver_of_the_same_number_ends_at_once_and_harms_nothing(
        self, start: Callable[..., Receiver]
    ) -> None:
        first = start().ready()
        with Peer("TCP", first.port) as peer:
            assert peer.ask(body(0)) == 200
            second = start(**{"storage.path": first.data})
            assert second.ended() == 78
            assert f"receiver-3 is already running, as process {first.process.pid}" in second.log
            assert {peer.ask(body(us)) for us in range(1, 50)} == {200}
        wait_until(lambda: first.figures()["stored"] == 50, "all stored")
        assert first.state() == "ready"
        assert first.stop() == 0

    def test_a_damaged_ring_is_set_aside_counted_as_lost_and_the_start_goes_on(
        self, start: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\n")
        first = start(**{"devices.file": devices}).ready()
        devices.write_text("[nobody")
        os.kill(first.writer(), signal.SIGKILL)  # nothing leaves the ring from here on
        with Peer("UDP", first.port) as peer:
            assert {peer.ask(body(us)) for us in range(3)} == {200}
        first.process.kill()
        first.process.wait()
        ring = first.data / RUN_FOLDER / "receiver-3.ring"
        with ring.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xaa" * 64)
        devices.write_text("[meter-7]\n")
        second = start(**{"storage.path": first.data, "devices.file": devices})
        second.data = first.data
        second.ready()
        assert "the ring is damaged" in second.log
        with Peer("UDP", second.port) as peer:
            assert peer.ask(body(9)) == 200
        wait_until(lambda: queued(second.figures()) == 0, "settled")
        figures = second.figures()
        assert (figures["received"], figures["stored"], figures["lost"]) == (4, 1, 3)
        assert ring.with_name("receiver-3.ring.damaged").exists()
        assert second.stop() == 0

    def test_damage_while_it_runs_ends_it_and_the_next_start_goes_on(
        self, start: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\n")
        first = start(**{"devices.file": devices}).ready()
        devices.write_text("[nobody")
        os.kill(first.writer(), signal.SIGKILL)
        with Peer("UDP", first.port) as peer:
            assert peer.ask(body(1)) == 200
        with (first.data / RUN_FOLDER / "receiver-3.ring").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xaa" * 64)
        devices.write_text("[meter-7]\n")
        assert first.ended() == 1
        second = start(**{"storage.path": first.data})
        second.data = first.data
        second.ready()
        wait_until(lambda: queued(second.figures()) == 0, "settled")
        assert second.figures()["lost"] == 1


class TestEnding:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_told_to_stop_it_commits_all_that_got_a_200(
        self, start: Callable[..., Receiver], number: signal.Signals
    ) -> None:
        receiver = start(**{"ingest.commit_ms": 60_000, "ingest.commit_batches": 100_000}).ready()
        with Peer("TCP", receiver.port) as peer:
            assert {peer.ask(body(us)) for us in range(100)} == {200}
            assert receiver.stop(number) == 0
        assert len(receiver.rows()) == 100
        assert receiver.state() == "stopping"
        with pytest.raises(ConnectionRefusedError):
            Peer("TCP", receiver.port)

    def test_told_to_stop_just_after_its_writer_died_it_has_another_one_settle_the_ring(
        self, start: Callable[..., Receiver]
    ) -> None:
        receiver = start().ready()
        os.kill(receiver.writer(), signal.SIGSTOP)
        with Peer("TCP", receiver.port) as meter:
            assert {meter.ask(body(us)) for us in range(5)} == {200}
        os.kill(receiver.writer(), signal.SIGKILL)
        assert receiver.stop() == 0, receiver.log
        assert len(receiver.rows()) == receiver.figures()["stored"] == 5

    def test_when_the_launcher_dies_it_drains_and_ends(self, start: Callable[..., Receiver]) -> None:
        receiver = start(supervised=True, **{"ingest.commit_ms": 60_000}).ready()
        with Peer("UDP", receiver.port) as peer:
            assert peer.ask(body(1)) == 200
        assert receiver.process.stdin
        receiver.process.stdin.close()
        assert receiver.ended() == 0
        assert len(receiver.rows()) == 1

    def test_started_alone_it_ignores_its_standard_input(self, start: Callable[..., Receiver]) -> None:
        receiver = start().ready()
        assert receiver.process.stdin
        receiver.process.stdin.close()
        with Peer("UDP", receiver.port) as peer:
            assert peer.ask(body(1)) == 200
        assert receiver.stop() == 0

    def test_a_replacement_goes_on_with_the_same_figures(
        self, start: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        first = start().ready()
        with Peer("UDP", first.port) as peer:
            assert peer.ask(body(1)) == 200
        assert first.stop() == 0
        second = start(**{"storage.path": first.data, "sip.port": first.port})
        second.data = first.data
        second.ready()
        with Peer("UDP", second.port) as peer:
            assert peer.ask(body(2)) == 200
        assert second.stop() == 0
        figures = second.figures()
        assert (figures["received"], figures["stored"]) == (2, 2)
        assert set(RECEIVER_FIGURES) < set(figures)


class TestRefusing:
    def test_a_port_in_use_is_said_with_an_exit_code_of_its_own(self, start: Callable[..., Receiver]) -> None:
        (port,) = free_ports(1)
        with socket.create_server(("127.0.0.1", port)):
            receiver = start(**{"sip.port": port})
            assert receiver.ended() == 78
        assert f"127.0.0.1:{port}" in receiver.log
        with closing(receiver.page()) as page:
            state, reason = page.state()
        assert (state, "in use" in reason) == ("dead", True)

    def test_a_fault_of_the_configuration_is_exit_code_2(self, start: Callable[..., Receiver]) -> None:
        receiver = start(**{"ingest.queue_batches": "many"})
        assert receiver.ended() == 2
        assert "ingest.queue_batches" in receiver.log
