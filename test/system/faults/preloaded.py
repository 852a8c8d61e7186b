"""What is loaded into the server's processes before they start: failing system calls, and a clock that steps.

System calls fail by libfiu (Debian's fiu-utils), told to one process at a time over its named pipe. The
clock steps by ``clock_step.c``, compiled where a C compiler is there. (Debian's faketime cannot do it: under
it, Python's ``time.sleep`` fails with EINVAL.)
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

_FIU = Path("/usr/lib/fiu")
_FIU_LIBRARIES = ("fiu_run_preload.so", "fiu_posix_preload.so")
_TRIES = 9
_SOURCE = Path(__file__).with_name("clock_step.c")


def can_fail_calls() -> bool:
    """Whether libfiu is there."""
    return shutil.which("fiu-ctrl") is not None and all((_FIU / name).exists() for name in _FIU_LIBRARIES)


@cache
def clock_library() -> Path | None:
    """The compiled ``clock_step.c``; None without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = Path(tempfile.mkdtemp(prefix="ec-clock-")) / "clock_step.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl", "-lm"]
    done = subprocess.run(command, capture_output=True, check=False)
    return library if done.returncode == 0 else None


class Preloaded:
    """The environment for one server, and the means to make its calls fail and its clock step."""

    def __init__(self, folder: Path, *, calls: bool, clock: bool) -> None:
        self._pipes, self._clock = folder / "fiu", folder / "clock"
        libraries: list[str] = []
        self.environ: dict[str, str] = {}
        if calls:
            libraries += [str(_FIU / name) for name in _FIU_LIBRARIES]
            self.environ["FIU_CTRL_FIFO"] = str(self._pipes)
        if clock:
            libraries.append(str(clock_library()))
            self._clock.write_bytes(struct.pack("d", 0.0))
            self.environ["EC_TEST_CLOCK"] = str(self._clock)
        if libraries:
            self.environ["LD_PRELOAD"] = ":".join(libraries)

    def step_clock(self, offset_s: float) -> None:
        """From now on every process is this far from the true time."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("d", offset_s))

    def fail(self, pid: int, point: str, error: int, probability: float = 1.0) -> None:
        """Calls of this point of libfiu fail in this process from now on."""
        often = f"_random name={point},probability={probability}" if probability < 1 else f" name={point}"
        self._tell(pid, f"enable{often},failinfo={error}")

    def mend(self, pid: int, point: str) -> None:
        """They succeed again."""
        self._tell(pid, f"disable name={point}")

    def _tell(self, pid: int, command: str) -> None:
        """Wait until the process has heard it, or is gone: a fault that is not ended would last."""
        told = ["fiu-ctrl", "-f", str(self._pipes), "-c", command, str(pid)]
        for _ in range(_TRIES):
            if not Path(f"/proc/{pid}").exists():
                return
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(told, capture_output=True, timeout=10, check=False)
                return
        raise AssertionError(f"process {pid} does not hear {command!r}")
