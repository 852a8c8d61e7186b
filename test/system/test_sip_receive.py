"""The SIP side of a receiver, in a process of its own; peers by plain sockets."""

from __future__ import annotations

import os
import re
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from free_ports import free_ports
from needs import unavailable
from system.sip_peer import Peer, Tap, request
from system.sip_registrar import Registrar

from utilities.sip_tls import NAMELESS, common_name

EVERY_BYTE = bytes(range(256)) * 3 + b"\xed\xa0\x80\xff|;||"
SUBSCRIBE = "Event: presence\r\nExpires: {}\r\nAccept: application/pidf+xml\r\n"
PACKET_LIMIT = 4000
ROOM_BYTES = 100 << 20


@pytest.fixture(scope="module")
def shared_tap() -> Iterator[Tap]:
    tap = Tap()
    yield tap.started()
    assert tap.stop() == 0


@pytest.fixture
def tap(shared_tap: Tap) -> Iterator[Tap]:
    """A receiver that has printed nothing that a test before has not read, and lives on after it."""
    assert shared_tap.process.poll() is None, "\n".join(shared_tap.log)
    yield shared_tap
    with Peer("UDP", shared_tap.port) as peer:
        mark = os.urandom(8).hex().encode()
        assert peer.ask(mark) == 200
        while shared_tap.next().get("body") != mark:
            pass


@pytest.fixture
def started() -> Iterator[Callable[..., Tap]]:
    """Start receivers that end with the test."""
    taps: list[Tap] = []

    def start(**options: object) -> Tap:
        taps.append(Tap(**options))
        return taps[-1]

    yield start
    for one in taps:
        one.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


both = pytest.mark.parametrize("transport", ["UDP", "TCP"])


class TestMessages:
    @both
    def test_every_byte_arrives_as_sent_with_its_exact_sender(self, tap: Tap, transport: str) -> None:
        with Peer(transport, tap.port) as peer:
            before_us = time.time_ns() // 1000
            assert peer.ask(EVERY_BYTE) == 200
            found = tap.next()
            assert found["body"] == EVERY_BYTE
            assert found["sender"] == peer.name
            assert (found["peer_name"], found["cut"]) == ("", False)
            assert before_us <= found["received_us"] <= time.time_ns() // 1000

    @both
    def test_300_binary_samples_fit_into_one_message(self, tap: Tap, transport: str) -> None:
        samples = b";".join([struct.pack("<if", us, -230.5) for us in range(300)])
        body = b"m" * 64 + b"|1772366400|" + samples + b"||"
        with Peer(transport, tap.port) as peer:
            assert peer.ask(body) == 200
            assert tap.next()["body"] == body

    def test_messages_may_come_many_at_once_or_byte_by_byte(self, tap: Tap) -> None:
        with Peer("TCP", tap.port) as peer:
            peer.socket.sendall(b"".join([request(body=b"m%d||" % n, local=peer.name) for n in range(50)]))
            assert [peer.receive()[:11] for _ in range(50)] == ["SIP/2.0 200"] * 50
            assert [tap.next()["body"] for _ in range(50)] == [b"m%d||" % n for n in range(50)]
            peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request(body=EVERY_BYTE[-20:], local=peer.name):
                peer.socket.sendall(bytes([byte]))
            assert peer.receive().startswith("SIP/2.0 200")
            assert tap.next()["body"] == EVERY_BYTE[-20:]

    def test_a_message_that_udp_cut_is_marked(self, tap: Tap) -> None:
        with Peer("UDP", tap.port) as peer:
            body = b"m|1772366400|" + b"000000,1;" * 440 + b"999999,1||"
            size = len(request(body=body, transport="UDP", local=peer.name))
            assert size > PACKET_LIMIT
            assert peer.ask(body) == 200
            found = tap.next()
            assert found["cut"]
            assert found["body"] == body[: PACKET_LIMIT - size]

    @pytest.mark.parametrize(("ending", "is_cut"), [(b"||", False), (b"|| ", True), (b"||\r\n", True)])
    def test_a_message_that_udp_cut_just_behind_its_end_mark_has_none(
        self, tap: Tap, ending: bytes, is_cut: bool
    ) -> None:
        with Peer("UDP", tap.port) as peer:
            head = len(request(body=b"x" * 1000, transport="UDP", local=peer.name)) - 1000
            body = b"m|1772366400|" + b"x" * (PACKET_LIMIT - head - 15) + ending
            assert peer.ask(body) == 200
            found = tap.next()
            assert (found["cut"], found["body"].rstrip().endswith(b"||")) == (is_cut, not is_cut)

    @both
    def test_a_message_just_within_the_limit_is_whole(self, tap: Tap, transport: str) -> None:
        with Peer(transport, tap.port) as peer:
            call_id = (transport * 16)[:32]
            head = len(request(body=b"", transport=transport, local=peer.name, call_id=call_id))
            body = b"x" * (PACKET_LIMIT - head - 3 - 2) + b"||"  # three more digits of Content-Length
            assert peer.ask(body, call_id=call_id) == 200
            found = tap.next()
            assert found["body"] == body
            assert not found["cut"]

    def test_beyond_the_limit_tcp_gives_no_answer_and_other_connections_go_on(self, tap: Tap) -> None:
        with Peer("TCP", tap.port) as peer, Peer("TCP", tap.port) as other:
            peer.send(b"x" * PACKET_LIMIT + b"||")
            assert peer.receive() == ""
            assert peer.name in tap.wait_for_log("more than 4,000 bytes")
            assert other.ask(b"other||") == 200
            assert tap.next()["body"] == b"other||"

    def test_a_body_that_ends_early_without_having_been_cut_is_not_marked(self, tap: Tap) -> None:
        with Peer("UDP", tap.port) as peer:
            assert peer.ask(b"m|1772366400|000000,1") == 200
            assert not tap.next()["cut"]
            assert peer.ask(b"m|1772366400|000000,1", length=100) == 200
            assert tap.next()["cut"]

    @both
    @pytest.mark.parametrize("headers", ["", "Content-Type: application/octet-stream\r\n"])
    def test_the_content_type_does_not_matter(self, tap: Tap, transport: str, headers: str) -> None:
        with Peer(transport, tap.port) as peer:
            for body in (EVERY_BYTE, b"without an end"):
                assert peer.ask(body, headers=headers) == 200
                found = tap.next()
                assert (found["body"], found["cut"]) == (body, False)

    def test_an_empty_body_is_a_message_too(self, tap: Tap) -> None:
        with Peer("UDP", tap.port) as peer:
            assert peer.ask(b"") == 200
            assert tap.next()["body"] == b""

    def test_a_retransmission_is_answered_alike_and_perhaps_taken_again(self, tap: Tap) -> None:
        with Peer("UDP", tap.port) as peer:
            answers = set()
            for _ in range(3):
                peer.send(b"once||", call_id="retransmitted")
                answers.add(peer.receive())
            assert len(answers) == 1
            assert re.search(r"^To: .*;tag=.+$", answers.pop(), re.MULTILINE)
            assert peer.ask(b"then||") == 200
            assert [tap.next()["body"] for _ in range(4)] == [b"once||"] * 3 + [b"then||"]

    @both
    @pytest.mark.parametrize(
        "garbage", [b"\r\n\r\n", b"hello\r\n\r\n", b"\0" * 100, b"MESSAGE sip: SIP/2.0\r\nVia: x\r\n\r\n"]
    )
    def test_garbage_disturbs_nobody_else(self, tap: Tap, transport: str, garbage: bytes) -> None:
        with Peer(transport, tap.port) as peer, Peer(transport, tap.port) as other:
            peer.socket.sendall(garbage)
            assert other.ask(b"other||") == 200
            assert tap.next()["body"] == b"other||"

    def test_what_goes_wrong_with_one_message_does_not_stop_the_next(self, tap: Tap) -> None:
        with Peer("TCP", tap.port) as peer:
            assert peer.ask(b"RAISE||") == 500
            tap.wait_for_log("on purpose")
            assert peer.ask(b"next||") == 200
            assert tap.next()["body"] == b"next||"

    def test_a_callback_that_waits_makes_every_sender_wait(self, tap: Tap) -> None:
        with Peer("TCP", tap.port) as first, Peer("TCP", tap.port) as second, Peer("UDP", tap.port) as third:
            first.send(b"WAIT||")
            assert tap.next()["body"] == b"WAIT||"
            for peer, body in ((first, b"1||"), (second, b"2||"), (third, b"3||")):
                peer.send(body)
            assert second.hears_nothing(0.3)
            assert first.hears_nothing(0)
            assert third.hears_nothing(0)
            tap.go_on()
            waiting = (first, second, third, first)
            assert {peer.receive()[:11] for peer in waiting} == {"SIP/2.0 200"}
            assert {tap.next()["body"] for _ in range(3)} == {b"1||", b"2||", b"3||"}

    @both
    def test_what_is_not_taken_is_not_answered(self, tap: Tap, transport: str) -> None:
        with Peer(transport, tap.port) as peer:
            peer.send(b"SHUT||")
            assert tap.next()["body"] == b"SHUT||"
            assert peer.hears_nothing(0.2)

    @both
    def test_a_message_within_a_dialog_that_nobody_has_is_refused(self, tap: Tap, transport: str) -> None:
        with Peer(transport, tap.port) as peer:
            assert peer.ask(b"within||", to_tag="nobodys") == 481

    @both
    def test_the_count_is_raised_before_a_message_is_taken(self, tap: Tap, transport: str) -> None:
        with Peer(transport, tap.port) as peer:
            counts = []
            for _ in range(3):
                assert peer.ask(b"x||") == 200
                counts.append(tap.next()["counted"])
            assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


class TestConnections:
    def test_a_peer_that_does_not_read_its_answers_is_ended_and_others_go_on(
        self, started: Callable[..., Tap]
    ) -> None:
        tap = started().started()
        with Peer("TCP", tap.port) as deaf, Peer("TCP", tap.port) as other:
            deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            many = b"".join([request(body=b"deaf||", local=deaf.name) for _ in range(200)])
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                deaf.socket.sendall(many * 1000)
            assert "does not read its answers" in tap.wait_for_log(deaf.name)
            assert other.ask(b"other||") == 200
            statm = Path(f"/proc/{tap.process.pid}/statm").read_text().split()
            assert int(statm[1]) * resource.getpagesize() < ROOM_BYTES

    def test_300_connections_are_served_at_once(self, started: Callable[..., Tap]) -> None:
        tap = started().started()
        peers = [Peer("TCP", tap.port) for _ in range(300)]
        try:
            assert {peer.ask(b"x||") for peer in peers} == {200}
        finally:
            for peer in peers:
                peer.close()

    def test_many_connections_that_come_and_go_do_not_end_the_receiver(
        self, started: Callable[..., Tap]
    ) -> None:
        tap = started().started()
        with Peer("TCP", tap.port) as stays:
            for _ in range(600):
                Peer("TCP", tap.port).close()
            assert stays.ask(b"stays||") == 200
            with Peer("TCP", tap.port) as comes:
                assert comes.ask(b"comes||") == 200
        assert tap.stop() == 0


class TestPresence:
    @both
    def test_a_subscriber_learns_that_the_server_is_open(self, tap: Tap, transport: str) -> None:
        with Peer(transport, tap.port) as peer:
            assert peer.ask(method="SUBSCRIBE", headers=SUBSCRIBE.format(600)) == 200
            notify = peer.receive()
            assert notify.startswith("NOTIFY ")
            assert "<basic>open</basic>" in notify
            copied = re.findall(r"(?m)^(?:Via|From|To|Call-ID|CSeq): .*\r\n", notify)
            peer.socket.sendall(
                ("SIP/2.0 200 OK\r\n" + "".join(copied) + "Content-Length: 0\r\n\r\n").encode()
            )

    @both
    def test_a_subscription_that_ends_at_once_is_refused(self, tap: Tap, transport: str) -> None:
        for _ in range(5):
            with Peer(transport, tap.port) as peer:
                assert peer.ask(method="SUBSCRIBE", headers=SUBSCRIBE.format(0)) == 481


class TestPorts:
    def test_two_receivers_share_a_port(self, started: Callable[..., Tap]) -> None:
        taps = [started().started()]
        taps.append(started(port=taps[0].port).started())
        bodies: list[list[bytes]] = [[], []]
        for number in range(200):
            with Peer("UDP", taps[0].port) as peer:
                assert peer.ask(b"%d||" % number) == 200
            if number > 20 and all(taps[i]._lines.qsize() for i in (0, 1)):
                break
        for i, one in enumerate(taps):
            assert one.stop() == 0
            while not one._lines.empty():
                line = one.next()
                if "body" in line:
                    bodies[i].append(line["body"])
        assert all(bodies)
        assert sorted(bodies[0] + bodies[1]) == sorted(b"%d||" % n for n in range(number + 1))

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_a_port_that_another_program_has_is_named(
        self, started: Callable[..., Tap], kind: socket.SocketKind
    ) -> None:
        (port,) = free_ports(1)
        with socket.socket(socket.AF_INET, kind) as other:
            other.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                other.listen()
            tap = started(port=port)
            assert f"127.0.0.1:{port}" in tap.wait_for_log("PortInUseError: ")

    def test_an_ipv6_address_can_be_listened_to(self, started: Callable[..., Tap]) -> None:
        try:
            free_ports(1, "::1")
        except OSError:
            unavailable("this machine has no IPv6 loopback")
        tap = started(bind="::1", public_addr="::1").started()
        for transport in ("UDP", "TCP"):
            with Peer(transport, tap.port, address="::1") as peer:
                assert peer.ask(b"six||") == 200
                assert tap.next()["sender"] == peer.name

    def test_a_public_address_may_be_a_name_that_this_machine_does_not_know(
        self, started: Callable[..., Tap]
    ) -> None:
        tap = started(public_addr="meters.invalid").started()
        with Peer("UDP", tap.port) as peer:
            assert peer.ask(b"x||") == 200
            assert peer.ask(method="SUBSCRIBE", headers=SUBSCRIBE.format(600)) == 200
            assert "<basic>open</basic>" in peer.receive()

    def test_every_address_of_the_machine_can_be_listened_to(self, started: Callable[..., Tap]) -> None:
        tap = started(bind="0.0.0.0", public_addr="127.0.0.1").started()
        for transport in ("UDP", "TCP"):
            with Peer(transport, tap.port) as peer:
                assert peer.ask(b"x||") == 200
                assert tap.next()["sender"] == peer.name

    def test_nothing_listens_after_the_stop(self, started: Callable[..., Tap]) -> None:
        tap = started().started()
        with Peer("TCP", tap.port) as peer:
            assert peer.ask(b"x||") == 200
            assert tap.stop() == 0
            with pytest.raises(ConnectionRefusedError):
                Peer("TCP", tap.port)


class TestTls:
    @pytest.fixture
    def files(self, authority: trustme.CA, tmp_path: Path) -> list[str]:
        """Certificate, key, authority: PEM files of the receiver."""
        own = authority.issue_cert("127.0.0.1")
        names = [tmp_path / name for name in ("certificate.pem", "key.pem", "authority.pem")]
        names[0].write_bytes(b"".join(blob.bytes() for blob in own.cert_chain_pems))
        own.private_key_pem.write_to_path(names[1])
        authority.cert_pem.write_to_path(names[2])
        return [str(name) for name in names]

    def context(
        self, authority: trustme.CA, device: str | None = None, signer: trustme.CA | None = None
    ) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.check_hostname = False
        if device is not None:
            own = (signer or authority).issue_cert("a@device.test", common_name=device or None)
            own.configure_cert(context)
        return context

    def test_without_an_authority_any_peer_may_come(
        self, authority: trustme.CA, files: list[str], started: Callable[..., Tap]
    ) -> None:
        tap = started(transports=["tls"], tls=files[:2]).started()
        with Peer("TLS", tap.tls_port, context=self.context(authority)) as peer:
            assert peer.ask(EVERY_BYTE) == 200
            found = tap.next()
            assert (found["body"], found["sender"], found["peer_name"]) == (EVERY_BYTE, peer.name, "")

    def test_with_an_authority_each_message_carries_the_name_of_its_peer(
        self, authority: trustme.CA, files: list[str], started: Callable[..., Tap]
    ) -> None:
        tap = started(transports=["tcp", "tls"], tls=files).started()
        with (
            Peer("TLS", tap.tls_port, context=self.context(authority, "meter-7")) as seven,
            Peer("TLS", tap.tls_port, context=self.context(authority, "meter-8")) as eight,
            Peer("TLS", tap.tls_port, context=self.context(authority, "")) as nameless,
            Peer("TCP", tap.port) as plain,
        ):
            for peer, name in (
                (seven, "meter-7"),
                (eight, "meter-8"),
                (seven, "meter-7"),
                (nameless, NAMELESS),
                (plain, ""),
            ):
                assert peer.ask(b"x||") == 200
                assert tap.next()["peer_name"] == name

    @pytest.mark.parametrize(
        ("subject", "name"),
        [
            ((), NAMELESS),
            (((("commonName", "meter-7"),),), "meter-7"),
            (((("organizationName", "A/S/CN=meter-8"),), (("commonName", "meter-7"),)), "meter-7"),
            (((("commonName", ""),),), NAMELESS),
            (((("commonName", "meter-7"),), (("commonName", "meter-8"),)), NAMELESS),
            (((("commonName", "meter-7"), ("commonName", "meter-8")),), NAMELESS),
        ],
    )
    def test_only_a_single_common_name_is_a_name(self, subject: object, name: str) -> None:
        assert common_name({"subject": subject}) == name
        assert common_name(None) == NAMELESS

    def is_refused(self, port: int, context: ssl.SSLContext) -> bool:
        """Whether a message over a connection of its own gets no answer but the connection's end."""
        try:
            with Peer("TLS", port, context=context) as peer:
                peer.send(b"x||")
                return peer.receive() == ""
        except OSError as error:
            return not isinstance(error, TimeoutError)

    @pytest.mark.parametrize("shown", ["none", "of another authority"])
    def test_with_an_authority_other_peers_get_no_answer(
        self, authority: trustme.CA, files: list[str], started: Callable[..., Tap], shown: str
    ) -> None:
        tap = started(transports=["tls"], tls=files).started()
        stranger = self.context(authority) if shown == "none" else self.context(authority, "m", trustme.CA())
        for _ in range(3):
            assert self.is_refused(tap.tls_port, stranger)
        with Peer("TLS", tap.tls_port, context=self.context(authority, "meter-7")) as peer:
            assert peer.ask(b"x||") == 200
            assert tap.next()["peer_name"] == "meter-7"

    @pytest.mark.parametrize(("which", "named"), [(0, "certificate"), (1, "key"), (2, "ca")])
    def test_a_file_that_cannot_be_read_is_a_fault_of_the_configuration(
        self, files: list[str], started: Callable[..., Tap], tmp_path: Path, which: int, named: str
    ) -> None:
        broken = tmp_path / "broken.pem"
        broken.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
        files[which] = str(broken)
        line = started(transports=["tls"], tls=files).wait_for_log("ConfigurationError: ")
        assert f"sip.tls_{named} {broken}" in line

    def test_a_key_of_another_certificate_is_a_fault_of_the_configuration(
        self, authority: trustme.CA, files: list[str], started: Callable[..., Tap]
    ) -> None:
        authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(files[1])
        tap = started(transports=["tls"], tls=files)
        assert "sip.tls_key" in tap.wait_for_log("ConfigurationError: ")


class TestRegistration:
    @pytest.fixture
    def registrar(self) -> Iterator[Registrar]:
        registrar = Registrar("server", "open sesame", failures=1)
        yield registrar
        registrar.close()

    def test_it_registers_again_after_a_failure_and_leaves_at_the_end(
        self, registrar: Registrar, started: Callable[..., Tap]
    ) -> None:
        tap = started(registration=[registrar.address, "server", "open sesame"]).started()
        first = registrar.wait_for(1)
        assert registrar.refused == 1, "the registrar was away at first"
        assert f"sip:server@127.0.0.1:{tap.port}" in first.contact
        assert first.expires > 0
        assert first.source[1] != tap.port, "the answer must not reach another receiver of the shared port"
        tap.wait_for_log("registered with")
        with Peer("UDP", tap.port) as peer:
            assert peer.ask(b"called||") == 200
            assert tap.next()["body"] == b"called||"
        assert tap.stop() == 0
        assert registrar.wait_for(2).expires == 0

    def test_a_wrong_password_is_reported_and_tried_again_while_messages_are_accepted(
        self, registrar: Registrar, started: Callable[..., Tap]
    ) -> None:
        tap = started(registration=[registrar.address, "server", "wrong"]).started()
        assert "403" in tap.wait_for_log("trying again in 4 s")
        assert registrar.granted == []
        with Peer("TCP", tap.port) as peer:
            assert peer.ask(b"x||") == 200
        assert not any("wrong" in line for line in tap.log), "a password is in the log"
