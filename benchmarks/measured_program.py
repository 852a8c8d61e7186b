"""A program to be measured: start it, wait until it is ready, read processor time and peak memory, end it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ec_server.status.process_usage import read_usage

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_PROPORTIONAL = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


class BenchmarkError(Exception):
    """A measurement was not possible: what failed, and what to do."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program has used since its start, including its children."""

    cpu_s: float
    peak_mb: float
    """Peak resident memory, summed over its processes; shared memory counts in each."""


class MeasuredProgram:
    """A child process with its output in a file. A context manager: leaving it ends the program."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str] = {}) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**_own_environ(), **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_until(self, ready: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait until ``ready``; BenchmarkError with the program's output if it ends or takes too long."""
        deadline = time.monotonic() + within_s
        while not ready():
            if self.process.poll() is not None:
                raise BenchmarkError(f"{self.name} ended with {self.process.returncode}: {self.said()}")
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} was not ready within {within_s:.0f} s: {self.said()}")
            time.sleep(0.01)

    def said(self) -> str:
        """The end of its output."""
        return self.log.read_text("utf-8", "replace")[-1500:].strip()

    def pids(self) -> list[int]:
        """The program's process and its descendants."""
        found, look_at = [], [self.process.pid]
        while look_at:
            pid = look_at.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    look_at += map(int, children.read_text().split())
                except OSError:
                    continue  # the thread has ended
        return found

    def usage(self) -> Usage:
        """The usage so far."""
        pids = self.pids()
        used = [usage for pid in pids if (usage := read_usage(pid))]
        return Usage(sum(usage.cpu_s for usage in used), sum(map(peak_mb, pids)))

    def main_thread_cpu_s(self) -> float:
        """Processor time of the first process's main thread."""
        pid = self.process.pid
        used = read_usage(pid, Path(f"/proc/{pid}/task"))
        return used.cpu_s if used else 0.0

    def memory_mb(self) -> float:
        """Present resident memory over all its processes; shared memory counts once."""
        return sum(map(_proportional_mb, self.pids()))

    def stop(self, within_s: float = 30.0) -> int:
        """Send SIGTERM; returns the exit code. If the program does not end, kills it: BenchmarkError."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.kill()
                raise BenchmarkError(f"{self.name} did not end within {within_s:.0f} s") from None
        return self.process.returncode

    def kill(self) -> None:
        """Kill it at once, children first."""
        for pid in reversed(self.pids()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it in order if all went well, otherwise kill it."""
        if kind is None:
            self.stop()
        elif self.process.poll() is None:
            self.kill()


def script_of(pid: int) -> str:
    """The script, or the module, that a Python process runs."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    if "-m" in words:
        return words[words.index("-m") + 1]
    return next((Path(word).name for word in words if word.endswith(".py")), words[0])


def free_port() -> int:
    """A port on which no program listens at the moment, over UDP or TCP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = int(tcp.getsockname()[1])
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def answers(port: int) -> bool:
    """Whether something accepts TCP connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process so far."""
    try:
        found = _PEAK.search(Path(f"/proc/{pid}/status").read_text("ascii", "replace"))
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _proportional_mb(pid: int) -> float:
    try:
        found = _PROPORTIONAL.search(Path(f"/proc/{pid}/smaps_rollup").read_text("ascii", "replace"))
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _own_environ() -> dict[str, str]:
    """This process's environment, without variables that would configure the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EC_")}
