"""What strangers send to the SIP port: nothing of it ends, stalls, fills or misuses a receiver."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme
from system.sip_peer import Peer, Tap, request

WITHIN_S = 10.0
SUBSCRIBE = "Event: presence\r\nExpires: {}\r\nAccept: application/pidf+xml\r\n"
VALID = b"meter-7|1772366400|000000,1||"
FEW_FILES = 128
"""A receiver with so few open files takes 64 connections: room runs short at once."""

transports = pytest.mark.parametrize("transport", ["UDP", "TCP"])
streams = pytest.mark.parametrize("transport", ["TCP", "TLS"])


class Site:
    """Starts receivers, and connects peers of both kinds to them."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.authority = trustme.CA()
        self.stranger_authority = trustme.CA()
        self._cleanup = cleanup
        own = self.authority.issue_cert("127.0.0.1")
        self.files = [folder / name for name in ("certificate.pem", "key.pem", "authority.pem")]
        self.files[0].write_bytes(b"".join(blob.bytes() for blob in own.cert_chain_pems))
        own.private_key_pem.write_to_path(self.files[1])
        self.authority.cert_pem.write_to_path(self.files[2])

    def receiver(self, **options: object) -> Tap:
        given = {"transports": ["udp", "tcp", "tls"], "tls": [str(file) for file in self.files], **options}
        tap = Tap(**given)
        self._cleanup.callback(tap.stop)
        return tap.started()

    def context(self, device: str = "meter-7", *, known: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        context.check_hostname = False
        signer = self.authority if known else self.stranger_authority
        signer.issue_cert("a@device.test", common_name=device).configure_cert(context)
        return context

    def meter(self, tap: Tap, transport: str, device: str = "meter-7") -> Peer:
        context = self.context(device) if transport == "TLS" else None
        return self._cleanup.enter_context(Peer(transport, self.port(tap, transport), context=context))

    def idle(self, tap: Tap, transport: str, count: int) -> list[socket.socket]:
        port = self.port(tap, transport)
        return [
            self._cleanup.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            for _ in range(count)
        ]

    @staticmethod
    def port(tap: Tap, transport: str) -> int:
        return tap.tls_port if transport == "TLS" else tap.port


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as cleanup:
        yield Site(tmp_path, cleanup)


def is_alive_and_quick(tap: Tap) -> bool:
    """The same process answers an honest peer within a second."""
    began_s = time.monotonic()
    with Peer("UDP", tap.port) as peer:
        return peer.ask(VALID) == 200 and tap.process.poll() is None and time.monotonic() - began_s < 5


class TestSubscribe:
    def test_contacts_that_nobody_listens_on_do_not_end_the_receiver(self, site: Site) -> None:
        tap = site.receiver()
        with Peer("UDP", tap.port) as peer:
            for port in range(20_000, 20_300):
                contact = f"Contact: <sip:x@127.0.0.1:{port};transport=tcp>\r\n"
                text = request("SUBSCRIBE", b"", "UDP", local=peer.name, headers=SUBSCRIBE.format(600))
                own = f"Contact: <sip:meter@{peer.name};transport=UDP>\r\n"
                peer.socket.send(text.replace(own.encode(), contact.encode()))
                assert peer.receive().startswith("SIP/2.0 403")
        assert is_alive_and_quick(tap)

    @transports
    def test_no_contact_makes_the_receiver_dial(self, site: Site, transport: str) -> None:
        tap = site.receiver()
        with socket.create_server(("127.0.0.1", 0)) as victim, Peer(transport, tap.port) as peer:
            host, port = victim.getsockname()
            for over in ("tcp", "tls", "udp"):
                text = request(
                    "SUBSCRIBE", b"", transport, local=f"{host}:{port}", headers=SUBSCRIBE.format(600)
                )
                contact = f";transport={transport}>".encode()
                peer.socket.sendall(text.replace(contact, f";transport={over}>".encode(), 1))
                peer.receive()
            assert is_alive_and_quick(tap)
            victim.settimeout(0)
            with pytest.raises(BlockingIOError):
                victim.accept()

    @transports
    @pytest.mark.parametrize(
        "headers",
        [
            "Event: presence\r\nExpires:\r\n 0\r\n",
            "Event: presence\r\nExpires: 4294967296\r\n",
            "Event: presence\r\nExpires: 0\r\nExpires: 600\r\n",
            "Event: presence\r\nExpires : 000\r\n",
            "o: presence\r\nexpires:\t0\r\n",
        ],
    )
    def test_no_way_of_writing_0_gets_past(self, site: Site, transport: str, headers: str) -> None:
        tap = site.receiver()
        for _ in range(5):
            with Peer(transport, tap.port) as peer:
                assert peer.ask(method="SUBSCRIBE", headers=headers) in (400, 481)
                assert peer.hears_nothing(0.05), "no NOTIFY follows"
        assert is_alive_and_quick(tap)

    def test_a_source_from_which_no_device_may_send_is_told_nothing(self, site: Site) -> None:
        tap = site.receiver(network="10.")
        with Peer("UDP", tap.port) as peer:
            assert peer.ask(method="SUBSCRIBE", headers=SUBSCRIBE.format(600)) == 403


class TestAnswers:
    @transports
    def test_they_go_to_the_source_whatever_via_says(self, site: Site, transport: str) -> None:
        tap = site.receiver()
        with ExitStack() as stack:
            victim = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            victim.bind(("127.0.0.2", 0))
            host, port = victim.getsockname()
            peer = stack.enter_context(Peer(transport, tap.port))
            text = request("MESSAGE", VALID, transport, local=peer.name)
            for parameters in (f";maddr={host};received={host};rport={port}", f";rport;maddr={host}"):
                peer.socket.sendall(text.replace(b";rport", parameters.encode()))
                assert peer.receive().startswith("SIP/2.0 200")
            peer.socket.sendall(
                text.replace(
                    b"Max-Forwards", f"Record-Route: <sip:{host}:{port};lr>\r\nMax-Forwards".encode()
                )
            )
            assert peer.receive().startswith("SIP/2.0 200")
            victim.settimeout(0)
            with pytest.raises(BlockingIOError):
                victim.recv(100)

    def test_without_rport_the_port_is_that_of_the_via_at_the_source_address(self, site: Site) -> None:
        tap = site.receiver()
        with Peer("UDP", tap.port) as peer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            other.settimeout(WITHIN_S)
            via = f"victim.example.org:{other.getsockname()[1]}"
            text = request("MESSAGE", VALID, "UDP", local=peer.name)
            peer.socket.send(text.replace(f"{peer.name};rport".encode(), via.encode(), 1))
            assert other.recv(4000).startswith(b"SIP/2.0 200 OK")
            assert peer.hears_nothing(0)

    @pytest.mark.parametrize("name", ["slow.example.org", "a.invalid", "localhost"])
    def test_no_name_is_looked_up(self, site: Site, name: str) -> None:
        tap = site.receiver()
        with Peer("UDP", tap.port) as peer:
            text = request("MESSAGE", VALID, "UDP", local=peer.name)
            for _ in range(20):
                peer.socket.send(text.replace(b";rport", f";rport;maddr={name}".encode()))
                assert peer.receive().startswith("SIP/2.0 200")
                peer.socket.send(
                    request("SUBSCRIBE", b"", "UDP", local=f"{name}:5060", headers=SUBSCRIBE.format(600))
                )
                assert peer.receive().startswith("SIP/2.0 403")
        assert is_alive_and_quick(tap)

    @transports
    def test_other_methods_are_refused_and_nothing_is_kept_of_them(self, site: Site, transport: str) -> None:
        tap = site.receiver()
        with Peer(transport, tap.port) as peer:
            before = memory_bytes(tap)
            for _ in range(300):
                for method in ("OPTIONS", "REGISTER", "INVITE", "PUBLISH", "REFER"):
                    assert peer.ask(method=method, headers="") == 405
            assert memory_bytes(tap) < before + (8 << 20)

    @transports
    def test_multipart_bodies_are_refused_unread(self, site: Site, transport: str) -> None:
        tap = site.receiver()
        with Peer(transport, tap.port) as peer:
            for body in (
                b"--x",
                b"--x\r\n",
                b"--x\r\nContent-Type: a/b",
                b"\r\n--x--",
                b"--x\r\n\r\n--x--\r\n--x",
            ):
                assert peer.ask(body, headers="Content-Type: multipart/mixed;boundary=x\r\n") == 415
        assert is_alive_and_quick(tap)


class TestConnections:
    @streams
    def test_300_idle_ones_do_not_keep_a_meter_out(self, site: Site, transport: str) -> None:
        tap = site.receiver()
        site.idle(tap, transport, 300)
        began_s = time.monotonic()
        assert site.meter(tap, transport).ask(VALID) == 200
        assert time.monotonic() - began_s < WITHIN_S

    @streams
    def test_above_the_limit_connections_that_never_carried_a_message_are_closed(
        self, site: Site, transport: str
    ) -> None:
        tap = site.receiver(files=FEW_FILES)
        first = site.meter(tap, transport)
        assert first.ask(VALID) == 200
        idle = site.idle(tap, transport, 300)
        began_s = time.monotonic()
        second = site.meter(tap, transport)
        assert second.ask(VALID) == 200
        assert time.monotonic() - began_s < WITHIN_S
        assert first.ask(VALID) == 200, "a meter that was in stays in"
        assert idle[0].recv(1) == b"", "the oldest idle one has been closed"
        tap.wait_for_log("there are too many")

    def test_if_all_carry_messages_the_longest_silent_is_closed(self, site: Site) -> None:
        tap = site.receiver(files=FEW_FILES)
        meters = []
        for _ in range(FEW_FILES - 64):
            meters.append(site.meter(tap, "TCP"))
            assert meters[-1].ask(VALID) == 200
        assert {meter.ask(VALID) for meter in meters[:10]} == {200}
        assert site.meter(tap, "TCP").ask(VALID) == 200
        assert meters[10].receive() == ""
        assert {meter.ask(VALID) for meter in meters[:10]} == {200}

    @pytest.mark.parametrize("body", [b"invented|1772366400|000000,1||", b"meter-7|1772366400|nothing||"])
    def test_a_message_of_no_device_that_may_send_or_without_samples_proves_nothing(
        self, site: Site, body: bytes
    ) -> None:
        tap = site.receiver(files=FEW_FILES, devices=["meter-7"])
        honest = site.meter(tap, "TCP")
        assert honest.ask(VALID) == 200
        for _ in range(FEW_FILES):
            assert site.meter(tap, "TCP").ask(body) == 200
        assert site.meter(tap, "TCP").ask(VALID) == 200
        assert honest.ask(VALID) == 200

    def test_a_head_that_never_ends_fills_nothing(self, site: Site) -> None:
        tap = site.receiver()
        before = memory_bytes(tap)
        for _ in range(50):
            with Peer("TCP", tap.port) as peer, suppress(OSError):
                for _ in range(100):
                    peer.socket.sendall(b"X-Header: " + b"x" * 10_000)
        assert is_alive_and_quick(tap)
        assert memory_bytes(tap) < before + (16 << 20)
        tap.wait_for_log("more than 4,000 bytes")

    @pytest.mark.parametrize(
        "text",
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\n",
            b"MESSAGE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n\r\n",
            b"MESSAGE sip:a@b SIP/2.0\r\nContent-Length: -1\r\n\r\n",
        ],
    )
    def test_a_stream_whose_next_message_cannot_be_found_ends(self, site: Site, text: bytes) -> None:
        tap = site.receiver()
        with Peer("TCP", tap.port) as peer:
            peer.socket.sendall(text)
            assert peer.receive() == ""


class TestTls:
    def test_hundreds_of_failing_handshakes_end_nothing(self, site: Site) -> None:
        tap = site.receiver()
        meter = site.meter(tap, "TLS")
        assert meter.ask(VALID) == 200
        for _ in range(20):
            with ExitStack() as burst:
                garbage = [
                    burst.enter_context(socket.create_connection(("127.0.0.1", tap.tls_port), 20))
                    for _ in range(25)
                ]
                for one in garbage:
                    with suppress(OSError):
                        one.sendall(os.urandom(200))
        stranger = site.context(known=False)
        for _ in range(20):
            with suppress(OSError), Peer("TLS", tap.tls_port, context=stranger) as peer:
                assert peer.ask(VALID) != 200
        assert meter.ask(VALID) == 200
        assert site.meter(tap, "TLS").ask(VALID) == 200
        assert is_alive_and_quick(tap)

    def test_a_connection_does_not_inherit_the_name_of_the_one_before_at_its_address(
        self, site: Site
    ) -> None:
        tap = site.receiver()
        names = []
        source = None
        for device in ("meter-7", "meter-8", "meter-9"):
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT
            plain.settimeout(20)
            plain.bind(source or ("127.0.0.1", 0))
            source = plain.getsockname()
            plain.connect(("127.0.0.1", tap.tls_port))
            with site.context(device).wrap_socket(plain) as one:
                one.sendall(request("MESSAGE", VALID, "TLS"))
                assert one.recv(4000).startswith(b"SIP/2.0 200 OK")
            names.append(tap.next()["peer_name"])
        assert names == ["meter-7", "meter-8", "meter-9"]


def memory_bytes(tap: Tap) -> int:
    pages = int(Path(f"/proc/{tap.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
