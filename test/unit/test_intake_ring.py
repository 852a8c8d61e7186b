"""The ring hands every counted message on, once and in order, whoever dies when."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_server.account.figures import RECEIVER_FIGURES, queued
from ec_server.account.worker_page import WorkerPage
from ec_server.ingest.group_settlement import settle as settle_group
from ec_server.ingest.intake_ring import IntakeRing, Taker
from ec_server.ingest.receiver_lock import lock_receiver
from ec_server.ingest.ring_file import RingError, is_usable, write_off
from utilities.errors import EcServerError
from utilities.model import RawMessage

Make = Callable[..., tuple[IntakeRing, Taker, WorkerPage]]


def message(number: int, size: int = 40, **more: object) -> RawMessage:
    return RawMessage(b"%d|" % number + b"x" * size, f"127.0.0.1:{number}", number, **more)  # type: ignore[arg-type]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[WorkerPage]:
    made = WorkerPage.create(tmp_path / "receiver-0.page", RECEIVER_FIGURES)
    yield made
    made.close()


def settle(taker: Taker, page: WorkerPage, count: int) -> None:
    """What the writer does once a group is committed."""
    taker.note_group_end(taker.place)
    page.apply({"stored": count, **taker.moved_to(taker.place)})


def begun(ring: IntakeRing, page: WorkerPage, wake: int | None = None, **found: object) -> Taker:
    """The taking side of a writer that has settled what the one before had in hand."""
    taker = Taker(ring.path, page, wake)
    taker.begin(settle_group(replace(taker.evidence(), **found)))  # type: ignore[arg-type]
    return taker


def test_messages_come_out_as_they_went_in(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 100)
    taker = begun(ring, page)
    sent = [
        RawMessage(bytes(range(256)), "10.0.0.1:5060", 123, "meter-7", True),
        RawMessage(b"", "[::1]:1", 1 << 60),
        message(3, 3900),
    ]
    assert all(ring.put(m) for m in sent)
    assert taker.take(10, 0) == sent
    assert taker.take(10, 0) == []


def test_a_message_exists_once_it_is_counted(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 100)
    ring.put(message(1))
    assert page.figures()["received"] == len(ring) == 1


def test_what_a_killed_server_left_is_there_for_a_version_with_other_figures(tmp_path: Path) -> None:
    path = tmp_path / "receiver-0.page"
    before = WorkerPage.create(path, RECEIVER_FIGURES[:-1])
    ring = IntakeRing(tmp_path / "ring", before, 100)
    sent = [message(number) for number in range(3)]
    assert all(ring.put(m) for m in sent)
    ring.unmap()
    before.close()
    page = WorkerPage.create(path, RECEIVER_FIGURES)
    assert begun(IntakeRing(tmp_path / "ring", page, 100), page).take(10, 0) == sent


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4000), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 10**6))
def test_any_sizes_and_groups_wrap_around_in_order(sizes: list[int], limit: int, seed: int) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        folder = Path(name)
        page = WorkerPage.create(folder / "receiver-0.page", RECEIVER_FIGURES)
        ring = IntakeRing(folder / "ring", page, 50)
        taker = begun(ring, page)
        chance, put, got = random.Random(seed), 0, []
        while len(got) < len(sizes):
            if put < len(sizes) and put - len(got) < 50 and chance.random() < 0.6:
                ring.put(message(put, sizes[put]))
                put += 1
            else:
                taken = taker.take(limit, 0)
                got += taken
                settle(taker, page, len(taken))
            if chance.random() < 0.05:
                taker = begun(ring, page)  # another writer takes over
            if chance.random() < 0.05:
                ring = IntakeRing(folder / "ring", page, 50)  # another SIP process takes over
        assert got == [message(n, size) for n, size in enumerate(sizes)]
        page.close()


def test_a_full_ring_blocks_calls_back_and_goes_on_when_there_is_room(
    tmp_path: Path, page: WorkerPage
) -> None:
    waited = threading.Event()
    ring = IntakeRing(tmp_path / "ring", page, 3, waited.set, 0.01)
    taker = begun(ring, page)
    for number in range(3):
        ring.put(message(number))
    fourth = threading.Thread(target=ring.put, args=(message(3),))
    fourth.start()
    assert waited.wait(5)
    assert page.figures()["received"] == 3
    settle(taker, page, len(taker.take(3, 0)))
    taker.take(3, 0)
    fourth.join(5)
    assert not fourth.is_alive()
    assert page.figures()["received"] == 4


def test_a_closed_ring_takes_nothing_and_counts_nothing(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 3)
    taker = begun(ring, page)
    ring.put(message(0))
    ring.close()
    assert ring.put(message(1)) is False
    assert taker.closed
    assert taker.take(10, 5) == [message(0)]
    assert page.figures()["received"] == 1


def test_what_was_taken_and_not_settled_is_taken_again_by_the_next_writer(
    tmp_path: Path, page: WorkerPage
) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    for number in range(5):
        ring.put(message(number))
    first = begun(ring, page)
    settle(first, page, len(first.take(2, 0)))
    assert len(first.take(10, 0)) == 3  # and then it dies
    assert begun(ring, page).take(10, 0) == [message(n) for n in (2, 3, 4)]


def test_a_commit_in_doubt_is_settled_and_not_taken_again(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    for number in range(5):
        ring.put(message(number))
    first = begun(ring, page)
    assert len(first.take(3, 0)) == 3
    first.note_group_end(first.place)
    page.intend(0, 1)  # it commits, and dies before it can say so
    second = begun(ring, page, mark=(1, 2, 1))
    assert second.take(10, 0) == [message(3), message(4)]


def test_a_part_of_a_group_that_is_settled_is_known_by_number(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    for number in range(5):
        ring.put(message(number))
    first = begun(ring, page)
    first.take(5, 0)
    first.note_group_end(first.place)
    page.apply({"stored": 2})  # the group's first day
    second = Taker(ring.path, page)
    settlement = settle_group(second.evidence())
    assert (settlement.group_size, settlement.settled_before) == (5, 2)
    second.begin(settlement)
    assert len(second.take(10, 0)) == 5


def test_messages_of_a_ring_that_is_gone_are_lost_by_number(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    for number in range(5):
        ring.put(message(number))
    taker = begun(ring, page)
    settle(taker, page, len(taker.take(2, 0)))
    ring.path.unlink()
    again = IntakeRing(ring.path, page, 10)
    again.put(message(5))
    assert begun(ring, page).take(10, 0) == [message(5)]
    assert page.figures()["lost"] == 3
    assert queued(page.figures()) == 1


def test_a_ring_of_another_boot_is_not_trusted(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    ring.put(message(0))
    with ring.path.open("r+b") as file:
        file.seek(8)
        file.write(b"0" * 36)
    IntakeRing(ring.path, page, 10)
    assert begun(ring, page).take(10, 0) == []
    assert page.figures()["lost"] == 1


def test_a_record_that_was_changed_is_never_taken_for_a_message(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    ring.put(message(0))
    with ring.path.open("r+b") as file:
        file.seek(4096 + 4)
        file.write(b"\x07" * 8)
    with pytest.raises(RingError, match="instead of record 0"):
        begun(ring, page).take(10, 0)


@pytest.mark.parametrize(("at", "damage"), [(4, b"\x07" * 8), (0, b"\xf8\xff\xff\x00"), (20, b"\xff" * 4)])
def test_a_damaged_ring_is_set_aside_counted_as_lost_and_the_start_goes_on(
    tmp_path: Path, page: WorkerPage, at: int, damage: bytes
) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    for number in range(3):
        ring.put(message(number))
    with ring.path.open("r+b") as file:
        file.seek(4096 + at)
        file.write(damage)
    again = IntakeRing(ring.path, page, 10)
    again.put(message(3))
    assert begun(again, page).take(10, 0) == [message(3)]
    assert page.figures()["lost"] == 3
    assert queued(page.figures()) == 1
    assert [path.name for path in tmp_path.glob("ring.*")] == ["ring.damaged"]


def test_damage_that_the_writer_finds_is_known_to_the_next_start(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    ring.put(message(0))
    assert not ring.is_damaged
    begun(ring, page).tell_damage("found record 7 instead of record 0")
    assert ring.is_damaged
    assert "record 7" in ring.trouble
    assert not IntakeRing(ring.path, page, 10).is_damaged
    assert (tmp_path / "ring.damaged").exists()


def test_messages_of_a_ring_that_cannot_be_used_are_counted_as_lost(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    ring.put(message(0))
    ring.path.write_bytes(b"rubbish")
    assert not is_usable(ring.path, page)
    write_off(ring.path, page, "rubbish")
    assert (page.figures()["lost"], queued(page.figures())) == (1, 0)
    ring = IntakeRing(ring.path, page, 10)
    ring.put(message(1))
    assert begun(ring, page).take(10, 0) == [message(1)]


def test_a_ring_of_another_size_is_used_until_it_is_empty(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    ring.put(message(0))
    larger = IntakeRing(ring.path, page, 500)
    taker = begun(larger, page)
    assert taker.take(10, 0) == [message(0)]
    settle(taker, page, 1)
    before = ring.path.stat().st_size
    IntakeRing(ring.path, page, 500)
    assert ring.path.stat().st_size > before
    assert page.figures()["lost"] == 0


def test_a_receiver_s_lock_names_its_holder_and_ends_with_the_process(tmp_path: Path) -> None:
    program = "import sys, pathlib; from ec_server.ingest.receiver_lock import lock_receiver;"
    program += (
        "lock_receiver(pathlib.Path(sys.argv[1]), 'receiver-0'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert holder.stdout
    assert holder.stdin
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(EcServerError, match=rf"process {holder.pid}\b"):
        lock_receiver(tmp_path, "receiver-0")
    os.close(lock_receiver(tmp_path, "receiver-1"))
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    os.close(lock_receiver(tmp_path, "receiver-0"))


def test_a_sleeping_taker_is_woken_and_sees_the_end_of_the_putting_process(
    tmp_path: Path, page: WorkerPage
) -> None:
    readable, writable = os.pipe()
    ring = IntakeRing(tmp_path / "ring", page, 10)
    taker = begun(ring, page, readable)
    ring.wakes(writable)
    threading.Timer(0.05, ring.put, (message(0),)).start()
    began = time.monotonic()
    assert taker.take(1, 10.0) == [message(0)]
    assert time.monotonic() - began < 5
    threading.Timer(0.05, os.close, (writable,)).start()
    assert taker.take(1, 10.0) == []
    assert taker.parent_is_gone
    os.close(readable)


def test_beats_and_troubles_are_seen_on_the_other_side(tmp_path: Path, page: WorkerPage) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 10)
    taker = begun(ring, page)
    taker.beat("disk full: é")
    assert ring.trouble == "disk full: é"
    assert ring.writer_silent_for_s() < 5
    taker.beat("")
    assert ring.trouble == ""
    assert not ring.writer_is_ready
    taker.set_ready()
    assert ring.writer_is_ready


def test_every_page_of_the_file_has_its_block_so_that_a_full_disk_cannot_end_the_process(
    tmp_path: Path, page: WorkerPage
) -> None:
    ring = IntakeRing(tmp_path / "ring", page, 1000)
    found = ring.path.stat()
    assert found.st_blocks * 512 >= found.st_size
