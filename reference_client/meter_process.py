"""One process of meters: one thread records, one sends, others answer the synchronization.

It ends when its parent asks it to, or when the pipe to its parent closes.
"""

from __future__ import annotations

import logging
import signal
import ssl
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import count
from multiprocessing.connection import Connection

from reference_client.faults import Faults
from reference_client.local_store import LocalStore, store_folder
from reference_client.meter import Meter
from reference_client.meter_figures import Figures
from reference_client.plan import ProcessPlan, SyncTarget
from reference_client.sip_sender import Outgoing, Pace, SipSender
from reference_client.sync_answerer import SyncAnswerer, SyncSettings
from reference_client.waveform import SampleSource, Waveform
from utilities import log
from utilities.errors import EcServerError
from utilities.sip_client import SipClient

_RECORDING_TAKES_S = 0.5
_SUBSCRIBE_S = 5.0
_LAST_ANSWERS_S = 3.0
_REPORT_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begin:
    """The common start of the meters in all processes, so that none is late in its first second."""

    start: int
    """Epoch second of the first sample."""
    at: float
    """``time.time()`` of the start."""


READY = "ready"
"""The first message of a process, which then waits for ``Begin``. After that it sends ``Figures``."""


def run(plan: ProcessPlan, parent: Connection) -> None:
    """Entry point of the process: run until the plan is done, the parent stops it, or its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    log.set_up(plan.name)
    sys.setswitchinterval(0.001)  # the sending thread must not wait for the recording one
    try:
        _run(plan, parent, stopping)
    except BlockingIOError:
        raise SystemExit(f"another meter records into {plan.store}, with one of the same ids") from None
    except EcServerError as error:
        raise SystemExit(str(error)) from None


def _run(plan: ProcessPlan, parent: Connection, stopping: threading.Event) -> None:
    client = SipClient(plan.sip)
    try:
        client.start()
        accounts = [client.add(device_id) for _, device_id in plan.devices]
        if plan.subscribe:
            _wait_for_presence(client, stopping)
        begin = _wait_for_begin(client, parent, stopping)
        if begin is not None:
            _MeterProcess(plan, begin, client, accounts, parent, stopping).run()
    finally:
        client.stop()


def _wait_for_presence(client: SipClient, stopping: threading.Event) -> None:
    """Like the original meters, send nothing before the server reports that it is open."""
    client.subscribe()
    deadline = time.monotonic() + _SUBSCRIBE_S
    while not client.present and not stopping.is_set():
        if time.monotonic() > deadline:
            raise SystemExit(f"the server did not say that it is open within {_SUBSCRIBE_S:.0f} s")
        client.poll(20)


def _wait_for_begin(client: SipClient, parent: Connection, stopping: threading.Event) -> Begin | None:
    """Report that this process is ready, and wait for ``Begin``; None if it is asked to stop instead."""
    try:
        parent.send(READY)
        while not parent.poll():
            client.poll(20)
            if stopping.is_set():
                return None
        word = parent.recv()
    except (EOFError, OSError):  # the parent is gone
        return None
    return word if isinstance(word, Begin) else None


class _MeterProcess:
    def __init__(
        self,
        plan: ProcessPlan,
        begin: Begin,
        client: SipClient,
        accounts: Sequence[int],
        parent: Connection,
        stopping: threading.Event,
    ) -> None:
        self._plan, self._start, self._client, self._accounts = plan, begin.start, client, accounts
        self._parent, self._stopping = parent, stopping
        self._meters = [_meter(plan, begin.start, number, device_id) for number, device_id in plan.devices]
        self._pace = Pace(begin.start, time.monotonic() + begin.at - time.time(), plan.speed)
        delay_s = 1 / plan.speed + _RECORDING_TAKES_S
        self._sender = SipSender(client, self._pace, plan.window, delay_s)
        self._answerers = [_answerer(plan.sync, meter) for meter in self._meters] if plan.sync else []
        self._answering: list[SyncAnswerer] = []
        self._recording = threading.Thread(target=self._record, name="recording", daemon=True)
        self._report_at = 0.0

    def run(self) -> None:
        """Run all steps; the files are closed in any case."""
        try:
            for meter in self._meters:
                if self._plan.seconds != 0:
                    meter.store.begin(self._start)
            for answerer in self._answerers:
                answerer.start()
                self._answering.append(answerer)
            self._recording.start()
            self._send()
        finally:
            self._end()

    def _send(self) -> None:
        while not self._stopping.is_set():
            self._tick()
            if not self._recording.is_alive() and self._sender.idle and not self._client.waiting:
                if not self._plan.stay:
                    return
                self._stopping.wait(0.2)

    def _tick(self) -> None:
        now = time.monotonic()
        self._sender.step(now)
        if now >= self._report_at:
            self._report_at = now + _REPORT_S
            self._report()
            if self._parent.poll():  # a message or the end of the pipe: both mean stop
                self._stopping.set()

    def _record(self) -> None:
        """The recording thread: record every second of every meter as soon as it is over."""
        try:
            for second in self._seconds():
                made = [meter.record(second, second - self._start) for meter in self._meters]
                outgoing = list(
                    merge(
                        *(
                            [Outgoing(message.due_us, account, message.body) for message in messages]
                            for account, messages in zip(self._accounts, made)
                        )
                    )
                )
                while not self._sender.offer(outgoing, 0.2):
                    if self._stopping.is_set():
                        return
        except (OSError, ValueError):
            _log.exception("recording ended")
            self._stopping.set()
        finally:
            for meter in self._meters:
                meter.store.finish()

    def _seconds(self) -> Iterator[int]:
        """The seconds to record, each as soon as it is over."""
        start, length = self._start, _length(self._plan, self._start)
        for second in count(start) if length is None else range(start, start + length):
            wait_s = self._pace.at((second + 1) * 1_000_000) - time.monotonic() if self._pace.waits else 0.0
            if self._stopping.wait(max(0.0, wait_s)):
                return
            yield second

    def _report(self, *, finished: bool = False) -> None:
        try:
            self._parent.send(self._figures(finished))
        except OSError:  # the parent is gone
            self._stopping.set()

    def _figures(self, finished: bool) -> Figures:
        client, verified = self._client, [answerer.verified for answerer in self._answerers]
        return Figures(
            seconds_recorded=sum(meter.seconds_recorded for meter in self._meters),
            seconds_refused=sum(meter.seconds_refused for meter in self._meters),
            sent=client.sent,
            acknowledged=client.acknowledged,
            failed=client.failed.copy(),
            skipped=self._sender.skipped,
            waiting=client.waiting,
            behind_s=self._sender.behind_s(time.monotonic()),
            faults=sum((meter.faults.done for meter in self._meters), Counter()),
            rounds=sum(answerer.rounds for answerer in self._answerers),
            verified_through=tuple(end.through if end else None for end in verified),
            finished=finished,
        )

    def _end(self) -> None:
        self._stopping.set()
        if self._recording.is_alive():
            self._recording.join()
        for answerer in self._answering:
            answerer.stop()
        deadline = time.monotonic() + _LAST_ANSWERS_S
        while self._client.waiting and time.monotonic() < deadline:
            self._client.poll(10)
        self._report(finished=True)
        for meter in self._meters:
            meter.store.close()


def _meter(plan: ProcessPlan, start: int, number: int, device_id: str) -> Meter:
    # Real-time recordings must survive a power failure; a replay can be repeated.
    folder = store_folder(plan.store, device_id)
    store = LocalStore(folder, keep_hours=plan.keep_hours, durable=plan.speed == 1)
    return Meter(
        device_id,
        _source(plan, start, number, device_id),
        store,
        Faults(plan.faults, device_id),
        binary=plan.binary,
    )


def _source(plan: ProcessPlan, start: int, number: int, device_id: str) -> SampleSource:
    if plan.recorded is None:
        return Waveform(zlib.crc32(device_id.encode()))
    return plan.recorded.open(number, start)


def _length(plan: ProcessPlan, start: int) -> int | None:
    if plan.seconds is not None or plan.recorded is None or plan.recorded.loop:
        return plan.seconds
    return max(plan.recorded.open(number, start).seconds for number in range(len(plan.recorded.files)))


def _answerer(target: SyncTarget, meter: Meter) -> SyncAnswerer:
    settings = SyncSettings(
        target.host, target.port, meter.device_id, target.key, tls=_tls(target) if target.over_tls else None
    )
    return SyncAnswerer(settings, meter.store)


def _tls(target: SyncTarget) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=target.tls_authority)
    if target.tls_authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if target.tls_certificate is not None:
        context.load_cert_chain(target.tls_certificate, target.tls_key)
    return context
