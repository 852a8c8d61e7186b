"""A snapshot as Prometheus text: a table of metrics, and a collector that reads it.

Counters end in ``_total``. Whole values are written as integers, so that a script can add up the account
without rounding errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ec_server.account.figures import REJECTED
from ec_server.account.histograms import HISTOGRAMS, Histogram
from ec_server.status.device_metrics import device_families
from ec_server.status.health import SILENT_S, worker_fault
from ec_server.status.process_usage import read_usage_with_children
from ec_server.status.snapshot import Snapshot, is_receiver
from utilities.model import RejectReason

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Metric (without _total), the figure to sum over all pages, help.
_COUNTERS = (
    ("ec_messages_received", "received", "Messages taken at the SIP port."),
    ("ec_batches_stored", "stored", "Batches committed that changed stored data."),
    ("ec_batches_duplicate", "duplicate", "Batches that changed nothing."),
    ("ec_batches_lost", "lost", "Received by a process that died before it stored or spooled them."),
    ("ec_connections_evicted", "connections_evicted", "SIP connections closed to make room for others."),
    ("ec_sip_requests_refused", "requests_refused", "SIP requests answered with a refusal."),
    ("ec_sip_requests_dropped", "requests_dropped", "What came to the SIP port and has no answer."),
    ("ec_messages_quarantined", "quarantined", "Rejected messages kept in the quarantine file."),
    ("ec_samples_stored", "samples_stored", "Samples in the stored batches."),
    ("ec_commits", "commits", "Commits of the receivers."),
    ("ec_write_failures", "write_failures", "Write calls that failed and were tried again."),
    ("ec_sync_minutes_compared", "minutes_compared", "Minutes compared with the device's digests."),
    ("ec_sync_seconds_repaired", "seconds_repaired", "Seconds changed by repairs."),
    ("ec_sync_samples_fetched", "samples_fetched", "Samples asked for and received by repairs."),
    ("ec_sync_samples_repaired", "samples_repaired", "Samples that repairs added or replaced."),
    ("ec_sync_value_conflicts", "value_conflicts", "Stored values that the device's replaced."),
    ("ec_sync_rounds", "rounds", "Rounds that ended."),
    ("ec_sync_connections_opened", "connections_total", "Devices' connections accepted."),
    ("ec_sync_connections_rejected", "rejected_connections", "Devices' connections refused."),
    ("ec_sync_protocol_errors", "protocol_errors", "Connections ended by a broken rule."),
    ("ec_sync_bytes_received", "bytes_received", "Bytes received from devices."),
    ("ec_sync_bytes_sent", "bytes_sent", "Bytes sent to devices."),
    ("ec_sync_contradictions", "contradictions", "Minutes in which a device contradicted its own digests."),
    ("ec_sync_minutes_unreadable", "minutes_unreadable", "Minutes left out of a round: unreadable here."),
    ("ec_sync_payload_waits", "payload_waits", "Payloads that had to wait for memory."),
    ("ec_packed_samples", "packed_samples", "Samples of rows rewritten into packed blocks."),
    ("ec_sync_digests_computed", "digests_computed", "Minute digests computed from the rows."),
)
_GAUGES = (
    ("ec_sip_connections", "sip_connections", "Connections to the SIP port now, TCP and TLS."),
    ("ec_sync_minutes_unresolved", "minutes_unresolved", "Minutes compared and still different."),
    ("ec_sync_minutes_unconfirmable", "minutes_unconfirmable", "Minutes that the device lacks."),
    ("ec_sync_payload_bytes", "payload_bytes", "Bytes of payloads in memory, of all connections."),
    ("ec_pack_backlog_minutes", "pack_backlog_minutes", "Minutes old enough to be packed that are not."),
    ("ec_sync_connections", "connections", "Devices connected for synchronization now."),
)


@dataclass(frozen=True, slots=True)
class SnapshotCollector(Collector):
    """The metric families of one snapshot; create one per scrape."""

    snapshot: Snapshot
    version: str
    allowed_s: float = 0.0
    """How old a device's proof may be before the device counts as behind."""
    most_devices: int = 0
    queue_capacity: int = 0
    """How many messages the rings of all receivers can hold."""

    def collect(self) -> Iterator[Metric]:
        """Every metric family, those of the specification first."""
        yield from self._account()
        yield from map(self._histogram, HISTOGRAMS)
        yield from self._storage()
        yield from self._workers()
        yield _gauge("ec_devices", "Devices on record or heard now.", len(self.snapshot.devices))
        sending = sum(device.samples_per_second > 0 for device in self.snapshot.devices)
        yield _gauge("ec_devices_sending", "Devices whose samples arrive now.", sending)
        build = GaugeMetricFamily("ec_build_info", "1, labelled with the version.", labels=["version"])
        build.add_metric([self.version], 1)
        yield build
        now = self.snapshot
        yield from device_families(now.devices, now.now, self.allowed_s, self.most_devices)

    def _histogram(self, histogram: Histogram) -> Metric:
        totals = {figure: self.snapshot.total(figure) for figure in histogram.figures}
        return HistogramMetricFamily(
            histogram.name,
            histogram.help,
            buckets=histogram.buckets(totals),
            sum_value=totals[histogram.figures[-1]] / 1000,
        )

    def _account(self) -> Iterator[Metric]:
        snapshot, account = self.snapshot, self.snapshot.account()
        for name, figure, text in _COUNTERS:
            yield CounterMetricFamily(name, text, value=snapshot.total(figure))
        rejected = CounterMetricFamily(
            "ec_messages_rejected", "Messages rejected, by reason.", labels=["reason"]
        )
        for reason in RejectReason:
            rejected.add_metric([reason.value], snapshot.total(REJECTED[reason]))
        yield rejected
        yield _gauge("ec_queue_batches", "Received and not yet stored.", account.queued)
        yield _gauge(
            "ec_queue_capacity_batches", "Messages that the receivers hold at most.", self.queue_capacity
        )
        yield _gauge("ec_spool_batches", "In the spool until the database takes them.", account.spooled)
        for name, figure, text in _GAUGES:
            yield _gauge(name, text, snapshot.total(figure))
        yield CounterMetricFamily(
            "ec_commit_seconds", "Time spent in commits.", value=snapshot.total("commit_us") / 1e6
        )

    def _storage(self) -> Iterator[Metric]:
        health = self.snapshot.database.health
        writable = int(health is not None and health.writable)
        yield _gauge("ec_storage_writable", "1 where the database takes writes.", writable)
        if health is not None and health.free_bytes is not None:
            yield _gauge("ec_storage_free_bytes", "Free bytes where the data is.", health.free_bytes)
        stored = GaugeMetricFamily("ec_stored_bytes", "Bytes that stored data takes.", labels=["kind"])
        for kind in ("rows", "blocks"):
            stored.add_metric([kind], self.snapshot.total(f"stored_bytes_{kind}"))
        yield stored

    def _workers(self) -> Iterator[Metric]:
        labels = ["worker"]
        up = GaugeMetricFamily("ec_worker_up", "1 where the worker answers and works.", labels=labels)
        received = CounterMetricFamily(
            "ec_worker_messages_received", "Messages taken, by receiver.", labels=labels
        )
        memory = GaugeMetricFamily(
            "ec_process_resident_memory_bytes", "Memory, a receiver's with its writer's.", labels=labels
        )
        cpu = CounterMetricFamily(
            "ec_process_cpu_seconds", "Processor time, a receiver's with its writer's.", labels=labels
        )
        for worker in self.snapshot.workers:
            if worker.expected:
                up.add_metric([worker.name], int(not worker_fault(worker)))
            if is_receiver(worker):
                received.add_metric([worker.name], worker.figures["received"])
            alive = worker.expected and 0 <= worker.silent_s <= SILENT_S
            if alive and (usage := read_usage_with_children(worker.pid)):
                memory.add_metric([worker.name], usage.resident_bytes)
                cpu.add_metric([worker.name], usage.cpu_s)
        yield from (up, received, memory, cpu)


def exposition(
    snapshot: Snapshot, version: str, allowed_s: float = 0.0, most_devices: int = 0, queue_capacity: int = 0
) -> bytes:
    """The body of ``/metrics``; with metrics per device for ``most_devices`` of them."""
    collector = SnapshotCollector(snapshot, version, allowed_s, most_devices, queue_capacity)
    return _WHOLE.sub(_as_integer, generate_latest(collector))


# A whole value as the library may write it: 12.0, 1e+06, 1.2345678e+07.
_WHOLE = re.compile(rb"(?m)^([^#].* )(\d[\d.e+]*)$")


def _as_integer(match: re.Match[bytes]) -> bytes:
    value = float(match[2])
    return match[1] + (b"%d" % value if value.is_integer() else match[2])


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
