"""The queue between the SIP thread and the writer: order, bound, back-pressure, end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from ec_server.ingest.intake_queue import IntakeQueue
from ec_server.model import RawMessage

PATIENCE_S = 20.0


def message(number: int) -> RawMessage:
    return RawMessage(b"", "", number)


def numbers(messages: list[RawMessage]) -> list[int]:
    return [m.received_us for m in messages]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class TestTaking:
    def test_messages_come_out_in_the_order_they_went_in(self) -> None:
        queue = IntakeQueue(10)
        for number in range(5):
            assert queue.put(message(number))
        assert len(queue) == 5
        assert numbers(queue.take(3, 0)) == [0, 1, 2]
        assert numbers(queue.take(3, 0)) == [3, 4]

    def test_nothing_comes_of_an_empty_queue_after_the_timeout(self) -> None:
        began = time.monotonic()
        assert IntakeQueue(10).take(3, 0.05) == []
        assert time.monotonic() - began >= 0.05

    def test_it_wakes_at_the_first_message(self) -> None:
        queue = IntakeQueue(10)
        thread = in_thread(lambda: (wait_until(lambda: queue._wake_taker_at == 1), queue.put(message(7))))
        assert numbers(queue.take(10, PATIENCE_S)) == [7]
        thread.join(PATIENCE_S)

    def test_it_gathers_more_until_there_are_enough(self) -> None:
        queue = IntakeQueue(100)
        thread = in_thread(lambda: [(time.sleep(0.002), queue.put(message(n))) for n in range(10)])
        assert numbers(queue.take(10, PATIENCE_S, gather_s=PATIENCE_S)) == list(range(10))
        thread.join(PATIENCE_S)

    def test_it_gathers_no_longer_than_it_was_told(self) -> None:
        queue = IntakeQueue(100)
        queue.put(message(1))
        began = time.monotonic()
        assert numbers(queue.take(10, PATIENCE_S, gather_s=0.05)) == [1]
        assert 0.05 <= time.monotonic() - began < PATIENCE_S

    def test_a_full_queue_ends_the_gathering(self) -> None:
        queue = IntakeQueue(3)
        for number in range(3):
            queue.put(message(number))
        assert len(queue.take(1000, PATIENCE_S, gather_s=PATIENCE_S)) == 3


class TestFull:
    def test_putting_waits_for_room_and_drops_nothing(self) -> None:
        queue = IntakeQueue(2)
        done: list[bool] = []
        thread = in_thread(lambda: done.extend([queue.put(message(n)) for n in range(3)]))
        wait_until(lambda: queue._putter_waits)
        assert len(queue) == 2
        assert done == []
        assert numbers(queue.take(1, 0)) == [0]
        thread.join(PATIENCE_S)
        assert done == [True, True, True]
        assert numbers(queue.take(5, 0)) == [1, 2]

    def test_the_waiting_thread_calls_the_hook_again_and_again(self) -> None:
        calls: list[int] = []
        queue = IntakeQueue(1, on_wait=lambda: calls.append(threading.get_ident()), wait_interval_s=0.005)
        queue.put(message(0))
        thread = in_thread(lambda: queue.put(message(1)))
        wait_until(lambda: len(calls) >= 3)
        assert set(calls) == {thread.ident}
        queue.take(1, 0)
        thread.join(PATIENCE_S)
        assert numbers(queue.take(1, 0)) == [1]

    def test_a_queue_that_could_hold_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0 messages"):
            IntakeQueue(0)


class TestClosing:
    def test_what_is_in_a_closed_queue_can_still_be_taken(self) -> None:
        queue = IntakeQueue(10)
        queue.put(message(1))
        queue.close()
        assert queue.closed
        assert not queue.put(message(2))
        assert numbers(queue.take(10, PATIENCE_S, gather_s=PATIENCE_S)) == [1]
        assert queue.take(10, PATIENCE_S) == []

    def test_closing_ends_both_waits(self) -> None:
        empty, full = IntakeQueue(1), IntakeQueue(1)
        full.put(message(0))
        taken: list[list[RawMessage]] = []
        put: list[bool] = []
        threads = [
            in_thread(lambda: taken.append(empty.take(1, PATIENCE_S))),
            in_thread(lambda: put.append(full.put(message(1)))),
        ]
        wait_until(lambda: full._putter_waits and empty._wake_taker_at == 1)
        empty.close()
        full.close()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert (taken, put) == ([[]], [False])
        assert len(full) == 1

    def test_the_hook_may_close_the_queue(self) -> None:
        calls: list[None] = []
        queue = IntakeQueue(1, on_wait=lambda: calls.append(queue.close()), wait_interval_s=0.001)
        queue.put(message(0))
        assert not queue.put(message(1))


@pytest.mark.parametrize("capacity", [1, 2, 7, 1000])
def test_every_message_passes_once_and_in_order_whatever_the_pace(capacity: int) -> None:
    queue, count = IntakeQueue(capacity, wait_interval_s=0.01), 4000
    pace = random.Random(capacity)

    def put_all() -> None:
        for number in range(count):
            if pace.random() < 0.003:
                time.sleep(pace.random() / 500)
            queue.put(message(number))
        queue.close()

    thread, seen, most = in_thread(put_all), list[int](), 0
    deadline = time.monotonic() + PATIENCE_S
    while not (queue.closed and len(queue) == 0):
        assert time.monotonic() < deadline
        most = max(most, len(queue))
        seen += numbers(queue.take(random.randint(1, 50), 0.05, random.choice((0, 0.001))))
    thread.join(PATIENCE_S)
    assert seen == list(range(count))
    assert most <= capacity
