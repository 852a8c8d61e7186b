"""Thousands of rows of one partition as one BATCH request, with rows that were encoded beforehand.

The driver encodes a statement's values one by one, each with its length, which is the largest part of the
cost of sending a row. Here a row is passed as the bytes that the request contains (native protocol, version
4, section 4.1.7). The driver does everything else: connections, routing, retries.

It hooks into the driver in two places: ``EncodedBatch`` is a statement for ``Session.execute_async``, and
``Protocol`` must be the session's ``client_protocol_handler``.
"""

from __future__ import annotations

import copy
import io
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from cassandra import protocol, query

_SHORT = struct.Struct(">H")
_PREPARED = b"\x01"
_EMPTY = 3
"""Bytes of a batch's type and of its number of statements."""


class EncodedRows(NamedTuple):
    """Rows of one partition, applied as one: all or none."""

    partition: tuple[bytes, ...]
    """The values of the partition key, as the protocol encodes them."""
    parameters: Sequence[bytes]
    """For each row, the number of values (16 bits), then each value preceded by its length (32 bits)."""


class _Parameters(tuple[bytes, ...]):
    """Marks the driver's batch message as an encoded one."""


class EncodedBatch(query.BatchStatement):  # type: ignore[misc]
    """A statement for ``execute_async``."""

    def __init__(self, prepared: Any, rows: EncodedRows, keyspace: str) -> None:
        """``prepared`` is the statement of each row."""
        super().__init__(batch_type=query.BatchType.UNLOGGED)
        self.is_idempotent = True
        self.keyspace = keyspace
        self.routing_key = rows.partition
        head = _PREPARED + _SHORT.pack(len(prepared.query_id)) + prepared.query_id
        self._statements_and_parameters = _Parameters(head + one for one in rows.parameters)


class Protocol(protocol.ProtocolHandler):  # type: ignore[misc]
    """The driver's protocol handler, extended by ``EncodedBatch``."""

    @classmethod
    def encode_message(cls, msg: Any, *how: Any, **more: Any) -> Any:
        """The frame of one request."""
        if isinstance(getattr(msg, "queries", None), _Parameters):
            msg = _EncodedBatchMessage(msg)
        return super().encode_message(msg, *how, **more)


class _EncodedBatchMessage:
    """The driver's message for an ``EncodedBatch``: the body of an empty batch, with the rows put in."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self.opcode, self.custom_payload, self.tracing = (
            message.opcode,
            message.custom_payload,
            message.tracing,
        )

    def send_body(self, file: Any, version: int) -> None:
        """Write the body; the same message may be sent to another node at the same time."""
        rows, empty, around = self._message.queries, copy.copy(self._message), io.BytesIO()
        empty.queries = ()
        empty.send_body(around, version)
        body = around.getvalue()
        file.write(b"".join((body[:1], _SHORT.pack(len(rows)), *rows, body[_EMPTY:])))
