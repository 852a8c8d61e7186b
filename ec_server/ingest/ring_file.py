"""The file of the ring, for both sides: its layout, creating it, and setting aside a damaged one.

It has a header page with the cells, then the records. A record consists of a header, body, sender and peer
name, padded to eight bytes. If the next record does not fit at the end of the file, there is a skip mark.
Cells are native signed 64-bit integers, each written by only one side.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from pathlib import Path

from ec_server.account.figures import settled
from ec_server.account.worker_page import WorkerPage

_MAGIC = b"ECRING01"
HEADER_BYTES = 4096
_CELLS_AT = 512
TROUBLE_AT = 1024
TROUBLE_BYTES = 2048
_BYTES_A_MESSAGE = 1600
_LARGEST_RECORD = 1 << 16
ALIGN = 8
NOBODY = 1 << 62

# Length with padding, number, received_us, lengths of body, sender and name, whether the message was cut.
RECORD = struct.Struct("=IqqIHHB")
SKIP_MARK = struct.pack("=I", 0xFFFFFFFF)

SIZE, BASE_COUNT, MOST, TAIL, TAIL_COUNT, WAKE_AT, CLOSED, BEAT_NS, READY, TAKEN, TAKEN_COUNT, DAMAGED = (
    range(12)
)


_log = logging.getLogger(__name__)


def ring_path(run_folder: Path, worker: str) -> Path:
    """The path of a worker's ring."""
    return run_folder / f"{worker}.ring"


class RingError(Exception):
    """The file does not match the account: it was changed by another program, or is damaged."""


class RingFile:
    """The mapped file, for both sides."""

    def __init__(self, path: Path, page: WorkerPage) -> None:
        self.path = path
        self._page = page
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        self._cells = memoryview(self._map)[_CELLS_AT : _CELLS_AT + 128].cast("q")
        self._size = self._cells[SIZE]

    def __len__(self) -> int:
        """Number of messages that are counted and not settled."""
        figures = self._page.figures()
        return figures["received"] - settled(figures)

    def unmap(self) -> None:
        """Unmap the file, which stays."""
        self._cells.release()
        self._map.close()

    def _read(self, position: int, number: int) -> tuple[int, tuple[int, ...]]:
        """``(position, header)`` of the record with this number; there may be a skip mark before it.

        Raises RingError if something else is there.
        """
        at = position % self._size
        if self._map[HEADER_BYTES + at : HEADER_BYTES + at + 4] == SKIP_MARK:
            position += self._size - at
            at = 0
        if at + RECORD.size > self._size:
            raise RingError(f"{self.path}: no room at the end for record {number}")
        header = RECORD.unpack_from(self._map, HEADER_BYTES + at)
        length, found, _, body, sender, name, _ = header
        if found != number:
            raise RingError(f"{self.path}: found record {found} instead of record {number}")
        if length % ALIGN or at + length > self._size or RECORD.size + body + sender + name > length:
            raise RingError(f"{self.path}: the length of record {number} is not possible")
        return position, header


def _boot() -> bytes:
    """Identifies the present boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


def _size_for(most: int) -> int:
    return max(most * _BYTES_A_MESSAGE, 4 * _LARGEST_RECORD) // ALIGN * ALIGN


def is_usable(path: Path, page: WorkerPage, most: int | None = None) -> bool:
    """Whether the file is of this boot, intact, and matches the account.

    A file of another size than for ``most`` messages (None: any) is usable while messages wait in it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            size = path.stat().st_size
    except OSError:
        return False
    if len(head) < HEADER_BYTES or not head.startswith(_MAGIC + _boot()):
        return False
    cells = struct.unpack_from("=16q", head, _CELLS_AT)
    figures = page.figures()
    waiting = figures["received"] - settled(figures)
    return (
        cells[SIZE] == _size_for(cells[MOST]) == size - HEADER_BYTES
        and (most in {None, cells[MOST]} or waiting > 0)
        and cells[BASE_COUNT] <= figures["received"]
        and figures["ring_count"] <= figures["received"]
        and not cells[DAMAGED]
    )


def is_marked_damaged(path: Path) -> bool:
    """Whether the writer has marked the file as unreadable."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError:
        return False
    return len(head) == HEADER_BYTES and bool(struct.unpack_from("=16q", head, _CELLS_AT)[DAMAGED])


def set_aside(path: Path, why: str) -> None:
    """Rename a ring that cannot be read; an earlier one that was set aside is overwritten."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    _log.error("the ring is damaged, set aside as %s, and what was in it is counted as lost: %s", aside, why)


def write_off(path: Path, page: WorkerPage, why: str) -> None:
    """Set aside a ring that nobody will continue, and count its messages as lost."""
    set_aside(path, why)
    figures = page.figures()
    page.apply(
        {
            "lost": figures["received"] - settled(figures),
            "ring_position": -figures["ring_position"],
            "ring_count": figures["received"] - figures["ring_count"],
        }
    )


def make(path: Path, page: WorkerPage, most: int) -> None:
    """Create an empty ring for ``most`` messages; messages received before and not settled are lost."""
    size = _size_for(most)
    header = bytearray(HEADER_BYTES)
    header[: len(_MAGIC)] = _MAGIC
    boot = _boot()
    header[len(_MAGIC) : len(_MAGIC) + len(boot)] = boot
    received = page.figures()["received"]
    cells = {SIZE: size, BASE_COUNT: received, MOST: most, TAIL_COUNT: received, WAKE_AT: NOBODY}
    for cell, value in cells.items():
        struct.pack_into("=q", header, _CELLS_AT + 8 * cell, value)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with temporary.open("wb") as file:
        # Allocate every page: on a full disk, a mapped page without a disk block would end the process.
        os.posix_fallocate(file.fileno(), 0, HEADER_BYTES + size)
        file.write(header)
    temporary.replace(path)
