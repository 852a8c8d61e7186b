"""Packs every minute of a folder that ended before BEFORE, without pauses, as the packer does with a backlog.

``python -m benchmarks.packing_program FOLDER BEFORE GO``: prints ``ready``, begins once the file GO exists,
and prints the number of packed samples and its processor time as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from ec_server.storage.sqlite_store import SqliteStore
from utilities.kept_memory import keep_freed_memory


def main(folder: Path, before: int, go: Path) -> None:
    """The program; see the module."""
    keep_freed_memory()
    with SqliteStore(folder) as store:
        print("ready", flush=True)
        while not go.exists():
            time.sleep(0.001)
        began = time.process_time()
        samples = pack_all(store, before)
        cpu_s = time.process_time() - began
    print(json.dumps({"samples": samples, "cpu_s": cpu_s}), flush=True)


def pack_all(store: SqliteStore, before: int) -> int:
    """Pack until nothing is left; returns the number of samples."""
    samples = 0
    while minutes := store.unpacked_minutes(before, 120):
        for _, of_one_time in groupby(minutes, itemgetter(1)):
            samples += sum(packed.samples for packed in store.pack_minutes(list(of_one_time)))
    return samples


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
