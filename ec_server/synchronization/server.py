"""All connections of the process and what they share: admission, limits, figures, rounds.

Rules:

1. The number of unauthenticated connections is limited (unidentified.py), from their start.
2. One connection per device: a newer one replaces the older one, after it has proven the device's key.
3. An error on one connection ends only that connection; an error with one device's data is reported as that
   device's trouble (troubles.py).
4. All error codes that peers send share one rate limit in the log, so that no peer can use up the limit for
   the server's own lines.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from configuration.devices import DeviceDirectory
from configuration.settings import Settings
from ec_server.account.figures import RUN_FOLDER
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.contract import Store
from ec_server.synchronization.audit import AuditDesk
from ec_server.synchronization.coverage import RoundRules
from ec_server.synchronization.device_link import DeviceLink
from ec_server.synchronization.device_rounds import DeviceRounds, RoundSurroundings
from ec_server.synchronization.handshake_turns import HandshakeTurns
from ec_server.synchronization.keeper import Keeper
from ec_server.synchronization.listening import listen, tls_context
from ec_server.synchronization.packer import Packer
from ec_server.synchronization.payload_memory import PayloadMemory
from ec_server.synchronization.peer import Peer
from ec_server.synchronization.server_conversation import Gate, Happening, Identified
from ec_server.synchronization.session import Ended
from ec_server.synchronization.steps import Note
from ec_server.synchronization.store_threads import StoreThreads
from ec_server.synchronization.troubles import Troubles
from ec_server.synchronization.unidentified import Unidentified
from utilities.errors import RemoteProtocolError, StorageError
from utilities.log import RateLimit
from utilities.model import RejectReason

STORE_THREADS = 2
TICK_S = 0.5
GAUGES_S = 5.0
_STOP_S = 8.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks: UTC epoch seconds, and a monotonic clock."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class _Connected:
    """The connection of an identified device, with the task that runs its rounds."""

    peer: Peer
    link: DeviceLink
    serving: asyncio.Task[None]


class SyncServer:
    """All connections of one process; the Host of each Peer."""

    def __init__(
        self,
        settings: Settings,
        directory: DeviceDirectory,
        page: WorkerPage,
        open_store: Callable[[], Store],
        clocks: Clocks = Clocks(),
    ) -> None:
        self._settings, self._directory, self._page, self._clocks = settings, directory, page, clocks
        rules = RoundRules(
            settings.sync_grace,
            settings.ingest_max_back_days,
            settings.storage_retention_days,
            settings.sync_recheck_hours,
            settings.sync_max_second_samples,
        )
        self.tls = tls_context(settings)
        self.memory, self.handshakes = PayloadMemory(), HandshakeTurns()
        self._threads = StoreThreads(open_store, STORE_THREADS)
        self._troubles, self._shown_trouble = Troubles(), ""
        self._around = RoundSurroundings(
            rules,
            settings.sync_syncfreq * 60,
            AuditDesk(settings.storage_path / RUN_FOLDER),
            self._troubles,
            clocks.wall,
            clocks.monotonic,
            self.count,
            self._note,
            settings.storage_path / RUN_FOLDER,
        )
        self._peers: set[Peer] = set()
        self._unidentified: Unidentified[Peer] = Unidentified()
        self._connected: dict[Peer, _Connected] = {}
        self._by_device: dict[str, Peer] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._keeper = Keeper(self._threads, open_store, rules, self.count, clocks.wall)
        self._packer = Packer(
            self._threads,
            open_store,
            settings.storage_pack_after_hours,
            self.count,
            page.set_figures,
            clocks.wall,
        )
        self._pending: Counter[str] = Counter()
        self._limit = RateLimit()
        self._gauges_due, self._gauges_at = True, -GAUGES_S
        self._measuring: asyncio.Task[None] | None = None
        self._listener: asyncio.Server | None = None

    # --- life -----------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until ``stop`` is set, then end every connection and every running turn.

        Raises OSError if the port is not available, StorageError if the database cannot be opened.
        """
        try:
            await self._threads.use(lambda store: store.health())
            self._listener = await listen(self._settings, lambda: Peer(self, self._clocks.monotonic))
        except (OSError, StorageError):
            self._threads.close()
            self._keeper.close()
            raise
        self._page.set_state("ready")
        _log.info("ready on %s:%d", self._settings.sync_ip, self._settings.sync_port)
        keeping = asyncio.create_task(self._keep())
        try:
            while not stop.is_set():
                self._tick()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), TICK_S)
        finally:
            keeping.cancel()
            await self._end(keeping)

    async def _keep(self) -> None:
        await asyncio.gather(self._keeper.run(), self._packer.run())

    async def _end(self, keeping: asyncio.Task[None]) -> None:
        """Stop accepting, let running turns commit, close."""
        self._page.set_state("stopping")
        if self._listener is not None:
            self._listener.close()
        for peer in list(self._peers):
            peer.close_orderly()
            self._leave(peer)
        done_by = self._clocks.monotonic() + _STOP_S
        while self._clocks.monotonic() < done_by:
            waiting = {*self._ending, keeping} | ({self._measuring} if self._measuring else set())
            waiting = {task for task in waiting if not task.done()}
            if not waiting and not self._peers:
                break
            await asyncio.wait(waiting, timeout=TICK_S) if waiting else await asyncio.sleep(TICK_S / 10)
            self._page.beat()
        self._keeper.close()
        self._packer.close()
        self._threads.close()
        self._show_figures()

    def _tick(self) -> None:
        """Called twice a second: heartbeat, deadlines, figures, requests for audits."""
        self._page.beat()
        now = self._clocks.monotonic()
        for peer in list(self._peers):
            peer.tick(now)
        self._around.audits.look()
        self._show_figures()
        trouble = self._troubles.text()
        if trouble != self._shown_trouble:
            self._shown_trouble = trouble
            self._page.set_state("degraded" if trouble else "ready", trouble)
        if self._gauges_due and self._measuring is None and now - self._gauges_at >= GAUGES_S:
            self._gauges_due, self._gauges_at = False, now
            self._measuring = asyncio.create_task(self._measure())

    # --- called by peers ----------------------------------------------------------------------

    def gate(self, peer: Peer) -> Gate:
        """See Host."""
        return Gate(lambda device_id: self._refusal(peer, device_id), self._key, self._around.interval_s)

    def _refusal(self, peer: Peer, device_id: str) -> RejectReason | None:
        reason = self._directory.admits(device_id, peer.ip)
        if reason is None and self._settings.sync_tls_ca is not None and peer.common_name() != device_id:
            return RejectReason.WRONG_CERTIFICATE
        return reason

    def _key(self, device_id: str) -> bytes:
        rule = self._directory.rule(device_id)
        return rule.key if rule else b""

    def connected(self, peer: Peer) -> None:
        """See Host."""
        self._peers.add(peer)
        self.count({"connections_total": 1})
        crowded_out = self._unidentified.add(peer.ip, peer)
        if crowded_out is not None:
            crowded_out.end("busy", "too many unauthenticated connections; try again later")

    def happened(self, peer: Peer, happening: Happening) -> None:
        """See Host."""
        if isinstance(happening, Identified):
            self._welcome(peer, happening)
        elif isinstance(happening, Ended):
            self._tell_end(peer, happening)
            self._leave(peer)
        elif (connected := self._connected.get(peer)) is not None:
            connected.link.answered(happening)

    def closed(self, peer: Peer) -> None:
        """See Host."""
        self._peers.discard(peer)

    def _welcome(self, peer: Peer, who: Identified) -> None:
        self._unidentified.remove(peer.ip, peer)
        former = self._by_device.get(who.device_id)
        self._by_device[who.device_id] = peer
        if former is not None:
            former.end("replaced", "the device has connected again")
        link = DeviceLink(
            peer,
            who.device_id,
            who.oldest,
            self._threads,
            self.memory,
            self._clocks.monotonic,
            self._told,
        )
        serving = asyncio.create_task(self._serve(peer, link))
        self._connected[peer] = _Connected(peer, link, serving)

    async def _serve(self, peer: Peer, link: DeviceLink) -> None:
        try:
            await DeviceRounds(link, self._around).run()
        except RemoteProtocolError as error:
            peer.end(error.code, str(error))
        except Exception as error:
            _log.exception("internal error while serving the device", extra={"device": link.device_id})
            peer.end("internal", f"the server failed: {type(error).__name__}")

    def _leave(self, peer: Peer) -> None:
        """Remove a connection that is over; its round ends where it is, between two seconds."""
        self._unidentified.remove(peer.ip, peer)
        connected = self._connected.pop(peer, None)
        if connected is None:
            return
        self._gauges_due = True
        if not connected.serving.done() and connected.serving is not asyncio.current_task():
            connected.serving.cancel()
            self._ending.add(connected.serving)
            connected.serving.add_done_callback(self._ending.discard)
        if self._by_device.get(connected.link.device_id) is peer:
            del self._by_device[connected.link.device_id]
            self._troubles.forget(connected.link.device_id)

    def _tell_end(self, peer: Peer, ended: Ended) -> None:
        identified = peer.conversation.identified
        if not ended.by_peer:
            self.count({"protocol_errors" if identified else "rejected_connections": 1})
        if ended.code != "closed":
            who = "the peer ended" if ended.by_peer else "ended"
            kind = "sent by a peer" if ended.by_peer else ended.code
            line = f"connection from {peer.ip} {who}: {ended.code}: {ended.message}"
            self._note(kind, line, peer.conversation.device_id)

    def _told(self, note: Note, device_id: str) -> None:
        self.count(note.figures)
        self._gauges_due = self._gauges_due or "minutes_compared" in note.figures
        if note.message:
            self._note(note.kind, note.message, device_id)

    def count(self, figures: Mapping[str, int]) -> None:
        """See Host."""
        self._pending.update(figures)

    def _note(self, kind: str, message: str, device_id: str) -> None:
        write, held_back = self._limit.allow(kind)
        if held_back:
            _log.warning("%d more lines like those of the last seconds were not logged", held_back)
        if write:
            _log.warning("%s", message, extra={"device": device_id})

    # --- figures --------------------------------------------------------------------------

    def _show_figures(self) -> None:
        if self._pending:
            self._page.apply(self._pending)
            self._pending.clear()
        gauges = {"connections": len(self._peers), "payload_bytes": self.memory.held}
        shown = self._page.figures()
        if any(shown[name] != value for name, value in gauges.items()):
            self._page.set_figures(gauges)

    async def _measure(self) -> None:
        """Read the gauges over all devices from the database, now and then."""
        try:
            records = await self._threads.use(lambda store: store.devices())
            self._page.set_figures(
                {
                    "minutes_unresolved": sum(record.unresolved_minutes for record in records),
                    "minutes_unconfirmable": sum(record.unconfirmable_minutes for record in records),
                }
            )
            self._troubles.clear("", "devices")
        except StorageError as error:
            self._gauges_due = True
            self._troubles.set("", "devices", str(error))
            self._note("storage", f"the devices' records cannot be read: {error}", "")
        finally:
            self._measuring = None
