"""Rows of one partition as one BATCH request whose rows were encoded ahead: for rows by the thousand.

The driver takes a statement's values one by one, and writes each of them with its length: of what a row
costs until it is on its way, that is the largest part. Here a row comes as the bytes that the request has
of it (native protocol, version 4, section 4.1.7); the driver does all else: connections, routing, retries.

It enters the driver at two places: ``EncodedBatch`` is a statement for ``Session.execute_async``, and
``Protocol`` has to be the session's ``client_protocol_handler``.
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
"""Bytes of a batch's type and number of statements."""


class EncodedRows(NamedTuple):
    """Rows of one partition: applied as one, all or none."""

    partition: tuple[bytes, ...]
    """The partition key's values as the protocol has them."""
    parameters: Sequence[bytes]
    """Of each row: the number of values as 16 bits; each value with its length in 32 bits before it."""


class _Parameters(tuple[bytes, ...]):
    """How the driver's batch message tells that it is one of these."""


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
    """The driver's own, which knows ``EncodedBatch`` too."""

    @classmethod
    def encode_message(cls, msg: Any, *how: Any, **more: Any) -> Any:
        """One request's frame."""
        if isinstance(getattr(msg, "queries", None), _Parameters):
            msg = _EncodedBatchMessage(msg)
        return super().encode_message(msg, *how, **more)


class _EncodedBatchMessage:
    """The driver's message of an ``EncodedBatch``: an empty batch's body, and the rows in it."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self.opcode, self.custom_payload, self.tracing = (
            message.opcode,
            message.custom_payload,
            message.tracing,
        )

    def send_body(self, file: Any, version: int) -> None:
        """Write the body; another node may be sent the same message meanwhile."""
        rows, empty, around = self._message.queries, copy.copy(self._message), io.BytesIO()
        empty.queries = ()
        empty.send_body(around, version)
        body = around.getvalue()
        file.write(b"".join((body[:1], _SHORT.pack(len(rows)), *rows, body[_EMPTY:])))
