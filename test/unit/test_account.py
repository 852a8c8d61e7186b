"""What a dead receiver left open is settled to the unit, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec_server.errors import RetryableStorageError
from ec_server.status.figures import RECEIVER_FIGURES, queued
from ec_server.status.worker_page import WorkerPage
from ec_server.supervision.account import settle, settle_former_run

DAY = 1_700_006_400


def page_with(path: Path, received: int, intent: int = 0, **figures: int) -> WorkerPage:
    page = WorkerPage.create(path, RECEIVER_FIGURES)
    for _ in range(received):
        page.count_received()
    page.apply(figures)
    page.intend(DAY, intent)
    return page


def never_asked(_day: int, _writer: str) -> tuple[int, int, int] | None:
    raise AssertionError("nothing was in doubt")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "receiver-0.page"


def test_what_was_received_and_not_settled_is_lost(path):
    page = page_with(path, 10, stored=4, duplicate=1, rejected_empty=2, spooled=1)
    assert settle(page, never_asked) == 2
    assert page.figures()["lost"] == 2
    assert queued(page.figures()) == 0


def test_a_settled_page_is_left_as_it_is(path):
    page = page_with(path, 3, stored=3, intent=2, settled_sequence=2)
    before = page.figures()
    assert settle(page, never_asked) == 0
    assert page.figures() == before


def test_settling_twice_counts_nothing_twice(path):
    page = page_with(path, 10, stored=4, intent=7, settled_sequence=6)
    assert settle(page, lambda day, writer: (7, 2, 1)) == 3
    before = page.figures()
    assert settle(page, never_asked) == 0
    assert page.figures() == before


def test_a_write_in_doubt_that_committed_counts_as_stored_and_duplicate(path):
    asked = []

    def committed_mark(day: int, writer: str) -> tuple[int, int, int]:
        asked.append((day, writer))
        return 7, 3, 2

    page = page_with(path, 10, stored=4, intent=7, settled_sequence=6)
    assert settle(page, committed_mark) == 1
    figures = page.figures()
    assert (figures["stored"], figures["duplicate"], figures["settled_sequence"]) == (7, 2, 7)
    assert asked == [(DAY, "receiver-0")]


@pytest.mark.parametrize("mark", [None, (6, 3, 2)])
def test_a_write_in_doubt_that_did_not_commit_is_lost_and_never_asked_for_again(path, mark):
    page = page_with(path, 10, stored=4, intent=7, settled_sequence=6)
    assert settle(page, lambda day, writer: mark) == 6
    assert page.figures()["settled_sequence"] == 7
    assert settle(page, never_asked) == 0


def test_where_the_database_cannot_be_asked_the_write_in_doubt_counts_as_lost(path, caplog):
    def committed_mark(day: int, writer: str) -> tuple[int, int, int]:
        raise RetryableStorageError("disk is away")

    page = page_with(path, 10, stored=4, intent=7, settled_sequence=6)
    assert settle(page, committed_mark) == 6
    assert "disk is away" in caplog.text


def test_a_mark_that_claims_more_than_was_open_is_not_believed(path, caplog):
    page = page_with(path, 5, stored=4, intent=7, settled_sequence=6)
    assert settle(page, lambda day, writer: (7, 100, 0)) == 1
    assert queued(page.figures()) == 0
    assert "settles 100 of 1" in caplog.text


@given(
    parts=st.tuples(*[st.integers(0, 5)] * 4),
    open_batches=st.integers(0, 20),
    in_doubt=st.tuples(st.integers(0, 10), st.integers(0, 10)),
    committed=st.booleans(),
)
def test_whatever_happened_the_account_is_whole_afterwards(
    tmp_path_factory, parts, open_batches, in_doubt, committed
):
    stored, duplicate, spooled, rejected = parts
    page = page_with(
        tmp_path_factory.mktemp("run") / "receiver-3.page",
        sum(parts) + open_batches,
        intent=1,
        stored=stored,
        duplicate=duplicate,
        spooled=spooled,
        rejected_malformed=rejected,
    )
    settle(page, lambda day, writer: (1, *in_doubt) if committed else None)
    assert queued(page.figures()) == 0
    page.close()


def test_all_receivers_of_a_former_run_are_settled_and_every_worker_is_marked_dead(tmp_path):
    page_with(tmp_path / "receiver-0.page", 5, stored=3).set_state("ready")
    page_with(tmp_path / "receiver-7.page", 4, stored=4).set_state("ready")
    WorkerPage.create(tmp_path / "sync.page", ("rounds",)).set_state("ready")
    (tmp_path / "receiver-8.page").write_bytes(b"no page")
    assert settle_former_run(tmp_path, never_asked) == 2
    for name in ("receiver-0", "receiver-7", "sync"):
        assert WorkerPage.open(tmp_path / f"{name}.page").state()[0] == "dead"


def test_a_page_of_another_version_is_named_and_left_alone(tmp_path, caplog):
    WorkerPage.create(tmp_path / "receiver-0.page", ("stored", "another"))
    assert settle_former_run(tmp_path, never_asked) == 0
    assert "receiver-0.page cannot be accounted for" in caplog.text
