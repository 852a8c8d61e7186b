"""Packing processes made by forking: one that has imported everything takes a few milliseconds each.

Each line on standard input is a number of seconds and a folder: a child packs all that the folder holds, and
is killed after so many seconds. Its exit status is printed, 0 or minus the signal that ended it. No database
is open in the parent, which alone knows that the pid is still the child's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from ec_server.storage import sqlite_day_packing
from ec_server.storage.sqlite_store import SqliteStore

END = 2**40
ROWS_AT_ONCE = 100
"""So that there are many transactions to be killed in and between."""


def pack_all(folder: Path) -> None:
    with SqliteStore(folder) as store:
        while minutes := store.unpacked_minutes(END, 100):
            for device_id, minute in minutes:
                store.pack_minute(device_id, minute)
        while store.return_space(END):
            pass


def main() -> None:
    sqlite_day_packing._ROWS_AT_ONCE = ROWS_AT_ONCE
    for line in sys.stdin:
        kill_after_s, folder = line.rstrip("\n").split(" ", 1)
        child = os.fork()
        if child == 0:
            pack_all(Path(folder))
            os._exit(0)
        print(status_of(child, time.monotonic() + float(kill_after_s)), flush=True)


def status_of(child: int, kill_at_s: float) -> int:
    """Waits for the child, and kills it at a moment; its exit status."""
    while time.monotonic() < kill_at_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)  # not waited for yet: nobody else has this pid
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
