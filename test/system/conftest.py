"""Receiver processes for the tests that talk to one alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from system.receiver_process import Receiver, StartReceiver


@pytest.fixture
def start_receiver(tmp_path: Path) -> Iterator[StartReceiver]:
    receivers: list[Receiver] = []

    def begin(**options: object) -> Receiver:
        folder = tmp_path / str(len(receivers))
        folder.mkdir()
        receivers.append(Receiver(folder, **options))  # type: ignore[arg-type]
        return receivers[-1]

    yield begin
    for receiver in receivers:
        receiver.clean_up()
