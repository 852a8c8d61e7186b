"""The Cassandra driver alone: writes prepared rows of a plan as fast as one process can.

    python -m benchmarks.driver_alone PORT KEYSPACE PREFIX START MESSAGES ROWS

Rows are grouped, checked and digested before the measurement starts. Then they are bound and sent, with a
bounded number of requests in flight. A request has ROWS rows, in an unlogged batch within one partition, as
the server's engine sends them; with 1, each row is a request, as in the driver's documentation. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from itertools import islice
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster, NoHostAvailable
from cassandra.io.libevreactor import LibevConnection
from cassandra.query import BatchStatement, BatchType

from ec_server.storage.timeuuid import timeuuid
from reference_client.load_plan import LoadPlan
from utilities.cassandra_errors import is_busy
from utilities.cassandra_util import BUSY_PAUSE_S
from utilities.checksum_util import md5_hex
from utilities.utc import ec_date, ec_time

_A_TURN = 4_000
_IN_FLIGHT = 24
_IN_FLIGHT_ALONE = 100
"""Requests in flight, as with the driver's ``execute_concurrent``."""
_INSERT = (
    "INSERT INTO {}.ec_consumption (device_id, ec_date, ec_minute, ec_time, start_us, end_us,"
    " ec_consumption_values, values_count, values_checksum, insert_time)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)

Row = tuple[object, ...]


def main(port: int, keyspace: str, plan: LoadPlan, rows_a_request: int) -> int:
    """Write the plan's rows once."""
    groups = _groups(plan, rows_a_request)
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
    in_flight: deque[tuple[Any, Any]] = deque()
    most = _IN_FLIGHT_ALONE if max(map(len, groups)) == 1 else _IN_FLIGHT
    for group in groups:
        request = _batch(insert, group) if len(group) > 1 else insert.bind(group[0])
        if len(in_flight) >= most:
            _settle(session, *in_flight.popleft())
        in_flight.append((request, session.execute_async(request)))
    while in_flight:
        _settle(session, *in_flight.popleft())


def _settle(session: Any, request: Any, future: Any) -> None:
    """Wait for a request; if the connection was full, send it again, as the server does."""
    while True:
        try:
            future.result()
        except NoHostAvailable as error:
            if not is_busy(error):
                raise
            time.sleep(BUSY_PAUSE_S)
            future = session.execute_async(request)
        else:
            return


def _batch(insert: Any, group: list[Row]) -> Any:
    batch = BatchStatement(batch_type=BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
    for row in group:
        batch.add(insert.bind(row))
    return batch


def _groups(plan: LoadPlan, rows_a_request: int) -> list[list[Row]]:
    """Rows as they come if the server is behind, some thousand at a time, split into requests."""
    batches, found = enumerate(plan.batches()), []
    now_us = time.time_ns() // 1000
    while turn := list(islice(batches, _A_TURN)):
        partitions: dict[Row, list[Row]] = {}
        for number, (device_id, second, text) in turn:
            row = _row(device_id, second, text, now_us + number)
            partitions.setdefault(row[:3], []).append(row)
        for rows in partitions.values():
            found += [rows[i : i + rows_a_request] for i in range(0, len(rows), rows_a_request)]
    return found


def _row(device_id: str, second: int, text: str, moment_us: int) -> Row:
    time_of_day, end = ec_time(second), text.rfind(";") + 1
    return (
        device_id, ec_date(second), time_of_day[:4], time_of_day, text[:6], text[end : end + 6],
        text, text.count(";") + 1, md5_hex(text), timeuuid(moment_us), moment_us,
    )  # fmt: skip


if __name__ == "__main__":
    _port, _keyspace, _prefix, _start, _messages, _rows = sys.argv[1:]
    _plan = LoadPlan(devices=8, messages=int(_messages), prefix=_prefix, start=int(_start))
    sys.exit(main(int(_port), _keyspace, _plan, int(_rows)))
