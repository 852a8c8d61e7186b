"""Rows encoded ahead make the very request that the driver makes of their values."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from cassandra import ConsistencyLevel, protocol, query

from utilities.cassandra_batch import EncodedBatch, EncodedRows, Protocol

PREPARED = SimpleNamespace(query_id=b"0123456789abcdef")
VALUES = [(b"m", b"000000,1;000022,2", struct.pack(">i", number), b"") for number in range(3)]


def encoded(values: tuple[bytes, ...]) -> bytes:
    return struct.pack(">H", len(values)) + b"".join(struct.pack(">i", len(one)) + one for one in values)


def message(queries: object) -> protocol.BatchMessage:
    return protocol.BatchMessage(
        query.BatchType.UNLOGGED, queries, ConsistencyLevel.LOCAL_QUORUM, None, 1_772_366_400_000_000
    )


@pytest.mark.parametrize("rows", [1, 3])
def test_the_frame_is_the_drivers_own(rows: int) -> None:
    batch = EncodedBatch(PREPARED, EncodedRows((b"m",), [encoded(v) for v in VALUES[:rows]]), "ks")
    ours = message(batch._statements_and_parameters)
    theirs = message([(True, PREPARED.query_id, values) for values in VALUES[:rows]])
    how = (7, 4, None, False)
    expected = protocol.ProtocolHandler.encode_message(theirs, *how)
    assert Protocol.encode_message(ours, *how) == expected
    assert Protocol.encode_message(ours, *how) == expected  # to another node
    assert Protocol.encode_message(theirs, *how) == expected  # what is no such batch stays as it is


def test_it_goes_to_the_nodes_of_its_partition() -> None:
    batch = EncodedBatch(PREPARED, EncodedRows((b"m", b"20260301"), [encoded(VALUES[0])]), "ks")
    assert batch.routing_key == b"\x00\x01m\x00\x00\x0820260301\x00"
    assert (batch.keyspace, batch.is_idempotent, len(batch)) == ("ks", True, 1)
