"""The figures as Prometheus text: the contract's names, whole numbers, one account that adds up."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ec_server.account.figures import RECEIVER_FIGURES, REJECTED, SYNC_FIGURES
from ec_server.account.histograms import COMMIT_DURATION, HISTOGRAMS
from ec_server.account.worker_page import WorkerPage
from ec_server.status.database_view import DatabaseState
from ec_server.status.live_devices import DeviceStatus
from ec_server.status.metrics import exposition
from ec_server.status.snapshot import Snapshot
from ec_server.status.worker_view import WorkerView, read_workers
from ec_server.storage.contract import StorageHealth
from utilities.model import DeviceRecord, RejectReason

ACCOUNT = ("stored", "duplicate", "spooled", "lost", *REJECTED.values())


def receiver(number: int, received: int = 0, **figures: int) -> WorkerView:
    zeros = dict.fromkeys(RECEIVER_FIGURES, 0)
    return WorkerView(f"receiver-{number}", True, "ready", figures={"received": received, **zeros, **figures})


def snapshot(*workers: WorkerView, database: DatabaseState | None = None) -> Snapshot:
    return Snapshot(1e9, workers, database or DatabaseState(health=StorageHealth(True, "", 123)), ())


def lines(now: Snapshot) -> dict[str, str]:
    text = exposition(now, "1.2.3").decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_the_names_of_the_contract_are_there_from_the_start() -> None:
    found = lines(snapshot())
    for name in (
        "ec_messages_received_total",
        "ec_batches_stored_total",
        "ec_batches_duplicate_total",
        "ec_batches_lost_total",
        "ec_queue_batches",
        "ec_spool_batches",
        "ec_sync_minutes_compared_total",
        "ec_sync_seconds_repaired_total",
        "ec_sync_minutes_unresolved",
        *(f'ec_messages_rejected_total{{reason="{reason.value}"}}' for reason in RejectReason),
    ):
        assert found[name] == "0"


def test_the_text_parses_and_counters_are_counters() -> None:
    text = exposition(snapshot(receiver(0, 10, stored=9)), "1.2.3").decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["ec_messages_received"].type == "counter"
    assert families["ec_messages_rejected"].type == "counter"
    assert families["ec_queue_batches"].type == "gauge"
    assert "_created" not in text
    for family in families.values():
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")


def test_receivers_are_summed_into_one_line() -> None:
    found = lines(snapshot(receiver(0, 10, stored=9, lost=1), receiver(1, 5, duplicate=2)))
    assert found["ec_messages_received_total"] == "15"
    assert found["ec_batches_stored_total"] == "9"
    assert found["ec_batches_lost_total"] == "1"
    assert found["ec_queue_batches"] == "3"


@pytest.mark.parametrize("number", [0, 1, 999_999, 1_000_000, 12_345_678, 2**53 - 1])
def test_numbers_are_whole_however_large(number: int) -> None:
    found = lines(snapshot(receiver(0, number, stored=number)))
    assert found["ec_messages_received_total"] == str(number)
    assert found["ec_queue_batches"] == "0"


def test_a_fraction_stays_a_fraction() -> None:
    assert float(lines(snapshot(receiver(0, commit_us=1_500_000)))["ec_commit_seconds_total"]) == 1.5
    assert float(lines(snapshot(receiver(0, commit_us=7)))["ec_commit_seconds_total"]) == 7e-06


workers = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(ACCOUNT), st.integers(0, 10**12)), st.integers(0, 10**5)),
    max_size=6,
)


@given(workers)
def test_the_account_adds_up_to_the_unit(pages: list[tuple[dict[str, int], int]]) -> None:
    views = [
        receiver(number, sum(figures.values()) + waiting, **figures)
        for number, (figures, waiting) in enumerate(pages)
    ]
    found = lines(snapshot(*views))
    rejected = sum(int(value) for name, value in found.items() if name.startswith("ec_messages_rejected"))
    parts = ("ec_batches_stored_total", "ec_batches_duplicate_total", "ec_batches_lost_total")
    held = ("ec_queue_batches", "ec_spool_batches")
    total = sum(int(found[name]) for name in (*parts, *held)) + rejected
    assert int(found["ec_messages_received_total"]) == total


def test_pages_on_disk_are_counted_also_those_of_receivers_no_longer_asked_for(tmp_path: Path) -> None:
    for name, figures in (("receiver-0", RECEIVER_FIGURES), ("receiver-3", RECEIVER_FIGURES)):
        page = WorkerPage.create(tmp_path / f"{name}.page", figures)
        page.count_received()
        page.apply({"stored": 1, "samples_stored": 44})
        page.close()
    sync = WorkerPage.create(tmp_path / "sync.page", SYNC_FIGURES)
    sync.apply({"minutes_compared": 60, "seconds_repaired": 3, "minutes_unresolved": 2})
    sync.close()
    found = lines(snapshot(*read_workers(tmp_path, ("receiver-0", "sync"))))
    assert found["ec_messages_received_total"] == "2"
    assert found["ec_samples_stored_total"] == "88"
    assert found["ec_sync_minutes_compared_total"] == "60"
    assert found["ec_sync_seconds_repaired_total"] == "3"
    assert found["ec_sync_minutes_unresolved"] == "2"
    assert 'ec_worker_up{worker="receiver-3"}' not in found


def test_a_database_that_does_not_answer_leaves_the_figures_and_shows_not_writable() -> None:
    found = lines(snapshot(receiver(0, 1, stored=1), database=DatabaseState(error="away")))
    assert found["ec_batches_stored_total"] == "1"
    assert found["ec_storage_writable"] == "0"
    assert "ec_storage_free_bytes" not in found


def test_names_in_the_alerts_and_the_dashboard_exist() -> None:
    """Whoever renames a figure must change what watches it."""
    text = exposition(snapshot(receiver(0)), "1").decode()
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    deploy = Path(__file__).parents[2] / "deploy"
    rules = (deploy / "alerts.yml").read_text("utf-8")
    expressions = re.findall(r"(?m)^        expr: (?:>-\n((?: {10}.*\n)+)|(.*))", rules)
    panels = json.loads((deploy / "grafana-dashboard.json").read_text("utf-8"))["panels"]
    expressions += [("", target["expr"]) for panel in panels for target in panel.get("targets", ())]
    used = {name for pair in expressions for text in pair for name in re.findall(r"\bec_[a-z_]+", text)}
    assert used
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= known


def test_the_document_lists_every_figure_and_no_other() -> None:
    text = exposition(snapshot(receiver(0)), "1").decode()
    known = set(re.findall(r"^# TYPE (\S+ \S+)", text, re.MULTILINE))
    document = (Path(__file__).parents[2] / "docs" / "status.md").read_text("utf-8")
    listed = re.findall(r"^\| `(ec_\w+)(?:\{\w+\})?` \| (\w+) \|", document, re.MULTILINE)
    assert {" ".join(pair) for pair in listed} == known


# --- devices one by one -----------------------------------------------------------------------


def device(
    name: str, *, unresolved: int = 0, through: int | None = 999_999_960, conflicts: int = 0
) -> DeviceStatus:
    record = DeviceRecord(
        name,
        0,
        10**15 - 10**6,
        verified_through=through,
        unresolved_minutes=unresolved,
        conflicts=conflicts,
    )
    return DeviceStatus(record, 44_000.0)


def of_devices(most: int, *devices: DeviceStatus) -> dict[str, str]:
    now = Snapshot(1e9, (), DatabaseState(), devices)
    text = exposition(now, "1", 2_400.0, most).decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("ec_device_"))


def test_each_device_has_its_five_figures() -> None:
    assert of_devices(10, device("meter-1", unresolved=2, conflicts=7)) == {
        'ec_device_samples_per_second{device="meter-1"}': "44000",
        'ec_device_last_seen_timestamp_seconds{device="meter-1"}': "999999999",
        'ec_device_verified_through_timestamp_seconds{device="meter-1"}': "999999960",
        'ec_device_unresolved_minutes{device="meter-1"}': "2",
        'ec_device_conflicts_total{device="meter-1"}': "7",
    }


def test_a_device_before_its_first_round_has_no_moment_of_proof() -> None:
    assert not [name for name in of_devices(10, device("m", through=None)) if "verified" in name]


def test_devices_that_need_attention_are_listed_first() -> None:
    devices = (
        device("a-proven"),
        device("b-behind", through=999_000_000),
        device("c-differing", unresolved=1),
        device("d-proven"),
    )
    for most, expected in ((0, []), (1, "c"), (2, "cb"), (3, "cba"), (9, "cbad")):
        found = [name for name in of_devices(most, *devices) if name.startswith("ec_device_unresolved")]
        assert sorted(re.findall(r'"(\w)-', " ".join(found))) == sorted(expected)


# --- distributions ----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e5), max_size=30))
def test_a_histogram_counts_each_observation_once_and_keeps_the_sum(observed: list[float]) -> None:
    for histogram in HISTOGRAMS:
        totals: Counter[str] = Counter()
        for seconds in observed:
            totals.update(histogram.noted(seconds))
        buckets = dict(histogram.buckets(totals))
        assert buckets["+Inf"] == len(observed)
        for bound_s in histogram.bounds_s:
            assert buckets[f"{bound_s:g}"] == sum(seconds <= bound_s for seconds in observed)
        assert abs(totals[histogram.figures[-1]] - 1000 * sum(observed)) <= len(observed)


def test_histograms_of_all_receivers_add_up_in_the_metrics() -> None:
    figures = COMMIT_DURATION.noted(0.004)
    found = lines(snapshot(receiver(0, **figures), receiver(1, **figures)))
    assert found['ec_commit_duration_seconds_bucket{le="0.0025"}'] == "0"
    assert found['ec_commit_duration_seconds_bucket{le="0.005"}'] == "2"
    assert found["ec_commit_duration_seconds_count"] == "2"
    assert found["ec_commit_duration_seconds_sum"] == "0.008"
