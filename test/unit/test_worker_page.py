"""A worker's page: whole steps only, whoever reads and whenever the writer dies."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec_server.account.figures import PORT_FIGURES, RECEIVER_FIGURES, REJECTED, queued, settled
from ec_server.account.worker_page import STATES, WorkerPage
from ec_server.supervision.former_run import mark_dead
from utilities.model import RejectReason

ROOT = Path(__file__).parents[2]
NAMES = ("stored", "samples_stored", "duplicate")
NO_PORT = dict.fromkeys(PORT_FIGURES, 0)

# Counts messages and settles them as a receiver does: 44 samples with every stored batch.
WRITER = """
import sys
from pathlib import Path
from ec_server.account.worker_page import WorkerPage
page = WorkerPage.create(Path(sys.argv[1]), ("stored", "samples_stored", "duplicate"))
print("ready", flush=True)
number = 0
while True:
    number += 1
    page.count_received()
    page.count_received()
    page.apply({"stored": 1, "samples_stored": 44, "duplicate": number % 2})
"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[WorkerPage]:
    made = WorkerPage.create(tmp_path / "receiver-0.page", RECEIVER_FIGURES)
    yield made
    made.close()


@pytest.fixture
def start_writer(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def page_of_version_1(path: Path, names: Sequence[str], received: int, values: Sequence[int]) -> None:
    """A page as version 1.0 wrote it: eight cells, then two slots of which the step's parity says which."""
    header = (b"ECPAGE01" + json.dumps(list(names)).encode()).ljust(4096, b"\0")
    cells = (received, 1, 0, 4711, STATES.index("ready"), 20_515, 42, 0)
    slots = (*[-1] * len(names), *values)
    path.write_bytes(header + bytes(512) + struct.pack(f"={len(cells) + len(slots)}q", *cells, *slots))


def writer(path: Path, started: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    started.append(process)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_new_page_has_all_figures_zero_and_says_starting(page: WorkerPage) -> None:
    assert set(page.figures().values()) == {0}
    assert page.state() == ("starting", "")
    assert page.pid() == 0


@given(
    steps=st.lists(
        st.dictionaries(st.sampled_from(RECEIVER_FIGURES), st.integers(-5, 10**6), max_size=6), max_size=30
    )
)
def test_figures_are_the_sum_of_the_steps_also_for_whoever_opens_the_page_later(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("page") / "receiver-0.page"
    page = WorkerPage.create(path, RECEIVER_FIGURES)
    expected = dict.fromkeys(RECEIVER_FIGURES, 0)
    for step in steps:
        page.apply(step)
        for name, amount in step.items():
            expected[name] += amount
        assert page.figures() == {"received": 0, **NO_PORT, **expected}
    page.close()
    again = WorkerPage.open(path)
    assert again.figures() == {"received": 0, **NO_PORT, **expected}
    again.close()


outcomes = st.sampled_from(["stored", "duplicate", "spooled", "lost", *REJECTED.values()])


@given(events=st.lists(st.none() | outcomes, max_size=200))
def test_received_is_always_what_is_settled_and_what_is_queued(
    tmp_path_factory: pytest.TempPathFactory, events: list[str | None]
) -> None:
    page = WorkerPage.create(tmp_path_factory.mktemp("page") / "receiver-0.page", RECEIVER_FIGURES)
    waiting = 0
    for outcome in events:
        if outcome is None:
            page.count_received()
            waiting += 1
        elif waiting:
            page.apply({outcome: 1})
            waiting -= 1
        figures = page.figures()
        assert queued(figures) == waiting
        assert figures["received"] == settled(figures) + waiting
    page.close()


class DiesAfter(dict[str, int]):
    """A step whose writer dies after so many figures have been written."""

    survives = 0

    def items(self):  # type: ignore[no-untyped-def]
        for number, item in enumerate(super().items()):
            if number == self.survives:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_a_step_cut_at_any_figure_leaves_the_step_before_it(page: WorkerPage, survives: int) -> None:
    page.apply({"stored": 5, "samples_stored": 220, "commits": 1})
    before = page.figures()
    step = DiesAfter(stored=1, samples_stored=44, commits=1)
    step.survives = survives
    with pytest.raises(KeyboardInterrupt):
        page.apply(step)
    assert page.figures() == before
    page.apply({"duplicate": 1})
    assert page.figures() == {**before, "duplicate": 1}


def test_an_unknown_figure_changes_nothing(page: WorkerPage) -> None:
    with pytest.raises(KeyError):
        page.apply({"stored": 1, "nonsense": 1})
    assert set(page.figures().values()) == {0}


def test_a_kill_at_any_moment_leaves_a_whole_step_and_the_next_process_goes_on(
    tmp_path: Path, start_writer: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "receiver-0.page"
    last = 0
    for _ in range(12):
        process = writer(path, start_writer)
        time.sleep(random.uniform(0, 0.02))  # the moment of the kill, not a wait
        process.kill()
        process.wait()
        page = WorkerPage.open(path)
        figures = page.figures()
        assert figures["samples_stored"] == 44 * figures["stored"]
        assert figures["stored"] >= last
        assert figures["received"] >= figures["stored"] + figures["duplicate"]
        last = figures["stored"]
        # What the launcher does before the replacement starts: the figures meet again.
        page.apply({"duplicate": figures["received"] - figures["stored"] - figures["duplicate"]})
        assert page.figures()["received"] == sum(page.figures()[n] for n in ("stored", "duplicate"))
        page.close()
    assert last > 0


def test_a_reader_beside_a_busy_writer_never_sees_half_a_step(
    tmp_path: Path, start_writer: list[subprocess.Popen[str]]
) -> None:
    path = tmp_path / "receiver-0.page"
    writer(path, start_writer)
    page = WorkerPage.open(path)
    seen = set()
    while len(seen) < 1000:
        figures = page.figures()
        assert figures["samples_stored"] == 44 * figures["stored"]
        assert figures["received"] >= figures["stored"] + figures["duplicate"]
        seen.add(figures["stored"])
    page.close()


def test_a_page_of_the_same_shape_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "receiver-0.page"
    first = WorkerPage.create(path, NAMES)
    first.count_received()
    first.apply({"stored": 7})
    first.intend(86_400, 3)
    first.close()
    second = WorkerPage.create(path, NAMES)
    assert second.figures()["stored"] == 7
    assert second.figures()["received"] == 1
    assert second.intent() == (86_400, 3)
    second.close()


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 10_000, b"ECPAGE02" + b"\0" * 10_000])
def test_what_is_not_a_page_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "receiver-0.page"
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        WorkerPage.open(path)


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_read_with_its_reason(page: WorkerPage, state: str) -> None:
    page.set_state(state, "Grund: Platte voll")
    assert page.state() == (state, "Grund: Platte voll")
    assert page.pid() > 0


def test_a_long_reason_is_cut_and_still_text(page: WorkerPage) -> None:
    page.set_state("degraded", "é" * 1000)
    assert page.state()[1].startswith("é" * 240)
    assert page.figures()["stored"] == 0


def test_the_heartbeat_says_how_long_ago(page: WorkerPage) -> None:
    page.beat()
    assert 0 <= page.silent_for_s() < 5


def test_every_reason_of_rejection_has_a_figure() -> None:
    assert set(REJECTED) == set(RejectReason)
    assert set(REJECTED.values()) <= set(RECEIVER_FIGURES)


class TestAPageOfAnotherVersion:
    def test_with_other_figures_keeps_those_that_both_know(self, tmp_path: Path) -> None:
        path = tmp_path / "receiver-0.page"
        with closing(WorkerPage.create(path, ("stored", "gone", "duplicate"))) as page:
            page.count_received()
            page.add_port_figures((1, 2, 3, 4))
            page.apply({"stored": 5, "gone": 6})
            page.apply({"duplicate": 7})
            page.intend(20_515, 42)
            new = WorkerPage.create(path, ("duplicate", "new", "stored"))
            assert page.figures()["gone"] == 6  # whoever still maps the old one is not disturbed
        with closing(new) as page:
            port = dict(zip(PORT_FIGURES, (1, 2, 3, 4)))
            assert page.figures() == {"received": 1, **port, "duplicate": 7, "new": 0, "stored": 5}
            assert page.intent() == (20_515, 42)

    def test_of_1_0_keeps_its_figures_and_its_intent(self, tmp_path: Path) -> None:
        path = tmp_path / "receiver-0.page"
        page_of_version_1(path, NAMES, 100, (60, 2640, 10))
        with closing(WorkerPage.create(path, (*NAMES, "lost"))) as page:
            assert page.figures() == {
                "received": 100,
                **NO_PORT,
                **dict(zip(NAMES, (60, 2640, 10))),
                "lost": 0,
            }
            assert page.intent() == (20_515, 42)

    def test_of_1_0_says_after_the_start_of_the_launcher_that_its_process_is_gone(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "receiver-0.page"
        page_of_version_1(path, NAMES, 100, (60, 2640, 10))
        mark_dead(tmp_path)
        with closing(WorkerPage.open(path)) as page:
            assert page.state()[0] == "dead"
            assert page.figures()["stored"] == 60
        assert caplog.text == ""

    @pytest.mark.parametrize("content", [b"", b"ECPAGE01", b"ECPAGE01[]" + bytes(4100), b"something" * 1000])
    def test_that_cannot_be_read_is_created_again(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "receiver-0.page"
        path.write_bytes(content)
        with closing(WorkerPage.create(path, NAMES)) as page:
            assert set(page.figures().values()) == {0}
