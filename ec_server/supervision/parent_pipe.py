"""The pipe whose end of file tells a worker that its launcher died, in whatever way.

The launcher holds the other end of a worker's standard input and never writes. The kernel closes
that end with the launcher, also after ``kill -9``, so a worker needs no signal and no polling of
process ids. A process that was started alone ignores its standard input.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

SUPERVISED_VARIABLE = "EC_SUPERVISED"
_STDIN = 0


def watch_parent(environ: Mapping[str, str], on_death: Callable[[], None], descriptor: int = _STDIN) -> bool:
    """Call ``on_death`` once, from a thread of its own, when the pipe ends; whether there is a launcher.

    ``descriptor`` belongs to the watching thread from then on. The thread keeps no process alive.
    """
    if environ.get(SUPERVISED_VARIABLE) != "1":
        return False
    threading.Thread(
        target=_wait_for_end, args=(descriptor, on_death), name="parent-pipe", daemon=True
    ).start()
    return True


def _wait_for_end(descriptor: int, on_death: Callable[[], None]) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass  # a pipe that cannot be read has no launcher behind it
    on_death()
