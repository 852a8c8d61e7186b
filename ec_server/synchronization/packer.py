"""Packs the stored rows into blocks in the background, some hours after their minute's end.

Rules:

1. Oldest minute first, that of all devices together, in short steps. It gives way to rounds: where they never
   rest, it takes a sixth of the time. It pauses for as long as each step took, so that the processor and the
   database are free for ingest. If much is left to pack, it does not pause, and takes half of the time.
2. It has its own thread and database connection. It may be stopped or killed at any point: what is not
   packed yet stays in rows, and is found again.
3. A minute that cannot be packed is logged, and skipped until the next start; it does not stop others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

from ec_server.storage.contract import Store
from ec_server.synchronization.store_threads import StoreThreads
from utilities.errors import PermanentStorageError, StorageError
from utilities.utc import minute_of, minute_text

LOOK_S = 20.0
_BUSY_S = 0.2
_PATIENCE, _PATIENCE_IN_A_HURRY = 5, 1
"""How many times as long as the last step took rounds are waited for before the next one."""
_HURRY_FROM = 120
"""It hurries if this many minutes wait to be packed."""

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class Packer:
    """Runs until it is cancelled."""

    def __init__(
        self,
        rounds: StoreThreads,
        open_store: Callable[[], Store],
        after_hours: float,
        count: Callable[[Mapping[str, int]], None],
        show: Callable[[Mapping[str, int]], None],
        clock: Callable[[], float],
    ) -> None:
        """``count`` increases figures, ``show`` sets them."""
        self._rounds, self._after_s = rounds, after_hours * 3600
        self._count, self._show, self._clock = count, show, clock
        self._thread = StoreThreads(open_store, 1)
        self._passed_over: set[tuple[str, int]] = set()
        self._took_s = 0.0
        """The last step."""
        self._shown_s = -LOOK_S

    async def run(self) -> None:
        """Look for work every LOOK_S."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Pack what is old enough, and return free space; failures are tried again at the next look."""
        try:
            if self._after_s:
                await self._pack()
                await self._return_space()
            await self._show_figures()
        except StorageError as error:
            _log.warning("packing is postponed: %s", error)
        except Exception:
            _log.exception("packing failed; trying again later")

    def _before(self) -> int:
        return minute_of(int(self._clock() - self._after_s))

    async def _pack(self) -> None:
        while minutes := await self._next_minutes():
            for _, of_one_time in groupby(minutes, itemgetter(1)):
                if time.monotonic() - self._shown_s > LOOK_S:
                    await self._show_figures()
                await self._pack_minutes(list(of_one_time), hurry=len(minutes) >= _HURRY_FROM)

    async def _next_minutes(self) -> list[tuple[str, int]]:
        most = _HURRY_FROM + len(self._passed_over)
        before = self._before()
        found = await self._thread.use(lambda store: store.unpacked_minutes(before, most))
        return [minute for minute in found if minute not in self._passed_over]

    async def _pack_minutes(self, minutes: Sequence[tuple[str, int]], *, hurry: bool) -> None:
        try:
            await self._take_steps(minutes, hurry=hurry)
        except PermanentStorageError as error:
            if len(minutes) > 1:
                for one in minutes:
                    await self._pack_minutes([one], hurry=hurry)
                return
            ((device_id, minute),) = minutes
            self._passed_over.add((device_id, minute))
            _log.warning("%s %s is not packed: %s", device_id, minute_text(minute), error)

    async def _take_steps(self, minutes: Sequence[tuple[str, int]], *, hurry: bool) -> None:
        steps = await self._thread.use(lambda store: store.pack_minutes(minutes))
        patience = _PATIENCE_IN_A_HURRY if hurry else _PATIENCE
        while (packed := await self._step(lambda _: next(steps, None), patience)) is not None:
            self._count({"packed_samples": packed.samples, "packed_rows": packed.rows})
            if not hurry:
                await asyncio.sleep(self._took_s)

    async def _return_space(self) -> None:
        before = self._before()
        while await self._step(lambda store: store.return_space(before), _PATIENCE):
            pass

    async def _step(self, work: Callable[[Store], _Result], patience: int) -> _Result:
        """Do some work when rounds are at rest, or have not been for a while."""
        until = time.monotonic() + patience * self._took_s
        while self._rounds.busy and (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, _BUSY_S))
        begun = time.monotonic()
        try:
            return await self._thread.use(work)
        finally:
            self._took_s = time.monotonic() - begun

    async def _show_figures(self) -> None:
        before = self._before() if self._after_s else 0
        backlog = await self._thread.use(lambda store: store.count_unpacked(before))
        found = await self._thread.use(lambda store: store.stored_bytes())
        figures = {"pack_backlog_minutes": backlog}
        if found is not None:
            figures |= {"stored_bytes_rows": found.rows, "stored_bytes_blocks": found.blocks}
        self._show(figures)
        self._shown_s = time.monotonic()

    def close(self) -> None:
        """Wait until the current step is done, and close the database."""
        with suppress(StorageError):
            self._thread.close()
