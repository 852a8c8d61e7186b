"""The targets of fuzzing: each takes any bytes, and raises only if a promise of the code is broken.

body    one message body: ``parse`` and the group's parser agree, and what they accept is canonical
frames  a peer of the synchronization, in both roles and in each part of a conversation
head    the head of a SIP message, and what the gate makes of it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ec_server.ingest.message_body import Limits, canonical_fault, parse
from ec_server.ingest.message_group import GroupParser
from ec_server.synchronization import frames as f
from ec_server.synchronization.session import Ended, Session
from ec_server.synchronization.wire import decode, encode, payload_length
from utilities.errors import RemoteProtocolError
from utilities.model import Batch, Digest, RawMessage, Rejection
from utilities.sip_gate import Origin, answer, answer_port, decide
from utilities.sip_request import END_OF_HEAD, read_head

NOW_S = 1_800_000_000
"""The clock of all targets; the corpus has seconds near it."""
_LIMITS = Limits()
_MOST_GROWTH_BYTES = 700
_MINUTE = NOW_S // 60 * 60
_DIGEST = Digest(3, "0123456789abcdef0123456789abcdef")
_TEXT_FILLER = b"meter-1|%d|000000,1.5;000022,-2||" % NOW_S
_BINARY_FILLER = b"meter-1|%d|" % NOW_S + b"\1\0\0\0\0\0\x80?;\2\0\0\0\0\0\0@||"


def body(data: bytes) -> None:
    """One message body, alone and among others of both kinds."""
    for cut in (False, True):
        alone = parse(data, _LIMITS, NOW_S, cut=cut)
        if isinstance(alone, Batch):
            _is_canonical(alone)
        else:
            assert isinstance(alone, Rejection)
        device = data.split(b"|", 1)[0]
        for filler in (_TEXT_FILLER, _BINARY_FILLER):
            parser = GroupParser(_LIMITS)
            known = [parse(filler, _LIMITS, NOW_S), parse(filler.replace(b"meter-1", device), _LIMITS, NOW_S)]
            group = [filler, filler.replace(b"meter-1", device), *[filler] * 6, data, filler]
            messages = [RawMessage(each, "", 0, cut=cut) for each in group]
            for _ in range(2):  # the second time the device ids are known
                found = parser.parse(messages, NOW_S)
                assert found[8] == alone, (alone, found[8])
                if not cut:
                    assert [found[0], found[1]] == known, (known, found[:2])


def _is_canonical(batch: Batch) -> None:
    assert canonical_fault(batch.values) is None, batch
    samples = batch.values.split(";")
    microseconds = [int(sample[:6]) for sample in samples]
    assert batch.count == len(samples)
    assert microseconds == sorted(set(microseconds))
    assert (batch.start_us, batch.end_us) == (microseconds[0], microseconds[-1])
    assert batch.checksum == hashlib.md5(batch.values.encode()).hexdigest()


def frames(data: bytes) -> None:
    """A line alone, then everything as what a peer sends, whole and byte by byte."""
    line = data.partition(b"\n")[0]
    for side in f.Side:
        _decode(side, line)
        for part in range(4):
            whole, bytewise = _conversation(side, part), _conversation(side, part)
            whole.receive_data(data)
            for at in range(len(data)):
                bytewise.receive_data(data[at : at + 1])
            first, second = whole.events_received(), bytewise.events_received()
            assert first == second, (side, part, first, second)
            assert sum(isinstance(event, Ended) for event in first) <= 1


def _decode(side: f.Side, line: bytes) -> None:
    try:
        frame = decode(side, line)
    except RemoteProtocolError:
        return
    if not payload_length(frame):
        assert decode(side, encode(frame)) == frame


def _conversation(side: f.Side, part: int) -> Session:
    """A side of a conversation that has come so far: 0 nothing said, 3 everything asked."""
    session, other = Session(side), Session(side.other)
    said: tuple[tuple[f.Side, tuple[f.Frame, ...]], ...] = (
        (f.Side.DEVICE, (f.Hello("meter-7", _MINUTE),)),
        (f.Side.SERVER, (f.Welcome(1800),)),
        (
            f.Side.SERVER,
            (f.AskMinutes(1, _MINUTE, _MINUTE + 120), f.AskSeconds(2, _MINUTE), f.AskSamples(3, _MINUTE + 7)),
        ),
    )
    sides = {side: session, side.other: other}
    for sender, spoken in said[:part]:
        for frame in spoken:
            sides[sender].send(frame)
        sides[sender.other].receive_data(sides[sender].data_to_send())
        sides[sender.other].events_received()
    session.data_to_send()
    return session


def head(data: bytes) -> None:
    """A SIP message from each transport: read, decided and answered."""
    found = read_head(data.partition(END_OF_HEAD)[0] + END_OF_HEAD)
    if found is None:
        return
    for transport in ("UDP", "TCP", "TLS"):
        origin = Origin("192.0.2.7", 5062, transport, "192.0.2.1:5060", "192.0.2.7:5062")
        row = decide(found, origin)
        assert 0 <= answer_port(found, origin) < 65_536
        if row.status:
            said = answer(found, origin, row)
            assert said.startswith(b"SIP/2.0 %d " % row.status)
            assert said.count(END_OF_HEAD) == 1
            assert said.endswith(END_OF_HEAD)
            assert len(said) <= len(data) + _MOST_GROWTH_BYTES


TARGETS: dict[str, Callable[[bytes], None]] = {"body": body, "frames": frames, "head": head}
