"""Debian's mosquitto and the storing subscriber as two measured programs."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from benchmarks.measured_program import PYTHON, BenchmarkError, MeasuredProgram, Usage, answers, free_port
from benchmarks.storing_program import StoringProgram

_PACKAGE = "mosquitto is missing: apt-get install mosquitto"

# Configured for speed without loss: no limit for messages queued for, or in flight to, the subscriber.
_CONFIGURATION = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
log_dest stderr
log_type error
"""


def mosquitto_program() -> str:
    """Path of the broker, "" if it is not installed."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or ""


class MosquittoPair:
    """Broker and subscriber. A context manager: leaving it ends both, after draining the subscriber."""

    def __init__(self, folder: Path) -> None:
        program = mosquitto_program()
        if not program:
            raise BenchmarkError(_PACKAGE)
        self.port = free_port()
        configuration = folder / "mosquitto.conf"
        configuration.write_text(_CONFIGURATION.format(port=self.port))
        with ExitStack() as stack:
            command = [program, "-c", str(configuration)]
            self._broker = stack.enter_context(MeasuredProgram("mosquitto", command, folder / "broker.log"))
            self._broker.wait_until(lambda: answers(self.port))
            self.subscriber = stack.enter_context(
                StoringProgram(
                    "the subscriber",
                    [PYTHON, "-m", "benchmarks.mqtt_subscriber", str(self.port), str(folder / "data")],
                    folder,
                )
            )
            self._stack = stack.pop_all()

    def usage(self) -> dict[str, Usage]:
        """The usage of both, by name."""
        return {"broker": self._broker.usage(), "subscriber": self.subscriber.usage()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the subscriber, which drains, then the broker."""
        self._stack.close()
