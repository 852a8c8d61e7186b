"""A process that packs all that a folder holds, until it is done or killed; ``ready`` once it has begun."""

from __future__ import annotations

import sys
from pathlib import Path

from ec_server.storage.sqlite_store import SqliteStore

END = 2**40


def main(folder: Path) -> None:
    with SqliteStore(folder) as store:
        print("ready", flush=True)
        while minutes := store.unpacked_minutes(END, 100):
            for device_id, minute in minutes:
                store.pack_minute(device_id, minute)
        while store.return_space(END):
            pass
        print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
