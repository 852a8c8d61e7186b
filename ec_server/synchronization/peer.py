"""Moves the bytes of one connection from the socket to the conversation and back, through TLS if it is on.

server_conversation.py decides what is sent, round.py what is requested; this file only moves bytes.
Rules:

1. A peer can harm only its own connection. Its turns are short: one read of at most 64 KiB, FRAMES_AT_ONCE
   frames, then it is the turn of the others.
2. Memory is bounded: one read, one line, and payloads as payload_memory.py allows. While there is no room for
   a payload, nothing is read.
3. An ``error`` must reach the peer although it may still be sending. So the writing side is closed first, and
   what arrives is discarded for a moment: closing a socket with unread bytes would reset the connection, and
   the ``error`` would be lost.
4. A connection counts towards the limits from its start, before TLS; the deadline of the handshake includes
   TLS.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol, cast

from ec_server.synchronization.frames import Samples
from ec_server.synchronization.handshake_turns import HandshakeTurns
from ec_server.synchronization.payload_memory import PayloadMemory
from ec_server.synchronization.server_conversation import Gate, Happening, ServerConversation
from ec_server.synchronization.session import Ended
from ec_server.synchronization.tls_channel import TlsChannel

READ_BYTES = 1 << 16
_LINGER_S = 1.0
_LINGER_BYTES = 1 << 20

_read_buffer = memoryview(bytearray(READ_BYTES))
"""Shared by all connections: the event loop fills it, and the bytes are copied before its next read."""


class Host(Protocol):
    """What a connection needs from the server."""

    memory: PayloadMemory
    handshakes: HandshakeTurns
    tls: ssl.SSLContext | None

    def gate(self, peer: Peer) -> Gate:
        """Who may connect from the peer's address."""

    def connected(self, peer: Peer) -> None:
        """A connection was made; no byte has arrived yet."""

    def happened(self, peer: Peer, happening: Happening) -> None:
        """An event that concerns the device's rounds; ``Ended`` comes once, as the last one."""

    def closed(self, peer: Peer) -> None:
        """The socket is closed."""

    def count(self, figures: Mapping[str, int]) -> None:
        """Increase figures of the worker page."""


class Peer(asyncio.BufferedProtocol):
    """One connection, from its first byte to its last; see the module's rules."""

    def __init__(self, host: Host, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._host, self._monotonic = host, monotonic
        self._tls: TlsChannel | None = None
        self._stepping = False
        self._lingering = False
        self._at_eof = False
        self._thrown_away = 0
        self._has_room = self._waiting_for_memory = False
        """Memory for the payload that is arriving."""
        self._over = False
        self.ip = "gone"

    # --- asyncio's side ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self.ip = (transport.get_extra_info("peername") or ("gone",))[0]
        self.conversation = ServerConversation(self._host.gate(self), self._monotonic())
        if self._host.tls is not None:
            self._tls = TlsChannel(self._host.tls)
        self._host.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio."""
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        if self._lingering:
            self._thrown_away += nbytes
            if self._thrown_away > _LINGER_BYTES:
                self._transport.abort()
            return
        self._host.count({"bytes_received": nbytes})
        data = bytes(_read_buffer[:nbytes])
        if self._tls is None:
            self._take(data)
        else:
            self._tls.feed(data)
            self._go_on_with_tls(self._tls)

    def eof_received(self) -> bool:
        """See asyncio; True keeps the writing side open until everything received was processed."""
        if self._lingering:
            self._transport.abort()
            return False
        self._at_eof = True
        self._go_on()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if not self._over:
            self.conversation.receive_eof(self._monotonic())
            self._act()
        self._host.closed(self)

    # --- receiving ------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        self.conversation.receive_data(data, self._monotonic())
        self._act()
        self._go_on()

    def _go_on(self) -> None:
        """Continue with what is next: frames received already, the end, or reading."""
        if self._over or self._is_waiting:
            return
        if self.conversation.is_behind:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._next_turn)
        elif self._at_eof:
            self.conversation.receive_eof(self._monotonic())
            self._act()
        else:
            self._transport.resume_reading()

    def _next_turn(self) -> None:
        if not self._over and not self._is_waiting and self.conversation.is_behind:
            self._take(b"")

    def _act(self) -> None:
        """Tell the host what happened, send what is queued, request memory."""
        for happening in self.conversation.happenings():
            if isinstance(happening, Samples):
                self._has_room = False  # the next payload asks again
            self._host.happened(self, happening)
            if isinstance(happening, Ended):
                self.flush()
                self._linger()
                return
        self.flush()
        if self.conversation.payload_expected and not self._has_room and not self._waiting_for_memory:
            self._ask_for_room()

    # --- TLS --------------------------------------------------------------------------------

    def _go_on_with_tls(self, tls: TlsChannel) -> None:
        if tls.established:
            try:
                data = tls.read()
            except ssl.SSLError as error:
                self._fail_tls(tls, error)
                return
            self._at_eof = self._at_eof or tls.at_end
            self._take(data)
        elif tls.begun:
            self._shake_hands(tls)
        elif not self._stepping:
            self._stepping = True
            self._transport.pause_reading()
            self._host.handshakes.put(self.ip, partial(self._shake_hands, tls))

    def _shake_hands(self, tls: TlsChannel) -> None:
        self._stepping = False
        if self._over:
            return
        try:
            tls.handshake_step()
        except ssl.SSLError as error:
            self._fail_tls(tls, error)
            return
        self._send_raw(tls.data_to_send())
        if tls.established:
            self._go_on_with_tls(tls)  # what the peer sent right after its handshake
        else:
            self._go_on()

    def _fail_tls(self, tls: TlsChannel, error: BaseException) -> None:
        self._send_raw(tls.data_to_send())  # the alert
        self.conversation.fail("tls", f"TLS failed: {error}")
        self.conversation.data_to_send()  # discarded: the peer cannot read plain text
        self._act()

    def common_name(self) -> str:
        """The only common name in the peer's certificate; "" if it showed none."""
        return self._tls.common_name() if self._tls is not None else ""

    # --- memory for payloads ------------------------------------------------------------------

    @property
    def _is_waiting(self) -> bool:
        return self._waiting_for_memory or self._stepping

    def _ask_for_room(self) -> None:
        if self._host.memory.take(self, self.conversation.payload_expected, self._take_room):
            self._has_room = True
            self.conversation.release_payload()
            return
        self._waiting_for_memory = True
        self._transport.pause_reading()
        self.conversation.pause(self._monotonic())
        self._host.count({"payload_waits": 1})

    def _take_room(self) -> None:
        self._has_room, self._waiting_for_memory = True, False
        self.conversation.resume(self._monotonic())
        self.conversation.release_payload()
        asyncio.get_running_loop().call_soon(self._go_on)

    # --- sending, and the end -----------------------------------------------------------------

    def flush(self) -> None:
        """Send what the conversation has queued."""
        data = self.conversation.data_to_send()
        if not data or self._transport.is_closing():
            return
        if self._tls is not None:
            if not self._tls.established:
                return
            self._tls.write(data)
            data = self._tls.data_to_send()
        self._send_raw(data)

    def _send_raw(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._host.count({"bytes_sent": len(data)})
            self._transport.write(data)

    def tick(self, now: float) -> None:
        """Check the deadlines."""
        if not self._over:
            self.conversation.tick(now, self._host.memory.is_short)
            self._act()

    def end(self, code: str, message: str) -> None:
        """End the connection with an ``error``."""
        if not self._over:
            self.conversation.fail(code, message)
            self._act()

    def close_orderly(self) -> None:
        """End the connection without an ``error``, as the server stops."""
        if not self._over:
            self._linger()

    def _linger(self) -> None:
        """Close the writing side; close the reading side when the peer does, or a little later."""
        self._over = self._lingering = True
        self._host.memory.forget(self)
        if self._transport.is_closing():
            return
        if self._tls is not None and self._tls.established:
            self._tls.close()
            self._send_raw(self._tls.data_to_send())
        with suppress(OSError):
            self._transport.write_eof()
        if self._at_eof:
            self._transport.close()
            return
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)
