"""A process that packs all there is, until it is done or killed; ``ready`` once it has begun.

Arguments: a folder, or of a keyspace: host, port, name, username, password.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ec_server.storage.contract import Store

END = 2**40


def main(where: list[str]) -> None:
    with opened(where) as store:
        print("ready", flush=True)
        while minutes := store.unpacked_minutes(END, 100):
            for device_id, minute in minutes:
                store.pack_minute(device_id, minute)
        while store.return_space(END):
            pass
        print("done", flush=True)


def opened(where: list[str]) -> Store:
    if len(where) == 1:
        from ec_server.storage.sqlite_store import SqliteStore

        return SqliteStore(Path(where[0]))
    from ec_server.storage.cassandra_store import CassandraStore
    from utilities.cassandra_target import Target

    host, port, keyspace, *login = where
    store = CassandraStore(Target((host,), int(port), keyspace, *login))
    store.wait(60)
    return store


if __name__ == "__main__":
    main(sys.argv[1:])
