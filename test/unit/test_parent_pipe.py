"""A worker hears of its launcher's death by the end of a pipe."""

from __future__ import annotations

import os
import threading

from ec_server.supervision.parent_pipe import watch_parent

SUPERVISED = {"EC_SUPERVISED": "1"}


def test_the_end_of_the_pipe_is_reported_once_and_bytes_are_not() -> None:
    read_end, write_end = os.pipe()
    died = threading.Event()
    assert watch_parent(SUPERVISED, died.set, read_end)
    os.write(write_end, b"not the end\n")
    assert not died.wait(0.05)
    os.close(write_end)
    assert died.wait(10)
    os.close(read_end)


def test_a_descriptor_that_cannot_be_read_is_an_end() -> None:
    read_end, write_end = os.pipe()
    died = threading.Event()
    assert watch_parent(SUPERVISED, died.set, write_end)
    assert died.wait(10)
    os.close(read_end)
    os.close(write_end)


def test_a_process_that_was_started_alone_does_not_watch() -> None:
    assert not watch_parent({}, lambda: None)
    assert not watch_parent({"EC_SUPERVISED": "0"}, lambda: None)
