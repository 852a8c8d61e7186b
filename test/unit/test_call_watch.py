"""What is slow is told and lives on; what is stuck stops beating; troubles are told by cause."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ec_server.ingest import call_watch, watched_calls
from ec_server.ingest.call_watch import SLOW_S, STUCK_S, Activity, CallWatch, activity_of
from ec_server.ingest.troubles import Troubles
from ec_server.ingest.watched_calls import WatchedCalls


def watched(*shown: tuple[float, Activity]) -> CallWatch:
    """A call that began at 0 and whose thread showed this, at these moments."""
    watch = CallWatch(0.0)
    for now_s, activity in shown:
        watch.look(now_s, activity)
    return watch


def test_a_call_is_slow_after_a_while_and_not_stuck_yet() -> None:
    watch = watched((1.0, Activity()))
    assert watch.trouble(SLOW_S) == ""
    assert "slow" in watch.trouble(SLOW_S + 0.1)
    assert not watch.is_stuck(STUCK_S)


@pytest.mark.parametrize(
    "sign",
    [Activity(processor_ticks=1), Activity(steps=1), Activity(waits_for_disk=True)],
    ids=["used processor time", "counted a step", "waits for a disk"],
)
def test_a_call_with_a_sign_of_life_is_not_stuck_however_long_it_takes(sign: Activity) -> None:
    assert watched((100.0, Activity()), (200.0, Activity())).is_stuck(200.0)
    watch = watched((100.0, Activity()), (200.0, sign))
    assert not watch.is_stuck(200.0 + STUCK_S)
    assert watch.is_stuck(200.1 + STUCK_S)


def test_a_call_that_waits_for_a_disk_all_the_time_is_never_stuck() -> None:
    shown = [(float(now_s), Activity(waits_for_disk=True)) for now_s in range(0, 600, 10)]
    assert not watched(*shown).is_stuck(600.0)


def test_what_a_thread_does_is_read_from_the_kernel() -> None:
    before = activity_of(threading.get_native_id(), 0).processor_ticks
    while (now := activity_of(threading.get_native_id(), 3)).processor_ticks == before:
        sum(range(10_000))
    assert now.steps == 3
    assert activity_of(None, 7) == Activity(steps=7)


class Ended:
    """A write that returns when it is told to, and what the process says meanwhile."""

    def __init__(self) -> None:
        self.beats = 0
        self.told: list[str] = []
        self.enough = threading.Event()
        self.returns = threading.Event()

    def beat(self) -> None:
        self.beats += 1
        if self.beats == 3:
            self.enough.set()

    def tell(self, text: str) -> None:
        self.told.append(text)
        if "stuck" in text:
            self.enough.set()

    def wait_for_a_write(self) -> None:
        calls = WatchedCalls(self.beat, Troubles(self.tell))
        waiter = threading.Thread(target=calls.run, args=(lambda: self.returns.wait(30) and None,))
        waiter.start()
        assert self.enough.wait(20)
        self.returns.set()
        waiter.join(10)
        calls.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Looks often, and counts as slow at once and as stuck after so long."""

    def set_limits(stuck_s: float) -> None:
        monkeypatch.setattr(watched_calls, "_LOOK_INTERVAL_S", 0.01)
        monkeypatch.setattr(call_watch, "SLOW_S", 0.0)
        monkeypatch.setattr(call_watch, "STUCK_S", stuck_s)

    return set_limits


def test_a_process_beats_and_says_so_while_a_write_is_slow(quick: Callable[[float], None]) -> None:
    quick(60.0)
    ended = Ended()
    ended.wait_for_a_write()
    assert ended.beats >= 3
    assert "slow" in ended.told[0]
    assert ended.told[-1] == "", "it is over"


def test_a_process_stops_beating_where_a_write_is_stuck(quick: Callable[[float], None]) -> None:
    quick(-1.0)
    ended = Ended()
    ended.wait_for_a_write()
    assert ended.beats == 0
    assert "stuck" in ended.told[0]


def test_what_a_write_raises_is_raised_to_who_waits_for_it() -> None:
    calls = WatchedCalls(lambda: None, Troubles(lambda _text: None))
    with pytest.raises(ZeroDivisionError):
        calls.run(lambda: 1 // 0 and None)
    calls.close()


def test_the_end_of_one_trouble_does_not_hide_another() -> None:
    told: list[str] = []
    troubles = Troubles(told.append)
    troubles.say("database", "")
    troubles.say("database", "it is locked")
    troubles.say("slow", "it takes long")
    troubles.say("database", "")
    troubles.say("slow", "")
    assert told == ["", "it is locked", "it is locked; it takes long", "it takes long", ""]
