"""The listener and everything that its connections share: admission, limits, figures, rounds.

Rules:

1. Connections that have not proven who they are are bounded, all together and for each address, so
   that they can keep nobody else out for longer than the handshake's deadline.
2. One connection a device: the newer one replaces the older, once it has proven the device's key.
3. A device whose answers contradicted themselves keeps its place; the minute in question is left to
   the end of its next rounds.
4. Where the database fails, the connection stays, the page says degraded, and the round is tried
   again a little later.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from configuration.devices import DeviceDirectory
from configuration.settings import Settings
from ec_server.account.figures import RUN_FOLDER
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.contract import Store
from ec_server.synchronization.audit import AuditDesk, AuditRequest
from ec_server.synchronization.keeper import Keeper
from ec_server.synchronization.peer import HANDSHAKE_S, Peer
from ec_server.synchronization.round import (
    Contradiction,
    RoundResult,
    RoundRules,
    RoundTask,
    closed_before,
    compare,
    whole_round,
)
from ec_server.synchronization.store_threads import StoreThreads
from utilities.errors import StorageError
from utilities.log import RateLimit
from utilities.model import RejectReason

MAX_UNPROVEN = 4096
MAX_UNPROVEN_OF_ADDRESS = 2048
MAX_CONTRADICTIONS = 1000
"""Minutes of one device that are left to the end; beyond them the oldest-first order stands."""
STORE_THREADS = 2
RETRY_S = 5.0
TICK_S = 0.5
GAUGES_S = 5.0
_BACKLOG = 2048
_READ_LIMIT = 1 << 16
_STOP_S = 8.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where the time comes from: UTC epoch seconds, and seconds that never step back."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class SyncServer:
    """All connections of one process; a Host to each Peer."""

    def __init__(
        self,
        settings: Settings,
        directory: DeviceDirectory,
        page: WorkerPage,
        open_store: Callable[[], Store],
        clocks: Clocks = Clocks(),
    ) -> None:
        self._settings, self._directory, self._page, self._clocks = settings, directory, page, clocks
        self._rules = RoundRules(
            settings.sync_grace, settings.ingest_max_back_days, settings.storage_retention_days
        )
        self.threads = StoreThreads(open_store, STORE_THREADS)
        self.interval_s = settings.sync_syncfreq * 60
        self.certificates = settings.sync_tls_ca is not None
        self._peers: dict[asyncio.Task[None], Peer] = {}
        self._by_device: dict[str, Peer] = {}
        self._unproven: Counter[str] = Counter()
        self._contradictions: dict[str, set[int]] = {}
        self._audits = AuditDesk(settings.storage_path / RUN_FOLDER)
        self._keeper = Keeper(self.threads, open_store, self._rules, self.count, clocks.wall)
        self._pending: Counter[str] = Counter()
        self._limit = RateLimit()
        self._trouble = self._shown_trouble = ""
        self._gauges_due, self._gauges_at = True, -GAUGES_S
        self._measuring: asyncio.Task[None] | None = None
        self._listener: asyncio.Server | None = None

    # --- life -----------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until ``stop`` is set, then end every connection and every turn.

        Raises OSError where the port cannot be had, StorageError where the database cannot be opened.
        """
        try:
            await self.threads.use(lambda store: store.health())
            await self._listen()
        except (OSError, StorageError):
            self.threads.close()
            self._keeper.close()
            raise
        self._page.set_state("ready")
        _log.info("ready on %s:%d", self._settings.sync_ip, self._settings.sync_port)
        keeping = asyncio.create_task(self._keeper.run())
        try:
            while not stop.is_set():
                self._tick()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), TICK_S)
        finally:
            keeping.cancel()
            await self._end(keeping)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._connected,
            self._settings.sync_ip,
            self._settings.sync_port,
            ssl=tls_context(self._settings),
            ssl_handshake_timeout=HANDSHAKE_S if self._settings.sync_tls_certificate else None,
            backlog=_BACKLOG,
            limit=_READ_LIMIT,
        )

    async def _end(self, keeping: asyncio.Task[None]) -> None:
        """Stop taking, let the turns that run commit, close."""
        self._page.set_state("stopping")
        if self._listener is not None:
            self._listener.close()
        for peer in self._peers.values():
            peer.close_orderly()
        waiting = {*self._peers, keeping} | ({self._measuring} if self._measuring else set())
        done_by = self._clocks.monotonic() + _STOP_S
        while waiting and self._clocks.monotonic() < done_by:
            _, waiting = await asyncio.wait(waiting, timeout=TICK_S)
            self._page.beat()
        self._keeper.close()
        self.threads.close()
        self._show_figures()

    def _tick(self) -> None:
        """Twice a second: a sign of life, deadlines, figures, requests for audits."""
        self._page.beat()
        now = self._clocks.monotonic()
        for peer in list(self._peers.values()):
            peer.tick(now)
        self._audits.look()
        self._show_figures()
        if self._trouble != self._shown_trouble:
            self._shown_trouble = self._trouble
            self._page.set_state("degraded" if self._trouble else "ready", self._trouble)
        if self._gauges_due and self._measuring is None and now - self._gauges_at >= GAUGES_S:
            self._gauges_due, self._gauges_at = False, now
            self._measuring = asyncio.create_task(self._measure())

    # --- connections ------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, self, self._clocks.monotonic)
        task = asyncio.current_task()
        assert task is not None
        self._peers[task] = peer
        self.count({"connections_total": 1})
        self._unproven[peer.ip] += 1
        try:
            if self._unproven.total() > MAX_UNPROVEN or self._unproven[peer.ip] > MAX_UNPROVEN_OF_ADDRESS:
                peer.end("busy", "too many connections have not said who they are; try again later")
            await peer.run()
        finally:
            del self._peers[task]
            if self._by_device.get(peer.device_id) is peer:
                del self._by_device[peer.device_id]
            if not peer.proven:
                self._forget_unproven(peer.ip)

    def _forget_unproven(self, ip: str) -> None:
        self._unproven[ip] -= 1
        if not self._unproven[ip]:
            del self._unproven[ip]

    # --- what a Peer asks for ---------------------------------------------------------------

    def admit(self, peer: Peer, device_id: str) -> RejectReason | None:
        """See Host."""
        return self._directory.admits(device_id, peer.ip)

    def key(self, device_id: str) -> bytes:
        """See Host."""
        rule = self._directory.rule(device_id)
        return rule.key if rule else b""

    def welcomed(self, peer: Peer) -> None:
        """See Host."""
        self._forget_unproven(peer.ip)
        former = self._by_device.get(peer.device_id)
        self._by_device[peer.device_id] = peer
        if former is not None:
            former.end("replaced", "the device has connected anew")

    def count(self, figures: Mapping[str, int]) -> None:
        """See Host."""
        self._pending.update(figures)

    def note(self, kind: str, message: str, device_id: str) -> None:
        """See Host."""
        write, held_back = self._limit.allow(kind)
        if held_back:
            _log.warning("%d more lines like those of the last seconds were held back", held_back)
        if write:
            _log.warning("%s", message, extra={"device": device_id})

    # --- rounds ---------------------------------------------------------------------------

    async def serve(self, peer: Peer) -> None:
        """See Host: a round at once, then one every interval, and audits as they are asked for."""
        bell, due = self._audits.bell(peer.device_id), self._clocks.monotonic()
        while True:
            bell.clear()
            try:
                if self._clocks.monotonic() >= due:
                    due = self._clocks.monotonic() + self.interval_s
                    await self._round(peer)
                for request in self._audits.pending(peer.device_id):
                    await self._audit(peer, request)
                self._trouble = ""
            except StorageError as error:
                self._trouble = str(error)
                self.note("storage", f"the round is tried again: {error}", peer.device_id)
                due = self._clocks.monotonic() + min(RETRY_S, self.interval_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clocks.monotonic())):
                    await bell.wait()

    async def _round(self, peer: Peer) -> None:
        last = self._contradictions.get(peer.device_id, set())
        steps = whole_round(peer.device_id, peer.oldest, self._rules, frozenset(last), self._clocks.wall)
        try:
            result = await peer.perform(steps)
        except Contradiction as error:
            self._gauges_due = True
            minutes = self._contradictions.setdefault(peer.device_id, set())
            if len(minutes) < MAX_CONTRADICTIONS:
                minutes.add(error.minute)
            raise
        self._contradictions.pop(peer.device_id, None)
        self._gauges_due = True
        self.count({"rounds": 1})
        peer.send_verified(result.verified)
        _log_round(peer.device_id, result)

    async def _audit(self, peer: Peer, request: AuditRequest) -> None:
        stop = min(request.stop, closed_before(self._clocks.wall(), self._rules))
        task = RoundTask(request.device_id, request.start, max(stop, request.start), audit=True)
        try:
            result = await peer.perform(compare(task, lambda: int(self._clocks.wall() * 1e6)))
        except Contradiction as error:
            self._audits.failed(request, error.minute, str(error))
            raise
        self._gauges_due = True
        self._audits.done(request, result.reports)

    # --- figures --------------------------------------------------------------------------

    def _show_figures(self) -> None:
        if self._pending:
            self._page.apply(self._pending)
            self._pending.clear()
        if self._page.figures()["connections"] != len(self._peers):
            self._page.set_figures({"connections": len(self._peers)})

    async def _measure(self) -> None:
        """The gauges over all devices, read from the database now and then."""
        try:
            records = await self.threads.use(lambda store: store.devices())
            self._page.set_figures(
                {
                    "minutes_unresolved": sum(record.unresolved_minutes for record in records),
                    "minutes_unconfirmable": sum(record.unconfirmable_minutes for record in records),
                }
            )
        except StorageError as error:
            self._gauges_due = True
            self.note("storage", f"the devices' records cannot be read: {error}", "")
        finally:
            self._measuring = None


def _log_round(device_id: str, result: RoundResult) -> None:
    verified = result.verified
    if verified.repaired or verified.unresolved or verified.extra:
        _log.info(
            "round: %d minutes compared, %d seconds repaired, %d minutes unresolved, %d samples extra",
            verified.compared,
            verified.repaired,
            verified.unresolved,
            verified.extra,
            extra={"device": device_id},
        )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or later with the configured files; None where there is no certificate."""
    if settings.sync_tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.sync_tls_certificate, settings.sync_tls_key)
    if settings.sync_tls_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cafile=settings.sync_tls_ca)
    return context


def run_folder(settings: Settings) -> Path:
    """Where pages and requests for audits lie."""
    return settings.storage_path / RUN_FOLDER
