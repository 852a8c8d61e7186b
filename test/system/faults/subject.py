"""The server that a run is about: started, found by process, stopped, killed, replaced by another version."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from free_ports import free_ports
from system.faults.relay import LOOPBACK

ROOT = Path(__file__).resolve().parents[3]
START_S = 180.0
STOP_S = 30.0
_ROLES = {
    "receiver": "data_receiver.py",
    "sync": "sync_server.py",
    "status": "ec_server.status",
    "writer": "ec_server.ingest",
}


class Violation(AssertionError):  # noqa: N818 -- the oracle's word
    """What must hold did not; ``clause`` is its name."""

    def __init__(self, clause: str, text: str) -> None:
        super().__init__(f"{clause}: {text}")
        self.clause = clause


def wait_until(condition: Callable[[], object], within_s: float, clause: str, what: str) -> float:
    """Wait; the seconds that it took. Violates ``clause`` where it takes too long."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > within_s:
            raise Violation(clause, f"waited {within_s:g} s in vain for {what}")
        time.sleep(0.05)
    return time.monotonic() - begun_s


class Subject:
    """One server in a folder and on ports of its own; ``root`` is the source that runs."""

    def __init__(self, folder: Path, environ: Mapping[str, str], root: Path = ROOT) -> None:
        self.folder, self.root = folder, root
        self.is_older = False
        """Whether it is the version before, whose ends and whose log are not judged."""
        self._log_begins = 0
        self.sip_port, self.sync_port, self.status_port = free_ports(3)
        self.data = folder / "data"
        self.log_path = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.stalled = False
        """Whether it is being replaced, so that nothing is expected of it."""
        self._client = httpx.Client(timeout=3)
        self._pids: set[int] = set()
        self._environ = {
            **os.environ,
            **environ,
            "EC_SIP_PORT": str(self.sip_port),
            "EC_SYNC_PORT": str(self.sync_port),
            "EC_STATUS_PORT": str(self.status_port),
        }

    def start(self) -> None:
        """Start it, and wait until it is ready.

        After a crash the processes of the run before end by themselves, and answer until then.
        """
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", str(self.root / "ec_server_main.py")],
                cwd=self.folder,
                env={**self._environ, "PYTHONPATH": str(self.root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready, START_S, "restart", "the server to be ready")
        self.stalled = False
        self._note_pids()

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise Violation("restart", f"the server ended with {self.process.returncode} at its start")
        if self._left():
            return False
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200

    def end(self, *, must_be_clean: bool = True) -> float:
        """End it in order; the seconds that it took. Violates ``exit`` where it is not clean.

        SIGTERM is followed by SIGCONT, as systemd does: a stopped process could not end.
        """
        assert self.process is not None
        self._note_pids()
        self.stalled = True
        begun_s = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGCONT):
            self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise Violation("exit", f"it did not end within {STOP_S:g} s of SIGTERM") from None
        if code != 0 and must_be_clean and not self.is_older:
            raise Violation("exit", f"it ended with exit code {code} after SIGTERM")
        return time.monotonic() - begun_s

    def crash(self) -> None:
        """Kill the launcher, and wait until its children have followed."""
        assert self.process is not None
        self._note_pids()
        self.stalled = True
        self.process.kill()
        self.process.wait()

    def restart(
        self, *, orderly: bool, must_be_clean: bool = True, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """End or kill it, and start it again."""
        if orderly:
            self.end(must_be_clean=must_be_clean)
        else:
            self.crash()
        meanwhile()
        self.start()

    def wait_for_children(self) -> None:
        """Wait until nothing of it runs."""
        wait_until(lambda: not self._left(), STOP_S, "exit", "its processes to end")

    def clean_up(self) -> None:
        """Leave nothing behind, whatever happened."""
        self._note_pids()
        for process in self._left():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._client.close()

    # --- its processes --------------------------------------------------------------------------

    def pids(self, role: str) -> list[int]:
        """The processes of a role, by age; ``launcher`` is the command itself."""
        if self.process is None:
            return []
        if role == "launcher":
            return [self.process.pid]
        return [p.pid for p in self._family() if _ROLES[role] in " ".join(_command(p))]

    def _family(self) -> list[psutil.Process]:
        assert self.process is not None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def _note_pids(self) -> None:
        if self.process is not None:
            self._pids |= {self.process.pid, *(p.pid for p in self._family())}

    def _left(self) -> list[psutil.Process]:
        found = []
        for pid in self._pids:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                ours = any(name in " ".join(_command(process)) for name in ("ec_server", *_ROLES.values()))
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def replace_by(self, root: Path) -> None:
        """From the next start on it is this version. What it has logged is the former one's."""
        self.root, self.is_older = root, False
        self._log_begins = self.log_path.stat().st_size

    # --- what it says ---------------------------------------------------------------------------

    def get(self, path: str) -> httpx.Response | None:
        """A page of the status port; None if it does not answer. Any thread."""
        with suppress(httpx.HTTPError):
            return self._client.get(f"http://{LOOPBACK}:{self.status_port}{path}")
        return None

    def log(self) -> str:
        """What this version has logged."""
        return self.log_path.read_bytes()[self._log_begins :].decode("utf-8", "replace")


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []
