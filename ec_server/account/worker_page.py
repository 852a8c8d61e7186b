"""The figures of one worker in a small shared file, so that they survive the worker's death.

Rules:

1. A page is a file under ``<storage.path>/run/`` named after the worker. It is mapped by the worker, which
   writes it, by the launcher, which marks the worker's death, and by the status server, which reads it. What
   was written before ``kill -9`` is still there afterwards.
2. Only the worker writes or, after its death and before its replacement starts, the launcher. The
   replacement continues with the same page: figures never decrease while the launcher lives.
3. ``received`` is a separate cell, increased only by the receiving thread. All other figures change together:
   ``apply`` writes the spare one of two slots, then increases one cell, the step, whose parity says which
   slot is valid. So a reader, or a successor after a kill, sees a complete step or none of it. The step never
   repeats, so a reader notices if its slot was overwritten.
4. Hence ``received = stored + duplicate + rejected + spooled + lost + queued`` holds exactly at every moment,
   where ``queued`` is what is received and not yet settled.
5. A page of another layout (written by an earlier version, or by one with other figures) is created again
   with its content: the figures that both have, ``received`` and the commit intent. So what waits in the ring
   of a server that was killed before an upgrade is found and counted like anything else.

Cells are native signed 64-bit integers; each is written by a single machine instruction.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ec_server.account.figures import PORT_FIGURES

_MAGIC = b"ECPAGE02"
_CELLS_BYTES_OF = {b"ECPAGE01": 64, _MAGIC: 128}
"""The headers of the layouts, whose first cells have the same meaning. Version 1.0 wrote the first one,
without PORT_FIGURES."""
_HEADER_BYTES = 4096
_STATE_BYTES = 512
_CELLS_BYTES = _CELLS_BYTES_OF[_MAGIC]
_CELL = struct.Struct("=q")

STATES = ("starting", "ready", "degraded", "stopping", "dead")


class WorkerPage:
    """A mapped page: figures by name, a heartbeat, a state with its reason, one commit intent."""

    # Cells before the two slots.
    _RECEIVED, _STEP, _HEARTBEAT_NS, _PID, _STATE, _INTENT_DAY, _INTENT_SEQUENCE, _PORT = range(8)

    def __init__(self, path: Path, mapped: mmap.mmap, names: Sequence[str]) -> None:
        """Use ``create`` or ``open``; ``names`` are the figures of the slots, in file order."""
        self.path = path
        self.names = tuple(names)
        self._index = {name: i for i, name in enumerate(self.names)}
        self._map = mapped
        view = memoryview(mapped)
        first = _HEADER_BYTES + _STATE_BYTES
        self._cells = view[first : first + _CELLS_BYTES].cast("q")
        width = 8 * len(self.names)
        first_slot = first + _CELLS_BYTES
        self._slots = tuple(
            view[first_slot + i * width : first_slot + (i + 1) * width].cast("q") for i in (0, 1)
        )
        self._reason = view[_HEADER_BYTES:first]
        self._view = view

    @classmethod
    def create(cls, path: Path, names: Sequence[str]) -> WorkerPage:
        """Map the page at ``path``; created if it is missing, converted if it has another layout."""
        header = _MAGIC + json.dumps(list(names)).encode()
        if len(header) >= _HEADER_BYTES:
            raise ValueError(f"{path}: too many figures for one page")
        size = _HEADER_BYTES + _STATE_BYTES + _CELLS_BYTES + 16 * len(names)
        if not _has_header(path, header, size):
            former = _Former.read(path)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
            temporary.write_bytes(header.ljust(_HEADER_BYTES, b"\0") + bytes(size - _HEADER_BYTES))
            if former:
                with closing(cls.open(temporary)) as page:
                    page._take_over(former)
            temporary.replace(path)
        return cls.open(path)

    @classmethod
    def renew(cls, path: Path) -> None:
        """Convert a page of an earlier layout to the present one; any other file is left as it is."""
        if (former := _Former.read(path)) and former.magic != _MAGIC:
            cls.create(path, former.names).close()

    @classmethod
    def open(cls, path: Path) -> WorkerPage:
        """Map an existing page. Raises OSError if there is none, ValueError if it is not a page."""
        descriptor = os.open(path, os.O_RDWR)
        try:
            size = os.fstat(descriptor).st_size
            if size < _HEADER_BYTES + _STATE_BYTES:
                raise ValueError(f"{path} is not a worker page: {size} bytes")
            mapped = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        header = mapped[:_HEADER_BYTES].rstrip(b"\0")
        if not header.startswith(_MAGIC):
            raise ValueError(f"{path} is not a worker page")
        return cls(path, mapped, json.loads(header[len(_MAGIC) :]))

    # --- figures --------------------------------------------------------------------------

    def count_received(self) -> None:
        """Count a message taken at the SIP port; called only by the receiving thread."""
        self._cells[self._RECEIVED] += 1

    def add_port_figures(self, amounts: Sequence[int]) -> None:
        """Add to PORT_FIGURES, in their order; called only by the receiving thread."""
        for cell, amount in enumerate(amounts, self._PORT):
            self._cells[cell] += amount

    def received(self) -> int:
        """Messages taken at the SIP port so far."""
        return self._cells[self._RECEIVED]

    def apply(self, changes: Mapping[str, int]) -> None:
        """Add to several figures in one step.

        KeyError for a name that the page does not have.
        """
        step = self._cells[self._STEP]
        spare = self._slots[(step + 1) % 2]
        spare[:] = self._slots[step % 2]
        for name, amount in changes.items():
            spare[self._index[name]] += amount
        self._cells[self._STEP] = step + 1

    def set_figures(self, values: Mapping[str, int]) -> None:
        """Set gauges (not counters) in one step."""
        active = self._slots[self._cells[self._STEP] % 2]
        self.apply({name: value - active[self._index[name]] for name, value in values.items()})

    def figures(self) -> dict[str, int]:
        """All figures of one consistent step, and ``received``, read so that queued >= 0."""
        while True:
            step = self._cells[self._STEP]
            values = self._slots[step % 2].tolist()
            received = self._cells[self._RECEIVED]
            if step == self._cells[self._STEP]:
                port = self._cells[self._PORT : self._PORT + len(PORT_FIGURES)].tolist()
                return {
                    "received": received,
                    **dict(zip(PORT_FIGURES, port)),
                    **dict(zip(self.names, values)),
                }

    def _take_over(self, former: _Former) -> None:
        """Take the content of a page of another layout, as far as this one has it."""
        self._cells[self._RECEIVED] = former.cells[self._RECEIVED]
        self.intend(former.cells[self._INTENT_DAY], former.cells[self._INTENT_SEQUENCE])
        if former.magic == _MAGIC:
            self.add_port_figures(former.cells[self._PORT : self._PORT + len(PORT_FIGURES)])
        self.apply({name: value for name, value in former.figures.items() if name in self._index})

    # --- commit intent --------------------------------------------------------------------

    def intend(self, day: int, sequence: int) -> None:
        """Note, before a write, which day and mark it is about to commit."""
        self._cells[self._INTENT_DAY] = day
        self._cells[self._INTENT_SEQUENCE] = sequence

    def intent(self) -> tuple[int, int]:
        """The last noted ``(day, sequence)``; sequence 0 if there is none yet."""
        return self._cells[self._INTENT_DAY], self._cells[self._INTENT_SEQUENCE]

    # --- life -----------------------------------------------------------------------------

    def beat(self) -> None:
        """The worker's heartbeat; CLOCK_MONOTONIC is the same in all processes."""
        self._cells[self._HEARTBEAT_NS] = time.monotonic_ns()

    def silent_for_s(self) -> float:
        """Seconds since the last heartbeat."""
        return (time.monotonic_ns() - self._cells[self._HEARTBEAT_NS]) / 1e9

    def set_state(self, state: str, reason: str = "") -> None:
        """Set one of STATES, with one line that says why (cut at 500 bytes)."""
        raw = reason.encode("utf-8", "replace")[: _STATE_BYTES - 12]
        self._reason[:] = (struct.pack("=I", len(raw)) + raw).ljust(_STATE_BYTES, b"\0")
        self._cells[self._PID] = os.getpid()
        self._cells[self._STATE] = STATES.index(state)

    def state(self) -> tuple[str, str]:
        """``(state, reason)``."""
        (length,) = struct.unpack("=I", self._reason[:4])
        text = bytes(self._reason[4 : 4 + min(length, _STATE_BYTES - 4)]).decode("utf-8", "replace")
        return STATES[self._cells[self._STATE]], text

    def pid(self) -> int:
        """Id of the process that set the state last; 0 if none has."""
        return self._cells[self._PID]

    def close(self) -> None:
        """Unmap; the file stays."""
        for view in (self._cells, *self._slots, self._reason, self._view):
            view.release()
        self._map.close()


@dataclass(frozen=True, slots=True)
class _Former:
    """The content of a page in any known layout."""

    magic: bytes
    names: tuple[str, ...]
    cells: tuple[int, ...]
    figures: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> _Former | None:
        """None if there is no file, or it is not a page."""
        try:
            content = path.read_bytes()
            magic = content[: len(_MAGIC)]
            cells_bytes = _CELLS_BYTES_OF[magic]
            names = json.loads(content[len(_MAGIC) : _HEADER_BYTES].rstrip(b"\0"))
            first = _HEADER_BYTES + _STATE_BYTES
            cells = struct.unpack_from(f"={cells_bytes // 8}q", content, first)
            step = cells[WorkerPage._STEP]
            slot = first + cells_bytes + (step % 2) * 8 * len(names)
            values = struct.unpack_from(f"={len(names)}q", content, slot)
        except (OSError, KeyError, ValueError, struct.error):
            return None
        return cls(magic, tuple(names), cells, dict(zip(names, values)))


def _has_header(path: Path, header: bytes, size: int) -> bool:
    try:
        with path.open("rb") as file:
            return path.stat().st_size == size and file.read(_HEADER_BYTES).rstrip(b"\0") == header
    except OSError:
        return False
