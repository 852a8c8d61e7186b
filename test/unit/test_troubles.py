"""Troubles are kept by device and cause."""

from __future__ import annotations

from ec_server.synchronization.troubles import Troubles


def test_another_device_s_success_does_not_end_it() -> None:
    troubles = Troubles()
    troubles.set("meter-1", "storage", "the disk is full")
    troubles.clear("meter-2", "storage")
    troubles.clear("meter-1", "unreadable")
    assert troubles.text() == "meter-1: the disk is full"
    troubles.clear("meter-1", "storage")
    assert troubles.text() == ""


def test_troubles_of_a_device_that_has_gone_are_removed_and_no_others() -> None:
    troubles = Troubles()
    for device in ("meter-1", "meter-2"):
        for cause in ("storage", "unreadable"):
            troubles.set(device, cause, cause)
    troubles.forget("meter-1")
    assert troubles.text() == "meter-2: storage; meter-2: unreadable"


def test_many_are_reported_in_one_line() -> None:
    troubles = Troubles()
    troubles.set("", "devices", "the records cannot be read")
    for number in range(5):
        troubles.set(f"meter-{number}", "storage", "locked")
    assert troubles.text() == ("the records cannot be read; meter-0: locked; meter-1: locked; and 3 more")
