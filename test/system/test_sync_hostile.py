"""Peers that stall, flood, lie or pretend: each loses its own connection, and nobody else's."""

from __future__ import annotations

import hashlib
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from sync_meter import MemoryMeter, stored_samples, waveform
from sync_process import RawPeer, SyncProcess, an_hour_ago, wait_for

from ec_server.synchronization.frames import Answer, Samples

DEVICE, KEY = "meter-7", bytes(range(32))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SyncProcess]:
    devices = tmp_path / "devices.ini"
    devices.write_text(f"[{DEVICE}]\nkey = {KEY.hex()}\n[liar]\n[flooder]\n[bomber]\n[endless]\n")
    process = SyncProcess(tmp_path, devices_file=str(devices)).start()
    yield process
    assert process.stop() == 0, process.log()


@pytest.fixture
def good(server: SyncProcess) -> Iterator[Callable[[], None]]:
    """A good meter, connected all the time; called at the end, it checks that nothing happened to it."""
    start = an_hour_ago()
    recorded = MemoryMeter({start + s: waveform(start + s, 100) for s in range(120)})
    meter = server.meter(DEVICE, recorded, key=KEY)
    meter.start()
    wait_for(lambda: meter.rounds == 1, "the good meter's round")

    def is_well() -> None:
        code, report, said = server.audit(DEVICE, start, start + 120)
        assert code == 0, (report, said)
        assert meter.rounds == 1, "its connection was lost"
        with server.store() as store:
            assert stored_samples(store, DEVICE, start, start + 120) == recorded.seconds

    yield is_well
    meter.stop()


def memory_mb(server: SyncProcess) -> float:
    assert server.process is not None
    rss: int = psutil.Process(server.process.pid).memory_info().rss
    return rss / 2**20


def answer_until_asked_for_samples(peer: RawPeer, minute_text: str, second_text: str) -> dict[str, Any]:
    """Claim one sample in one second; the request for it."""
    md5 = "0" * 32
    line = f"{second_text[8:]},1,{md5}\n"
    whole = hashlib.md5(line.encode()).hexdigest()
    while True:
        frame = peer.line()
        assert frame is not None
        if frame["type"] == "minutes":
            asked = frame["from"] <= minute_text < frame["to"]
            digests: list[Any] = [[minute_text, 1, whole]] if asked else []
        elif frame["type"] == "seconds":
            digests = [[second_text, 1, md5]]
        else:
            return frame
        peer.send({"type": frame["type"], "id": frame["id"], "digests": digests})


def lie_about(second: int) -> Callable[[Answer], Answer]:
    """Other samples than the digests say, for one second."""

    def distort(answer: Answer) -> Answer:
        if isinstance(answer, Samples) and answer.count and answer.second == second:
            other = MemoryMeter({answer.second: {7: "1"}})
            digest, payload = other.packed(answer.second) or (None, b"")
            assert digest is not None
            return Samples(answer.id, answer.second, 1, digest.md5, True, len(payload), payload)
        return answer

    return distort


def test_one_bad_second_costs_its_minute_only_and_the_connection_stays(
    server: SyncProcess, good: Callable[[], None]
) -> None:
    start = an_hour_ago()
    recorded = MemoryMeter({start + s: waveform(start + s, 100) for s in range(180)})
    liar = server.meter("liar", recorded, distort=lie_about(start + 65))
    liar.start()
    wait_for(lambda: liar.rounds, "the liar's round")
    assert liar.verified is not None
    assert (liar.verified.through, liar.verified.unresolved) == (start + 60, 1)
    assert liar.verified.repaired == 179
    assert "[liar] minute" in server.log()
    assert "digest_mismatch" in server.log()
    code, report, _ = server.audit("liar", start, start + 180)
    assert report is not None
    assert [m["state"] for m in report["minutes"]] == ["proven", "unresolved", "proven"]
    assert "digest_mismatch" in report["minutes"][1]["fault"]
    assert code == 1
    assert liar.rounds == 1, "its connection was lost"
    liar.stop()
    with server.store() as store:
        stored = stored_samples(store, "liar", start, start + 180)
        assert stored == {s: v for s, v in recorded.seconds.items() if s != start + 65}
    assert server.figures()["protocol_errors"] == 0
    wait_for(lambda: server.figures()["contradictions"] == 2, "the figure")
    good()


class TestEachLosesItsOwnConnection:
    def test_one_that_claims_another_s_id_without_its_key(
        self, server: SyncProcess, good: Callable[[], None]
    ) -> None:
        for proof in ("00" * 32, KEY.hex(), "ff"):
            impostor = server.connect()
            assert (impostor.hello(DEVICE) or {})["type"] == "challenge"
            impostor.send({"type": "auth", "mac": proof})
            assert impostor.error() == "wrong_key"
        hasty = server.connect()
        hasty.send(b'{"type":"hello","protocol":1,"device":"meter-7"}\n{"type":"auth","mac":"00"}\n')
        assert hasty.error() == "not_allowed_now"
        wait_for(lambda: server.figures()["rejected_connections"] == 4, "the figure")
        good()

    def test_one_that_sends_a_line_without_end(self, server: SyncProcess, good: Callable[[], None]) -> None:
        before = memory_mb(server)
        for _ in range(5):
            endless = server.connect()
            with suppress(OSError):
                for _ in range(400):
                    endless.send(b"x" * 65_536)
            endless.close()
        assert "line_too_long" in server.log()
        assert memory_mb(server) < before + 20
        good()

    def test_one_that_sends_a_pong_nobody_asked_for(
        self, server: SyncProcess, good: Callable[[], None]
    ) -> None:
        peer = server.connect()
        peer.hello("flooder")
        peer.send(b'{"type":"pong"}\n')
        assert peer.error() == "not_asked_for"
        wait_for(lambda: server.figures()["protocol_errors"] == 1, "the figure")
        good()

    @pytest.mark.parametrize("kind", ["ping", "pong", "minutes"])
    def test_one_that_says_anything_but_hello_first(
        self, server: SyncProcess, good: Callable[[], None], kind: str
    ) -> None:
        peer = server.connect()
        peer.send({"type": kind, "id": 1, "digests": []})
        assert peer.error() == "not_allowed_now"
        wait_for(lambda: server.figures()["rejected_connections"] == 1, "the figure")
        good()

    def test_one_that_sends_codes_of_its_own_does_not_use_up_the_log_of_the_others(
        self, server: SyncProcess, good: Callable[[], None]
    ) -> None:
        for number in range(300):
            peer = server.connect()
            peer.send({"type": "error", "code": f"storage{number}", "message": "x"})
            peer.close()
        wait_for(lambda: server.figures()["connections_total"] >= 301, "all of them")
        assert server.log().count("the peer ended: storage") <= 10
        peer = server.connect()
        peer.send(b"nonsense\n")
        assert peer.error() == "bad_json"
        wait_for(lambda: "ended: bad_json" in server.log(), "the line of another kind")
        good()

    def test_one_that_floods_with_pings(self, server: SyncProcess, good: Callable[[], None]) -> None:
        flooder = server.connect()
        flooder.hello("flooder")
        with suppress(OSError):
            flooder.send(b'{"type":"ping"}\n' * 20_000)
        assert flooder.error() == "flood"
        good()

    def test_one_that_sends_answers_nobody_asked_for(
        self, server: SyncProcess, good: Callable[[], None]
    ) -> None:
        for line in (
            {"type": "minutes", "id": 99, "digests": []},
            {"type": "samples", "id": 1, "second": "20260301120000", "count": 1}
            | {"md5": "0" * 32, "encoding": "plain", "length": 16 * 2**20},
        ):
            peer = server.connect()
            peer.hello("liar")
            peer.send(line)
            assert peer.error() == "not_asked_for"
            peer.close()
        good()

    def test_one_whose_payload_unpacks_to_more_than_is_allowed(
        self, server: SyncProcess, good: Callable[[], None]
    ) -> None:
        before = memory_mb(server)
        minute = time.strftime("%Y%m%d%H%M", time.gmtime(an_hour_ago()))
        bomb = zlib.compress(bytes(400 * 2**20), 9)
        for _ in range(3):
            peer = server.connect()
            peer.hello("bomber", oldest=minute)
            request = answer_until_asked_for_samples(peer, minute, minute + "00")
            fields = {"type": "samples", "id": request["id"], "second": request["second"], "count": 1}
            peer.send(fields | {"md5": "0" * 32, "encoding": "zlib", "length": len(bomb)})
            peer.send(bomb)
            assert peer.error() == "payload_too_long"
            peer.close()
        assert memory_mb(server) < before + 80
        good()

    def test_one_that_resets_its_connection_in_mid_frame(
        self, server: SyncProcess, good: Callable[[], None]
    ) -> None:
        for cut in range(1, 40, 3):
            peer = server.connect()
            peer.send(b'{"type":"hello","protocol":1,"device":"liar"}\n'[:cut])
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
        wait_for(lambda: server.figures()["connections"] == 1, "the end of all others")
        good()


def test_a_week_to_repair_does_not_delay_the_other_devices(server: SyncProcess) -> None:
    """While one meter is repaired, another that comes later is through long before it."""
    start = an_hour_ago()
    long = MemoryMeter({start + s: waveform(start + s, 3000) for s in range(600)})
    texts = {s: long.packed(s) for s in long.seconds}
    long.packed = texts.get  # type: ignore[method-assign]
    busy = server.meter("liar", long)
    busy.start()
    wait_for(lambda: server.figures()["seconds_repaired"] > 10, "the long repair")
    begun = time.monotonic()
    short = server.meter("flooder", MemoryMeter({start: waveform(start, 100)}))
    short.start()
    wait_for(lambda: short.rounds, "the short round")
    waited = time.monotonic() - begun
    repaired = server.figures()["seconds_repaired"]
    busy.stop()
    short.stop()
    assert repaired < 600
    assert waited < 5.0


def test_five_hundred_silent_connections_hold_up_nobody(server: SyncProcess) -> None:
    with ExitStack() as stack:
        for _ in range(500):
            stack.callback(server.connect().close)
        begun = time.monotonic()
        meter = server.meter("liar", MemoryMeter())
        meter.start()
        wait_for(lambda: meter.rounds, "a round")
        assert time.monotonic() - begun < 5
        meter.stop()


# --- memory and floods ------------------------------------------------------------------------


def announce(server: SyncProcess, device: str, length: int) -> tuple[RawPeer, dict[str, Any]]:
    """A device that lists one second, and announces a payload of it that never comes."""
    minute = time.strftime("%Y%m%d%H%M", time.gmtime(an_hour_ago()))
    peer = server.connect()
    peer.hello(device, oldest=minute)
    request = answer_until_asked_for_samples(peer, minute, minute + "00")
    fields = {"type": "samples", "id": request["id"], "second": request["second"], "count": 1}
    peer.send(fields | {"md5": "0" * 32, "encoding": "plain", "length": length})
    return peer, request


def test_payloads_of_all_connections_stay_within_their_bound_and_a_meter_gets_through(
    tmp_path: Path,
) -> None:
    server = SyncProcess(tmp_path).start()
    before = memory_mb(server)
    with ExitStack() as stack:
        for number in range(30):
            peer, _ = announce(server, f"hog-{number}", 16 * 2**20)
            stack.callback(peer.close)
            peer.socket.setblocking(False)
            with suppress(BlockingIOError):
                for _ in range(250):
                    peer.socket.send(b"x" * 65_536)
        wait_for(lambda: server.figures()["payload_bytes"] == 48 * 2**20, "the bound for large payloads")
        start = an_hour_ago()
        recorded = MemoryMeter({start + s: waveform(start + s, 1000) for s in range(60)})
        meter = server.meter("honest", recorded)
        meter.start()
        wait_for(lambda: meter.rounds, "the honest meter's round")
        meter.stop()
        assert meter.verified is not None
        assert meter.verified.unresolved == 0
        assert server.figures()["payload_waits"] >= 27
        assert memory_mb(server) < before + 64 + 60
    wait_for(lambda: server.figures()["payload_bytes"] == 0, "the memory")
    assert server.stop() == 0


def test_handshakes_of_tls_count_as_connections_and_end_at_their_deadline(tmp_path: Path) -> None:
    authority = trustme.CA()
    served = authority.issue_cert("127.0.0.1")
    served.private_key_pem.write_to_path(tmp_path / "key.pem")
    served.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server = SyncProcess(
        tmp_path, sync_tls_certificate=str(tmp_path / "cert.pem"), sync_tls_key=str(tmp_path / "key.pem")
    ).start()
    silent = server.connect()
    wait_for(lambda: server.figures()["connections"] == 1, "the connection in its figures")
    wrong = server.connect()
    wrong.send(b"GET / HTTP/1.1\r\n\r\n")
    wait_for(lambda: server.figures()["rejected_connections"] == 1, "the one that speaks no TLS")
    wait_for(lambda: server.figures()["rejected_connections"] == 2, "the silent one's deadline", 20)
    assert silent.socket.recv(10) == b""
    assert server.stop() == 0
