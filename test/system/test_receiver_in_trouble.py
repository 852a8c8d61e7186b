"""A receiver whose database, writer or ring is in trouble: what it says, and that nothing is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from system.receiver_process import Receiver, StartReceiver, body, wait_until
from system.sip_peer import Peer

from ec_server.account.figures import RUN_FOLDER, queued


@contextmanager
def full_queue(receiver: Receiver, peer: Peer) -> Iterator[sqlite3.Connection]:
    """The database is locked by the connection given, one row is stored, and the queue behind it is full."""
    assert peer.ask(body(0)) == 200
    wait_until(lambda: len(receiver.rows()) == 1, "first row")
    (day,) = receiver.data.glob("ec-*.sqlite")
    with closing(sqlite3.connect(day, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        for us in range(1, 40):
            peer.send(body(us))
        wait_until(lambda: receiver.figures()["received"] >= 6, "the queue is full")
        yield database


class TestFullQueue:
    def test_while_the_database_is_locked_senders_wait_the_heart_beats_and_nothing_is_lost(
        self, start_receiver: StartReceiver
    ) -> None:
        receiver = start_receiver(**{"ingest.queue_batches": 5, "ingest.commit_batches": 5}).ready()
        with Peer("TCP", receiver.port) as peer:
            with full_queue(receiver, peer) as database:
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
        self, start_receiver: StartReceiver
    ) -> None:
        receiver = start_receiver(**{"ingest.queue_batches": 5, "ingest.commit_batches": 5}).ready()
        with Peer("TCP", receiver.port) as peer, full_queue(receiver, peer):
            began = time.monotonic()
            assert receiver.stop() == 1
            assert time.monotonic() - began < 18
        assert "which the next start stores" in receiver.log
        assert queued(receiver.figures()) == 5, "what is left is in the ring"


class TestHealth:
    """A receiver whose writer is not writing says so, with the reason, whatever the cause."""

    def test_a_writer_that_cannot_start_again_makes_it_degraded_until_it_can(
        self, start_receiver: StartReceiver, tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\n")
        receiver = start_receiver(**{"devices.file": devices}).ready()
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

    def test_a_frozen_writer_makes_it_degraded_and_is_replaced(self, start_receiver: StartReceiver) -> None:
        receiver = start_receiver().ready()
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
        self, start_receiver: StartReceiver
    ) -> None:
        first = start_receiver().ready()
        with Peer("TCP", first.port) as peer:
            assert peer.ask(body(0)) == 200
            second = start_receiver(**{"storage.path": first.data})
            assert second.ended() == 78
            assert f"receiver-3 is already running, as process {first.process.pid}" in second.log
            assert {peer.ask(body(us)) for us in range(1, 50)} == {200}
        wait_until(lambda: first.figures()["stored"] == 50, "all stored")
        assert first.state() == "ready"
        assert first.stop() == 0

    def test_a_damaged_ring_is_set_aside_counted_as_lost_and_the_start_goes_on(
        self, start_receiver: StartReceiver, tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\n")
        first = start_receiver(**{"devices.file": devices}).ready()
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
        second = start_receiver(**{"storage.path": first.data, "devices.file": devices})
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

    def test_damage_while_it_runs_ends_it_and_the_next_start_continues(
        self, start_receiver: StartReceiver, tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\n")
        first = start_receiver(**{"devices.file": devices}).ready()
        devices.write_text("[nobody")
        os.kill(first.writer(), signal.SIGKILL)
        with Peer("UDP", first.port) as peer:
            assert peer.ask(body(1)) == 200
        with (first.data / RUN_FOLDER / "receiver-3.ring").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xaa" * 64)
        devices.write_text("[meter-7]\n")
        assert first.ended() == 1
        second = start_receiver(**{"storage.path": first.data})
        second.data = first.data
        second.ready()
        wait_until(lambda: queued(second.figures()) == 0, "settled")
        assert second.figures()["lost"] == 1
