"""The sync server as a process, meters over real sockets, a real database."""

from __future__ import annotations

import random
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from foreign_sqlite import by_hand
from sync_meter import MemoryMeter, batch, stored_samples, waveform
from sync_process import RawPeer, SyncProcess, an_hour_ago, wait_for

from reference_client.sync_answerer import SyncAnswerer
from utilities.model import MinuteState
from utilities.utc import ec_date, ec_time, minute_text

DEVICE = "meter-7"
KEY = bytes(range(32))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., SyncProcess]]:
    """Starts sync servers with options, and stops them at the end."""
    started: list[SyncProcess] = []

    def start(**options: str) -> SyncProcess:
        started.append(SyncProcess(tmp_path, **options))
        return started[-1].start()

    yield start
    for server in started:
        assert server.stop() == 0, server.log()


@pytest.fixture
def meters() -> Iterator[Callable[[SyncAnswerer], SyncAnswerer]]:
    """Starts meters, and stops them at the end."""
    with ExitStack() as stack:

        def start(meter: SyncAnswerer) -> SyncAnswerer:
            meter.start()
            stack.callback(meter.stop)
            return meter

        yield start


def devices_file(folder: Path, text: str) -> str:
    path = folder / "devices.ini"
    path.write_text(text)
    return str(path)


class TestARound:
    def test_repairs_what_was_lost_altered_and_deleted_and_a_second_one_moves_nothing(
        self, run: Any, meters: Any
    ) -> None:
        start = an_hour_ago()
        meter = MemoryMeter({start + s: waveform(start + s, 880) for s in range(240)})
        server, chance = run(), random.Random(7)
        with server.store() as store:
            messages = []
            for second, samples in meter.seconds.items():
                ordered = sorted(samples)
                for at in range(0, len(ordered), 44):
                    message = {us: samples[us] for us in ordered[at : at + 44]}
                    if start + 60 <= second < start + 120 or chance.random() < 0.05:
                        continue
                    messages += [batch(DEVICE, second, message)] * (2 if chance.random() < 0.01 else 1)
            chance.shuffle(messages)
            for day in {ec_date(b.second) for b in messages}:
                store.ingest([b for b in messages if ec_date(b.second) == day])
            store.note_devices({DEVICE: start * 1_000_000})
        altered, deleted = start + 7, start + 200
        nine = "UPDATE ec_consumption SET ec_consumption_values = replace(ec_consumption_values, ',', ',9')"
        for second, change in ((altered, nine), (deleted, "DELETE FROM ec_consumption")):
            by_hand(
                server.data / f"ec-{ec_date(second)}.sqlite",
                f"{change} WHERE device_id = '{DEVICE}' AND ec_time = '{ec_time(second)}'",
            )
        with server.store() as store:
            before = stored_samples(store, DEVICE, start, start + 240)
        wrong = len(before[altered])
        missing = sum(len(s) for s in meter.seconds.values()) - sum(len(s) for s in before.values())

        connected = meters(server.meter(DEVICE, meter))
        wait_for(lambda: connected.rounds >= 1, "a round")
        first = connected.verified
        assert first is not None
        sent = connected.samples_sent
        connected.cut()
        wait_for(lambda: connected.rounds == 2, "another round")

        with server.store() as store:
            assert stored_samples(store, DEVICE, start, start + 240) == meter.seconds
            assert all(r.state is MinuteState.PROVEN for r in store.minutes(DEVICE, start, start + 240))
            record = store.device(DEVICE)
            assert record is not None
            assert record.conflicts == wrong
        assert (first.unresolved, first.extra) == (0, 0)
        assert first.repaired >= 60
        assert first.through > start + 3000
        assert missing <= sent <= 1.2 * (missing + 880)
        assert connected.samples_sent == sent
        assert f"{wrong} stored values differed" in server.log()
        figures = wait_for(
            lambda: (f := server.figures())["seconds_repaired"] == first.repaired and f, "the figures"
        )
        assert figures["value_conflicts"] == wrong
        assert figures["samples_repaired"] == missing + wrong

    def test_continues_where_it_was_after_the_server_was_killed(self, run: Any, meters: Any) -> None:
        start = an_hour_ago()
        meter = MemoryMeter({start + s: waveform(start + s, 5000) for s in range(180)})
        server = run()
        connected = meters(server.meter(DEVICE, meter))
        wait_for(lambda: server.figures()["seconds_repaired"] > 20, "some repairs")
        server.kill()
        assert connected.rounds == 0
        server.start()
        wait_for(lambda: connected.rounds, "a round")
        with server.store() as store:
            assert stored_samples(store, DEVICE, start, start + 180) == meter.seconds
        assert connected.verified is not None
        assert connected.verified.unresolved == 0
        assert connected.verified.repaired < 180

    def test_a_minute_still_being_recorded_waits_for_the_next_round(self, run: Any, meters: Any) -> None:
        start = an_hour_ago()
        meter = MemoryMeter({start + s: waveform(start + s, 10) for s in range(180)})
        meter.unfinished = start + 120
        server = run(sync_syncfreq="0.01")
        connected = meters(server.meter(DEVICE, meter))
        wait_for(lambda: connected.rounds, "a round")
        assert connected.verified is not None
        assert connected.verified.through == start + 120
        meter.unfinished = None
        wait_for(lambda: connected.verified.through > start + 3000, "the rest")
        with server.store() as store:
            assert stored_samples(store, DEVICE, start, start + 180) == meter.seconds

    def test_a_device_that_was_never_seen_and_offers_nothing_has_a_round_too(self, run: Any) -> None:
        server = run()
        peer = server.connect()
        assert peer.hello("new-one") == {"type": "welcome", "protocol": 1, "interval": 1800}
        frame = peer.line()
        while frame is not None and frame["type"] != "verified":
            peer.send({"type": frame["type"], "id": frame["id"], "digests": []})
            frame = peer.line()
        assert frame is not None
        assert frame["compared"] == frame["repaired"] == frame["unresolved"] == frame["extra"] == 0
        with server.store() as store:
            record = store.device("new-one")
            assert record is not None
            assert minute_text(record.verified_through or 0) == frame["through"]
        peer.close()

    def test_digests_of_closed_minutes_are_kept_by_the_server_itself(self, run: Any) -> None:
        start, server = an_hour_ago(), run()
        server.stop()
        with server.store() as store:
            store.ingest([batch(DEVICE, start, {0: "1"})])
            assert store.minutes_without_digest(start + 60) == [(DEVICE, start)]
        server.start()
        wait_for(lambda: server.figures()["digests_computed"] == 1, "the digest")
        with server.store() as store:
            assert store.minutes_without_digest(start + 60) == []


class TestWhoMayConnect:
    def test_a_device_that_is_not_in_the_devices_file_is_refused(self, run: Any, tmp_path: Path) -> None:
        server = run(devices_file=devices_file(tmp_path, "[meter-7]\n"))
        stranger = server.connect()
        answer = stranger.hello("meter-8")
        assert answer is not None
        assert (answer["type"], answer["code"]) == ("error", "unknown_device")
        assert stranger.line() is None
        assert server.connect().hello("meter-7") == {"type": "welcome", "protocol": 1, "interval": 1800}
        wait_for(lambda: server.figures()["rejected_connections"] == 1, "the figure")
        assert "unknown_device" in server.log()

    def test_a_device_from_another_network_is_refused(self, run: Any, tmp_path: Path) -> None:
        server = run(devices_file=devices_file(tmp_path, "[meter-7]\nnetworks = 10.0.0.0/8\n"))
        peer = server.connect()
        answer = peer.hello("meter-7")
        assert answer is not None
        assert answer["code"] == "wrong_network"

    def test_a_device_with_a_key_must_prove_it(self, run: Any, meters: Any, tmp_path: Path) -> None:
        server = run(devices_file=devices_file(tmp_path, f"[meter-7]\nkey = {KEY.hex()}\n"))
        right = meters(server.meter(DEVICE, MemoryMeter(), key=KEY))
        wait_for(lambda: right.rounds, "a round of the one with the key")
        impostor = server.connect()
        challenge = impostor.hello(DEVICE)
        assert challenge is not None
        assert challenge["type"] == "challenge"
        assert len(challenge["nonce"]) >= 32
        impostor.send({"type": "auth", "mac": "00" * 32})
        assert impostor.error() == "wrong_key"
        wait_for(lambda: server.figures()["rejected_connections"] == 1, "the figure")
        assert server.figures()["connections_total"] == 2, "the right one was cut off"

    def test_each_challenge_has_a_nonce_of_its_own(self, run: Any, tmp_path: Path) -> None:
        server = run(devices_file=devices_file(tmp_path, f"[meter-7]\nkey = {KEY.hex()}\n"))
        nonces = {(server.connect().hello(DEVICE) or {})["nonce"] for _ in range(5)}
        assert len(nonces) == 5

    def test_a_second_connection_of_a_device_replaces_the_first(self, run: Any) -> None:
        server = run()
        first, second = server.connect(), server.connect()
        first.hello(DEVICE)
        second.hello(DEVICE)
        assert first.error() == "replaced"
        second.send({"type": "ping"})
        frames = [second.line(), second.line()]
        assert {"type": "pong"} in frames

    def test_over_tls_the_certificate_carries_the_device_s_name(
        self, run: Any, meters: Any, tmp_path: Path
    ) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        served = authority.issue_cert("127.0.0.1")
        served.private_key_pem.write_to_path(tmp_path / "key.pem")
        served.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        server = run(
            sync_tls_certificate=str(tmp_path / "cert.pem"),
            sync_tls_key=str(tmp_path / "key.pem"),
            sync_tls_ca=str(tmp_path / "ca.pem"),
        )

        def shown(name: str) -> ssl.SSLContext:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            authority.issue_cert(f"{name}.example", common_name=name).configure_cert(context)
            return context

        right = meters(server.meter(DEVICE, MemoryMeter(), tls=shown(DEVICE)))
        wait_for(lambda: right.rounds, "a round over TLS")
        meters(server.meter("meter-8", MemoryMeter(), tls=shown(DEVICE)))
        wait_for(lambda: "wrong_certificate" in server.log(), "the refusal")
        nobody = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        meters(server.meter("meter-9", MemoryMeter(), tls=nobody))
        peer = server.connect()
        peer.send({"type": "hello", "protocol": 1, "device": DEVICE})
        assert peer.line() is None
        assert right.verified is not None
        with server.store() as store:
            assert [d.device_id for d in store.devices()] == [DEVICE]


class TestAnAudit:
    def test_reports_each_minute_compared_again_from_the_rows(self, run: Any, meters: Any) -> None:
        start = an_hour_ago()
        meter = MemoryMeter({start + s: waveform(start + s, 50) for s in range(180)})
        server = run()
        connected = meters(server.meter(DEVICE, meter))
        wait_for(lambda: connected.rounds, "a round")
        code, report, _ = server.audit(DEVICE, start, start + 240)
        assert report is not None
        assert [m["state"] for m in report["minutes"]] == ["proven"] * 3 + ["empty"]
        assert report["minutes"][0]["stored_samples"] == report["minutes"][0]["device_samples"] == 3000
        assert code == 0
        with server.store() as store:
            store.ingest([batch(DEVICE, start + 60, {0: "99", 1: "5"})])
        code, report, _ = server.audit(DEVICE, start, start + 180)
        assert report is not None
        found = report["minutes"][1]
        assert (found["state"], found["conflicts"], found["extra"], found["seconds_repaired"]) == (
            "proven",
            1,
            1,
            1,
        )
        assert code == 0

    def test_waits_for_the_device_and_says_so_where_it_does_not_come(self, run: Any, meters: Any) -> None:
        start, server = an_hour_ago(), run()
        code, report, said = server.audit(DEVICE, start, start + 60, timeout_s=0.5)
        assert (code, report) == (1, None)
        assert "meter-7" in said
        assert not list((server.data / "run" / "audits").iterdir())

    def test_a_minute_that_cannot_be_confirmed_or_is_open_is_exit_one(self, run: Any, meters: Any) -> None:
        start, server = an_hour_ago(), run()
        with server.store() as store:
            store.ingest([batch(DEVICE, start, {0: "1"})])
        meters(server.meter(DEVICE, MemoryMeter()))
        code, report, _ = server.audit(DEVICE, start, start + 60)
        assert code == 1
        assert report is not None
        assert report["minutes"][0]["state"] == "unconfirmable"
        now = an_hour_ago() + 3600
        code, report, _ = server.audit(DEVICE, now + 60, now + 120)
        assert code == 1
        assert report is not None
        assert report["minutes"][0]["state"] == "open"

    def test_bad_usage_is_exit_two(self, run: Any) -> None:
        server, now = run(), an_hour_ago()
        assert server.audit(DEVICE, now, now)[0] == 2
        assert server.audit(DEVICE, now, now + 32 * 86_400)[0] == 2


class TestTheProcess:
    def test_ends_with_zero_on_sigterm_and_sigint_with_meters_connected(self, run: Any, meters: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            server = run()
            connected = meters(server.meter(DEVICE, MemoryMeter()))
            wait_for(lambda c=connected: c.rounds, "a round")
            begun = time.monotonic()
            server.process.send_signal(number)
            assert server.process.wait(20) == 0
            assert time.monotonic() - begun < 10

    def test_a_port_in_use_is_reported_and_is_exit_78(self, run: Any, tmp_path: Path) -> None:
        server = run()
        (tmp_path / "other").mkdir()
        second = SyncProcess(tmp_path / "other")
        second.environ["EC_SYNC_PORT"] = str(server.port)
        with pytest.raises(AssertionError, match="address already in use"):
            second.start()
        assert second.process is not None
        assert second.process.wait(20) == 78

    def test_a_configuration_error_is_exit_two(self, tmp_path: Path) -> None:
        server = SyncProcess(tmp_path, sync_port="none")
        with pytest.raises(AssertionError, match="EC_SYNC_PORT"):
            server.start()
        assert server.process is not None
        assert server.process.wait(20) == 2


def test_one_bad_peer_harms_no_other(run: Any, meters: Any) -> None:
    start = an_hour_ago()
    meter = MemoryMeter({start + s: waveform(start + s, 100) for s in range(120)})
    server = run()
    bad = [server.connect() for _ in range(3)]
    bad[0].send(b"\0" * 70_000)
    bad[1].send(b'{"type":"hello","protocol":1,"device":"x"}\n{"type":"verified"}\n')
    connected = meters(server.meter(DEVICE, meter))
    wait_for(lambda: connected.rounds, "a round")
    assert bad[0].error() == "line_too_long"
    assert bad[1].error() in {"unknown_type", "not_allowed_now"}
    assert isinstance(bad[2], RawPeer)
    with server.store() as store:
        assert stored_samples(store, DEVICE, start, start + 120) == meter.seconds
