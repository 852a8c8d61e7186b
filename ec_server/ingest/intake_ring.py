"""The bounded queue between the SIP process and its writer process: a mapped file that survives both.

Rules:

1. One process puts, one takes. A message is in the ring once it is counted: ``put`` first writes the record,
   then increases the page's ``received``, with a single store to memory. So every counted message can be
   read, whichever process dies at any point.
2. A message leaves the ring only when it is settled: ``ring_position`` and ``ring_count`` are figures of the
   page, and change in the same step as the account. A new writer begins exactly where the account ends.
3. Nothing is dropped: while the ring is full, ``put`` waits, and with it the SIP port. Only ``close`` ends
   this wait, and ``put`` then returns False.
4. The file is valid for one boot of the machine, as its pages cannot be trusted after a power failure. What
   was in it is then lost, and counted as lost when the writer begins.
5. Positions count bytes since the file was made; a record is at its position modulo the size. Each record
   contains its number, so that a wrong one is always recognised.
6. A ring that cannot be read is set aside (renamed), its messages count as lost, and the start continues. If
   the writer finds damage while the receiver runs, the receiver ends, which leads to a new start.

ring_file.py defines the layout of the file.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ec_server.account.figures import settled
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.group_settlement import Evidence, GroupSettlement, Place
from ec_server.ingest.ring_file import (
    ALIGN,
    BASE_COUNT,
    BEAT_NS,
    CLOSED,
    DAMAGED,
    HEADER_BYTES,
    MOST,
    NOBODY,
    READY,
    RECORD,
    SKIP_MARK,
    TAIL,
    TAIL_COUNT,
    TAKEN,
    TAKEN_COUNT,
    TROUBLE_AT,
    TROUBLE_BYTES,
    WAKE_AT,
    RingError,
    RingFile,
    is_marked_damaged,
    is_usable,
    make,
    set_aside,
)
from utilities.model import RawMessage


class IntakeRing(RingFile):
    """The SIP process's side; used by one thread. Times are those of CLOCK_MONOTONIC."""

    def __init__(
        self,
        path: Path,
        page: WorkerPage,
        most: int,
        on_wait: Callable[[], None] = lambda: None,
        wait_interval_s: float = 0.5,
    ) -> None:
        """Use the file at ``path``; if it does not match the account, make a new one for ``most`` messages.

        ``on_wait`` is called every ``wait_interval_s`` while ``put`` waits for room.
        """
        self._on_wait = on_wait
        self._wait_interval_s = wait_interval_s
        self._wake: int | None = None
        try:
            self._use(path, page, most)
        except RingError as error:
            self.unmap()
            set_aside(path, str(error))
            self._use(path, page, most)
        self._cells[CLOSED] = 0
        self._cells[READY] = 0

    def _use(self, path: Path, page: WorkerPage, most: int) -> None:
        """Map the file, or a new one, and find the position of the next message."""
        if not is_usable(path, page, most):
            if is_marked_damaged(path):
                set_aside(path, "the writer could not read it")
            make(path, page, most)
        super().__init__(path, page)
        self._most = self._cells[MOST]
        figures = page.figures()
        self._count = figures["received"]
        self._head = figures["ring_position"]
        first = figures["ring_count"]
        if first <= self._cells[BASE_COUNT]:  # the file is new, and its writer has not begun yet
            first, self._head = self._cells[BASE_COUNT], 0
        for number in range(first, self._count):
            self._head, header = self._read(self._head, number)
            self._head += header[0]

    def wakes(self, descriptor: int) -> None:
        """Write a byte to this descriptor when the taking process sleeps; it must be non-blocking."""
        os.set_blocking(descriptor, False)
        self._wake = descriptor

    def wakes_nobody(self) -> None:
        """Stop writing to the descriptor, as the taking process is gone."""
        self._wake = None

    def put(self, message: RawMessage) -> bool:
        """Append and count; waits while the ring is full. False if it was closed: nothing was counted."""
        body, sender, name = message.body, message.sender.encode(), message.peer_name.encode()
        length = RECORD.size + len(body) + len(sender) + len(name)
        length += -length % ALIGN
        at = self._head % self._size
        fits = self._size - at >= length + ALIGN  # so that a skip mark always fits after a record
        length_with_skip = length if fits else self._size - at + length
        cells = self._cells
        if (cells[CLOSED] or not self._has_room(length_with_skip)) and not self._wait_for_room(
            length_with_skip
        ):
            return False
        if not fits:
            self._map[HEADER_BYTES + at : HEADER_BYTES + at + 4] = SKIP_MARK
            self._head += self._size - at
            at = 0
        head = RECORD.pack(
            length, self._count, message.received_us, len(body), len(sender), len(name), message.cut
        )
        record = b"".join((head, body, sender, name))
        self._map[HEADER_BYTES + at : HEADER_BYTES + at + len(record)] = record
        self._head += length
        self._count += 1
        self._page.count_received()
        if self._count >= cells[WAKE_AT]:
            self._wake_taker()
        return True

    def close(self) -> None:
        """Accept no more, and end a wait for room. What is in the ring can still be taken."""
        self._cells[CLOSED] = 1
        self._wake_taker()

    @property
    def trouble(self) -> str:
        """What prevents the writer from storing; "" if nothing does."""
        (length,) = struct.unpack_from("=I", self._map, TROUBLE_AT)
        raw = self._map[TROUBLE_AT + 4 : TROUBLE_AT + 4 + min(length, TROUBLE_BYTES - 4)]
        return raw.decode("utf-8", "replace")

    @property
    def is_damaged(self) -> bool:
        """Whether the writer has found a record that it could not read."""
        return bool(self._cells[DAMAGED])

    @property
    def writer_is_ready(self) -> bool:
        """Whether the present writer has opened what it needs."""
        return bool(self._cells[READY])

    def writer_silent_for_s(self) -> float:
        """Seconds since the writer's last heartbeat."""
        return (time.monotonic_ns() - self._cells[BEAT_NS]) / 1e9

    def expect_writer(self) -> None:
        """Note that a new writer is being started: it is not ready, and its silence counts from now."""
        self._cells[READY] = 0
        self._cells[BEAT_NS] = time.monotonic_ns()

    def _wake_taker(self) -> None:
        self._cells[WAKE_AT] = NOBODY
        if self._wake is not None:
            with suppress(BlockingIOError, BrokenPipeError):  # awake already, or dead and soon replaced
                os.write(self._wake, b"w")

    def _has_room(self, length: int) -> bool:
        cells = self._cells
        return (
            self._head + length - cells[TAIL] <= self._size and self._count - cells[TAIL_COUNT] < self._most
        )

    def _wait_for_room(self, length: int) -> bool:
        cells, next_call_s = self._cells, time.monotonic() + self._wait_interval_s
        while not cells[CLOSED]:
            if self._has_room(length):
                return True
            time.sleep(0.001)
            if time.monotonic() >= next_call_s:
                self._on_wait()
                next_call_s = time.monotonic() + self._wait_interval_s
        return False


class Taker(RingFile):
    """The writer process's side: one thread takes messages, one settles them.

    The SIP process reads its heartbeats and troubles.
    """

    def __init__(self, path: Path, page: WorkerPage, wake: int | None = None) -> None:
        """``wake`` is the other end of what ``IntakeRing`` writes to. Call ``begin`` before ``take``.

        Raises OSError or ValueError if there is no ring at ``path``.
        """
        super().__init__(path, page)
        self._wake = wake
        self._parent_gone = False
        self._place = Place(0, 0)

    @property
    def closed(self) -> bool:
        """Whether no more messages will come: closed, or the SIP process is gone."""
        return bool(self._cells[CLOSED]) or self._parent_gone

    @property
    def parent_is_gone(self) -> bool:
        """Whether the SIP process has ended: another one will take over, with its own writer."""
        return self._parent_gone

    def evidence(self) -> Evidence:
        """What the page and the ring tell about the previous writer; without the mark and the spool."""
        figures = self._page.figures()
        return Evidence(
            settled=settled(figures),
            ring=Place(figures["ring_position"], figures["ring_count"]),
            ring_base=self._cells[BASE_COUNT],
            group_end=Place(self._cells[TAKEN], self._cells[TAKEN_COUNT]),
            settled_sequence=figures["settled_sequence"],
            intended_sequence=self._page.intent()[1],
            intended_day=self._page.intent()[0],
            spooled=figures["spooled"],
        )

    def begin(self, settlement: GroupSettlement) -> None:
        """Update the account by what happened to the previous group, and take from there."""
        self._page.apply(settlement.changes)
        self._place = settlement.begin
        self._give_room_back()

    def take(
        self, limit: int, timeout_s: float, gather_s: float = 0.0, enough: int | None = None
    ) -> list[RawMessage]:
        """Up to ``limit`` messages after those taken before; [] if none arrived in time.

        After the first one it waits for up to ``gather_s`` until there are ``enough`` (None: ``limit``). They
        stay in the ring until a step of the account has passed them.
        """
        self._give_room_back()
        if self._sleep(1, timeout_s) and gather_s > 0:
            self._sleep(enough or limit, gather_s)
        taken: list[RawMessage] = []
        position, count = self._place
        whole, size, data = self._map, self._size, HEADER_BYTES
        for _ in range(min(limit, self._received() - count)):
            position, header = self._read(position, count)
            length, _, received_us, body, sender, name, cut = header
            at = data + position % size + RECORD.size
            end = at + body + sender
            taken.append(
                RawMessage(
                    whole[at : at + body],
                    whole[at + body : end].decode("utf-8", "replace"),
                    received_us,
                    whole[end : end + name].decode("utf-8", "replace") if name else "",
                    bool(cut),
                )
            )
            position += length
            count += 1
        self._place = Place(position, count)
        return taken

    @property
    def place(self) -> Place:
        """The end of the messages taken last."""
        return self._place

    def moved_to(self, place: Place) -> dict[str, int]:
        """The change of the account's figures that advances the ring to ``place``."""
        figures = self._page.figures()
        return {
            "ring_position": place.position - figures["ring_position"],
            "ring_count": place.messages - figures["ring_count"],
        }

    def note_group_end(self, end: Place) -> None:
        """Note the end of the group that is about to be committed, for a possible successor."""
        self._cells[TAKEN], self._cells[TAKEN_COUNT] = end

    def beat(self, trouble: str | None = None) -> None:
        """The writer's heartbeat; ``trouble``, if given, says what prevents it from storing."""
        self._cells[BEAT_NS] = time.monotonic_ns()
        if trouble is not None:
            raw = trouble.encode("utf-8", "replace")[: TROUBLE_BYTES - 4]
            self._map[TROUBLE_AT : TROUBLE_AT + 4 + len(raw)] = struct.pack("=I", len(raw)) + raw

    def tell_damage(self, why: str) -> None:
        """Report that the ring cannot be read: the SIP process ends, the next start sets the ring aside."""
        self.beat(why)
        self._cells[DAMAGED] = 1

    def expect_no_more(self) -> None:
        """Note that the SIP process will not come back, so that nothing is added."""
        self._cells[CLOSED] = 1

    def set_ready(self) -> None:
        """Report that the database is open and messages may come."""
        self._cells[READY] = 1

    def _received(self) -> int:
        return self._page.received()

    def _give_room_back(self) -> None:
        """Allow settled messages to be overwritten."""
        figures = self._page.figures()
        self._cells[TAIL] = figures["ring_position"]
        self._cells[TAIL_COUNT] = figures["ring_count"]

    def _sleep(self, wanted: int, timeout_s: float) -> bool:
        """Wait for ``wanted`` messages; True if there are any."""
        until_s = time.monotonic() + timeout_s
        while self._received() - self._place.messages < wanted and not self.closed:
            self._cells[WAKE_AT] = self._place.messages + wanted
            left_s = until_s - time.monotonic()
            if self._received() - self._place.messages >= wanted or left_s <= 0:
                break
            self._wait(left_s)
        self._cells[WAKE_AT] = NOBODY
        return self._received() > self._place.messages

    def _wait(self, left_s: float) -> None:
        if self._wake is None:
            time.sleep(min(left_s, 0.01))
        elif select.select([self._wake], [], [], left_s)[0]:
            self._parent_gone = not os.read(self._wake, 4096)
