"""The Cassandra driver alone: ready-made rows of a plan, written as fast as one process can.

    python -m benchmarks.driver_alone PORT KEYSPACE PREFIX START MESSAGES

Rows are grouped, checked and digested before the clock starts; then they are bound and sent as the
server's engine sends them: unlogged batches within one partition, a bounded number in flight. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from itertools import islice
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster
from cassandra.io.libevreactor import LibevConnection
from cassandra.query import BatchStatement, BatchType

from ec_server.storage.timeuuid import timeuuid
from ec_server.utc import ec_date, ec_time
from reference_client.load_plan import LoadPlan
from utilities.checksum_util import md5_hex

_A_TURN = 1_000
_ROWS_A_BATCH = 64
_IN_FLIGHT = 24
_INSERT = (
    "INSERT INTO {}.ec_consumption (device_id, ec_date, ec_minute, ec_time, start_us, end_us,"
    " ec_consumption_values, values_count, values_checksum, insert_time)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)

Row = tuple[object, ...]


def main(port: int, keyspace: str, plan: LoadPlan) -> int:
    """Write the plan's rows once."""
    groups = _groups(plan)
    cluster = Cluster(["127.0.0.1"], port=port, connection_class=LibevConnection, protocol_version=4)
    session = cluster.connect()
    insert = session.prepare(_INSERT.format(keyspace))
    insert.consistency_level = ConsistencyLevel.LOCAL_QUORUM
    cpu_before, began = time.process_time(), time.monotonic()
    _write(session, insert, groups)
    elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_before
    cluster.shutdown()
    print(json.dumps({"rows": plan.messages, "elapsed_s": elapsed_s, "cpu_s": cpu_s}))
    return 0


def _write(session: Any, insert: Any, groups: list[list[Row]]) -> None:
    in_flight: deque[Any] = deque()
    for group in groups:
        batch = BatchStatement(batch_type=BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
        for row in group:
            batch.add(insert.bind(row))
        if len(in_flight) >= _IN_FLIGHT:
            in_flight.popleft().result()
        in_flight.append(session.execute_async(batch))
    while in_flight:
        in_flight.popleft().result()


def _groups(plan: LoadPlan) -> list[list[Row]]:
    """Rows as they would come, a thousand at a time, cut into batches of one partition."""
    batches, found = enumerate(plan.batches()), []
    now_us = time.time_ns() // 1000
    while turn := list(islice(batches, _A_TURN)):
        partitions: dict[Row, list[Row]] = {}
        for number, (device_id, second, text) in turn:
            row = _row(device_id, second, text, now_us + number)
            partitions.setdefault(row[:3], []).append(row)
        for rows in partitions.values():
            found += [rows[i : i + _ROWS_A_BATCH] for i in range(0, len(rows), _ROWS_A_BATCH)]
    return found


def _row(device_id: str, second: int, text: str, moment_us: int) -> Row:
    time_of_day, end = ec_time(second), text.rfind(";") + 1
    return (
        device_id, ec_date(second), time_of_day[:4], time_of_day, text[:6], text[end : end + 6],
        text, text.count(";") + 1, md5_hex(text), timeuuid(moment_us), moment_us,
    )  # fmt: skip


if __name__ == "__main__":
    _port, _keyspace, _prefix, _start, _messages = sys.argv[1:]
    _plan = LoadPlan(devices=8, messages=int(_messages), prefix=_prefix, start=int(_start))
    sys.exit(main(int(_port), _keyspace, _plan))
