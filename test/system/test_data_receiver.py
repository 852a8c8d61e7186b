"""One receiver process as the launcher starts it: from SIP to rows, and each way to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest
from free_ports import free_ports
from system.receiver_process import StartReceiver, body, wait_until
from system.sip_peer import Peer

from ec_server.account.figures import RECEIVER_FIGURES, queued

DAY_S = 86_400


class TestStoring:
    def test_every_message_is_stored_or_rejected_and_accounted_for(
        self, start_receiver: StartReceiver
    ) -> None:
        receiver = start_receiver().ready()
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

    def test_a_message_is_committed_soon_after_it_came(self, start_receiver: StartReceiver) -> None:
        receiver = start_receiver().ready()
        with Peer("TCP", receiver.port) as peer:
            for us in range(3):
                assert peer.ask(body(us)) == 200
                began = time.monotonic()
                wait_until(lambda us=us: len(receiver.rows()) == us + 1, "committed")  # type: ignore[misc]
                assert time.monotonic() - began < 2

    def test_a_device_that_is_not_in_the_devices_file_is_rejected(
        self, start_receiver: StartReceiver, tmp_path: Path
    ) -> None:
        devices = tmp_path / "devices.ini"
        devices.write_text("[meter-7]\nnetworks = 127.0.0.0/8\n[meter-8]\nnetworks = 10.0.0.0/8\n")
        receiver = start_receiver(**{"devices.file": devices}).ready()
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


class TestEnding:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_told_to_stop_it_commits_all_that_got_a_200(
        self, start_receiver: StartReceiver, number: signal.Signals
    ) -> None:
        receiver = start_receiver(**{"ingest.commit_ms": 60_000, "ingest.commit_batches": 100_000}).ready()
        with Peer("TCP", receiver.port) as peer:
            assert {peer.ask(body(us)) for us in range(100)} == {200}
            assert receiver.stop(number) == 0
        assert len(receiver.rows()) == 100
        assert receiver.state() == "stopping"
        with pytest.raises(ConnectionRefusedError):
            Peer("TCP", receiver.port)

    def test_told_to_stop_just_after_its_writer_died_it_has_another_one_settle_the_ring(
        self, start_receiver: StartReceiver
    ) -> None:
        receiver = start_receiver().ready()
        os.kill(receiver.writer(), signal.SIGSTOP)
        with Peer("TCP", receiver.port) as meter:
            assert {meter.ask(body(us)) for us in range(5)} == {200}
        os.kill(receiver.writer(), signal.SIGKILL)
        assert receiver.stop() == 0, receiver.log
        assert len(receiver.rows()) == receiver.figures()["stored"] == 5

    def test_when_the_launcher_dies_it_drains_and_ends(self, start_receiver: StartReceiver) -> None:
        receiver = start_receiver(supervised=True, **{"ingest.commit_ms": 60_000}).ready()
        with Peer("UDP", receiver.port) as peer:
            assert peer.ask(body(1)) == 200
        assert receiver.process.stdin
        receiver.process.stdin.close()
        assert receiver.ended() == 0
        assert len(receiver.rows()) == 1

    def test_started_alone_it_ignores_its_standard_input(self, start_receiver: StartReceiver) -> None:
        receiver = start_receiver().ready()
        assert receiver.process.stdin
        receiver.process.stdin.close()
        with Peer("UDP", receiver.port) as peer:
            assert peer.ask(body(1)) == 200
        assert receiver.stop() == 0

    def test_a_replacement_continues_with_the_same_figures(
        self, start_receiver: StartReceiver, tmp_path: Path
    ) -> None:
        first = start_receiver().ready()
        with Peer("UDP", first.port) as peer:
            assert peer.ask(body(1)) == 200
        assert first.stop() == 0
        second = start_receiver(**{"storage.path": first.data, "sip.port": first.port})
        second.data = first.data
        second.ready()
        with Peer("UDP", second.port) as peer:
            assert peer.ask(body(2)) == 200
        assert second.stop() == 0
        figures = second.figures()
        assert (figures["received"], figures["stored"]) == (2, 2)
        assert set(RECEIVER_FIGURES) < set(figures)


class TestRefusing:
    def test_a_port_in_use_is_reported_with_an_exit_code_of_its_own(
        self, start_receiver: StartReceiver
    ) -> None:
        (port,) = free_ports(1)
        with socket.create_server(("127.0.0.1", port)):
            receiver = start_receiver(**{"sip.port": port})
            assert receiver.ended() == 78
        assert f"127.0.0.1:{port}" in receiver.log
        with closing(receiver.page()) as page:
            state, reason = page.state()
        assert (state, "in use" in reason) == ("dead", True)

    def test_a_fault_of_the_configuration_is_exit_code_2(self, start_receiver: StartReceiver) -> None:
        receiver = start_receiver(**{"ingest.queue_batches": "many"})
        assert receiver.ended() == 2
        assert "ingest.queue_batches" in receiver.log
