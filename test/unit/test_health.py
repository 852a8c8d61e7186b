"""From workers' states and the database's answer to healthy and ready, with reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from ec_server.account.worker_page import WorkerPage
from ec_server.status.database_view import DatabaseState
from ec_server.status.health import healthy, ready
from ec_server.status.worker_view import WorkerView, expected_workers, read_workers
from ec_server.storage.contract import StorageHealth

GOOD_STORAGE = DatabaseState(health=StorageHealth(True, "", 10**9))
READY = (
    WorkerView("receiver-0", expected=True, state="ready"),
    WorkerView("receiver-1", expected=True, state="ready"),
    WorkerView("sync", expected=True, state="ready"),
)


def with_last(**changed: object) -> tuple[WorkerView, ...]:
    return (*READY[:2], WorkerView(**{"name": "sync", "expected": True, "state": "ready", **changed}))  # type: ignore[arg-type]


def test_workers_that_are_ready_over_a_writable_database_are_healthy_and_ready() -> None:
    assert healthy(READY, GOOD_STORAGE).good
    assert ready(READY, GOOD_STORAGE).good


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        ({"state": "starting"}, "sync is starting"),
        ({"state": "dead", "reason": "killed by signal 9"}, "sync is dead: killed by signal 9"),
        ({"state": "degraded", "reason": "disk full"}, "sync is degraded: disk full"),
        ({"silent_s": 10.1}, "sync has not answered for 10 s"),
        ({"silent_s": -40.0}, "sync has not answered since the machine started"),
        ({"fault": "it has no page"}, "sync: it has no page"),
    ],
)
def test_a_worker_in_trouble_makes_both_fail_by_name_and_reason(worker: dict[str, object], said: str) -> None:
    workers = with_last(**worker)
    assert healthy(workers, GOOD_STORAGE).reasons == (said,)
    assert ready(workers, GOOD_STORAGE).reasons == (said,)


def test_a_worker_that_has_just_answered_is_healthy() -> None:
    assert healthy(with_last(silent_s=9.9), GOOD_STORAGE).good


def test_a_worker_that_is_stopping_is_healthy_and_not_ready() -> None:
    workers = with_last(state="stopping", reason="asked to")
    assert healthy(workers, GOOD_STORAGE).good
    assert ready(workers, GOOD_STORAGE).reasons == ("sync is stopping: asked to",)


@pytest.mark.parametrize(
    ("database", "said"),
    [
        (DatabaseState(error="no node answers"), "storage: no node answers"),
        (
            DatabaseState(health=StorageHealth(False, "400 MB free", 4 * 10**8)),
            "storage takes no writes: 400 MB free",
        ),
    ],
)
def test_a_database_that_takes_no_writes_makes_both_fail(database: DatabaseState, said: str) -> None:
    assert healthy(READY, database).reasons == (said,)
    assert ready(READY, database).reasons == (said,)


def test_every_trouble_is_named_not_only_the_first() -> None:
    workers = (
        WorkerView("receiver-0", expected=True, state="dead"),
        WorkerView("receiver-1", expected=True, state="degraded"),
    )
    assert len(healthy(workers, DatabaseState(error="away")).reasons) == 3


def test_a_page_left_by_an_earlier_larger_setting_does_not_count() -> None:
    left = WorkerView("receiver-7", expected=False, state="dead", silent_s=1e6)
    assert ready((*READY, left), GOOD_STORAGE).good


def test_pages_are_read_in_the_order_asked_for_and_others_after_them(tmp_path: Path) -> None:
    for name in ("receiver-0", "receiver-5", "sync"):
        page = WorkerPage.create(tmp_path / f"{name}.page", ("stored",))
        page.beat()
        page.set_state("ready")
        page.close()
    views = read_workers(tmp_path, expected_workers(2))
    assert [(view.name, view.expected, view.fault == "") for view in views] == [
        ("receiver-0", True, True),
        ("receiver-1", True, False),
        ("sync", True, True),
        ("receiver-5", False, True),
    ]


@pytest.mark.parametrize("content", [b"", b"ECPAGE01", b"ECPAGE01[]" + b"\0" * 4600, b"x" * 5000])
def test_a_damaged_page_is_a_fault_of_its_worker_and_of_nobody_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sync.page").write_bytes(content)
    (view,) = read_workers(tmp_path, ("sync",))
    assert view.fault
    assert healthy([view], GOOD_STORAGE).reasons[0].startswith("sync: ")


def test_damage_is_named_and_makes_the_server_unhealthy_but_not_unready() -> None:
    health = StorageHealth(True, damage=("ec-20260301.sqlite.damaged-1: set aside",))
    database = DatabaseState(health=health)
    assert healthy(READY, database).reasons == (
        "storage is damaged: ec-20260301.sqlite.damaged-1: set aside",
    )
    assert ready(READY, database).good
