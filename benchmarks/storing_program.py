"""A program that stores batches and counts them on worker pages: this server, or a competitor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measured_program import PYTHON, BenchmarkError, MeasuredProgram, free_port
from ec_server.account.figures import RECEIVER_FIGURES, RUN_FOLDER, queued, receiver_name
from ec_server.account.worker_page import WorkerPage

_START_S = 120.0


class StoringProgram(MeasuredProgram):
    """Waits for the pages of its workers, and reads from them what was stored."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        receivers: int = 1,
        environ: Mapping[str, str] = {},
    ) -> None:
        self.folder = folder
        self.storage = folder / "data"
        run_folder = self.storage / RUN_FOLDER
        run_folder.mkdir(parents=True, exist_ok=True)
        self.pages = [
            WorkerPage.create(run_folder / f"{receiver_name(number)}.page", RECEIVER_FIGURES)
            for number in range(receivers)
        ]
        super().__init__(name, command, folder / "program.log", environ)
        try:
            self.wait_until(lambda: all(page.state()[0] == "ready" for page in self.pages), _START_S)
        except BaseException:
            self.kill()
            raise

    def figures(self) -> dict[str, int]:
        """The sums of all figures over the workers."""
        found = [page.figures() for page in self.pages]
        return {name: sum(figures[name] for figures in found) for name in found[0]}

    def figure(self, name: str) -> int:
        """The sum of one figure over the workers."""
        return self.figures()[name]

    def queued(self) -> int:
        """Messages received and not yet settled."""
        return sum(queued(page.figures()) for page in self.pages)

    def wait_until_settled(self, received: int, within_s: float = 60.0) -> float:
        """Wait until ``received`` messages arrived and all are settled; returns when that was."""
        deadline = time.monotonic() + within_s
        while self.figure("received") < received or self.queued():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{self.name}: {self.figure('received')} of {received} messages received, "
                    f"{self.queued()} queued after {within_s:.0f} s: {self.said()}"
                )
            time.sleep(0.002)
        return time.monotonic()


def this_server(
    folder: Path,
    *,
    receivers: int = 1,
    whole: bool = False,
    options: Mapping[str, str] = {},
    under: Sequence[str] = (),
) -> tuple[StoringProgram, int]:
    """Start a single receiver, or the ``whole`` server; returns it with its SIP port.

    ``options`` are keys of the configuration in addition to, or instead of, those for a local run; ``under``
    is the command of a program that runs it, such as a profiler.
    """
    port = free_port()
    chosen = {
        "sip.public_addr": "127.0.0.1",
        "sip.port": str(port),
        "sip.receivers": str(receivers),
        "storage.path": str(folder / "data"),
        "sync.port": str(free_port()),
        "status.port": "0",
        "log.level": "warning",
        **options,
    }
    environ = {f"EC_{key.upper().replace('.', '_')}": value for key, value in chosen.items()}
    program = ["ec_server_main.py"] if whole else ["data_receiver.py", "--worker", "0"]
    configuration = folder / "empty.properties"
    configuration.write_text("")
    name = "the server" if whole else "the receiver"
    command = [*under, PYTHON, *program, "-c", str(configuration)]
    return StoringProgram(name, command, folder, receivers, environ), port
