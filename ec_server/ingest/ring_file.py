"""The ring's file as both sides see it: its layout, its making, and what is done with a damaged one.

A header page with the cells, then the records. A record: its header, body, sender, peer name, padded to
eight bytes; at the end of the file a skip mark where the next one does not fit. Cells are native signed
64-bit integers, each written by one side only.
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

# Length with padding, number, received_us, lengths of body, sender and name, whether it was cut.
RECORD = struct.Struct("=IqqIHHB")
SKIP_MARK = struct.pack("=I", 0xFFFFFFFF)

SIZE, BASE_COUNT, MOST, TAIL, TAIL_COUNT, WAKE_AT, CLOSED, BEAT_NS, READY, TAKEN, TAKEN_COUNT, DAMAGED = (
    range(12)
)


_log = logging.getLogger(__name__)


def ring_path(run_folder: Path, worker: str) -> Path:
    """Where a worker's ring stands."""
    return run_folder / f"{worker}.ring"


class RingError(Exception):
    """The file does not hold what the account says: it was changed by somebody else."""


class RingFile:
    """The mapped file, as both sides see it."""

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
        """Messages that are counted and not settled."""
        figures = self._page.figures()
        return figures["received"] - settled(figures)

    def unmap(self) -> None:
        """Let go of the file; it stays."""
        self._cells.release()
        self._map.close()

    def _read(self, position: int, number: int) -> tuple[int, tuple[int, ...]]:
        """``(position, header)`` of the record with this number; a skip may stand before it.

        Raises RingError where something else stands there.
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
    """What tells one boot of the machine from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


def _size_for(most: int) -> int:
    return max(most * _BYTES_A_MESSAGE, 4 * _LARGEST_RECORD) // ALIGN * ALIGN


def is_usable(path: Path, page: WorkerPage, most: int | None = None) -> bool:
    """Whether the file is of this boot, whole, and agrees with the account.

    One that is not for ``most`` messages (None: any) is used as long as something waits in it.
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
    """Whether the writer said of the file that it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError:
        return False
    return len(head) == HEADER_BYTES and bool(struct.unpack_from("=16q", head, _CELLS_AT)[DAMAGED])


def set_aside(path: Path, why: str) -> None:
    """Rename a ring that cannot be read; the one that was set aside before is overwritten."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    _log.error("the ring is damaged, set aside as %s, and what was in it is counted as lost: %s", aside, why)


def write_off(path: Path, page: WorkerPage, why: str) -> None:
    """Set a ring aside that nobody will go on with, and count as lost what was in it."""
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
    """An empty ring for ``most`` messages; what was received before it and is not settled is lost."""
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
        # Every page has its block: a mapped page without one would end the process on a full disk.
        os.posix_fallocate(file.fileno(), 0, HEADER_BYTES + size)
        file.write(header)
    temporary.replace(path)
