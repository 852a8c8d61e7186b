"""The pipe whose end of file tells a worker that its launcher has died.

The launcher holds the other end of a worker's standard input and never writes to it. The kernel closes that
end when the launcher dies, even by ``kill -9``, so a worker needs no signal and need not poll process ids. A
process that was started alone ignores its standard input.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

SUPERVISED_VARIABLE = "EC_SUPERVISED"
_STDIN = 0


def watch_parent(environ: Mapping[str, str], on_death: Callable[[], None], descriptor: int = _STDIN) -> bool:
    """Call ``on_death`` once, from a separate thread, when the pipe ends; False if there is no launcher.

    From then on only that thread may use ``descriptor``. It is a daemon thread.
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
        pass  # if the pipe cannot be read, there is no launcher at its other end
    on_death()
