"""QuestDB, a time-series database that a user might use instead, as a measured program.

It gets one row per sample over its line protocol (TCP), which is the cheapest way for both sides. As that has
no acknowledgements, a query counts what it has stored. Its jar is fetched and checked like those of Cassandra
(reference_cluster/jars.py).
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from benchmarks.measured_program import BenchmarkError, MeasuredProgram, Usage, answers, free_port
from reference_cluster import jars
from reference_cluster.node import NodeError, java

_LOCK = Path(__file__).with_name("questdb.lock")
_TABLE = "power"
_CONFIGURATION = """
http.bind.to=127.0.0.1:{http}
line.tcp.net.bind.to=127.0.0.1:{line}
pg.enabled=false
http.min.enabled=false
line.udp.enabled=false
telemetry.enabled=false
"""
_CREATE = (
    f"CREATE TABLE {_TABLE} (device SYMBOL, value {{type}}, timestamp TIMESTAMP)"
    " TIMESTAMP(timestamp) PARTITION BY DAY WAL{deduplication}"
)
_DEDUPLICATION = " DEDUP UPSERT KEYS(timestamp, device)"
_SAMPLE = re.compile(r"([0-9]{6}),([^;]*);?")
_NO_PROGRESS_S = 20.0


class QuestDb:
    """A running QuestDB with one empty table. A context manager: leaving it ends QuestDB."""

    def __init__(self, folder: Path, *, deduplication: bool = False, value_type: str = "DOUBLE") -> None:
        http, self.line_port = free_port(), free_port()
        self._http = http
        self._root = folder / "questdb"
        (self._root / "conf").mkdir(parents=True)
        configuration = _CONFIGURATION.format(http=http, line=self.line_port)
        (self._root / "conf" / "server.conf").write_text(configuration)
        try:
            path = jars.classpath(lock=_LOCK, product="QuestDB")
            command = [java(), "-p", path, "-m", "io.questdb/io.questdb.ServerMain", "-d", str(self._root)]
        except (jars.JarError, NodeError) as error:
            raise BenchmarkError(f"no QuestDB: {error}") from error
        self.program = MeasuredProgram("QuestDB", command, folder / "questdb.log")
        self.program.wait_until(lambda: answers(http) and answers(self.line_port), 60)
        self.ask(_CREATE.format(type=value_type, deduplication=_DEDUPLICATION if deduplication else ""))

    def ask(self, query: str) -> list[list[object]]:
        """The rows that a query returns. Raises BenchmarkError with QuestDB's message if it fails."""
        url = f"http://127.0.0.1:{self._http}/exec?" + urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise BenchmarkError(f"QuestDB: {query}: {error.read().decode('utf-8', 'replace')}") from error
        rows: list[list[object]] = found.get("dataset", [])
        return rows

    def count(self) -> int:
        """The number of rows that a query returns."""
        ((number,),) = self.ask(f"SELECT count() FROM {_TABLE}")
        return int(str(number))

    def wait_for(self, rows: int) -> float:
        """``time.monotonic`` when a query counted this many rows; BenchmarkError if it stops before."""
        last, moved = -1, time.monotonic()
        while last < rows:
            found = self.count()
            if found > last:
                last, moved = found, time.monotonic()
            elif time.monotonic() - moved > _NO_PROGRESS_S:
                raise BenchmarkError(f"QuestDB stored {last} of {rows} rows and no more")
            else:
                time.sleep(0.01)
        return moved

    def send(self, files: Sequence[Path]) -> None:
        """Send each file over its own connection, all at the same time."""
        threads = [threading.Thread(target=self._send, args=(path,)) for path in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self, path: Path) -> None:
        with socket.create_connection(("127.0.0.1", self.line_port)) as connection, path.open("rb") as lines:
            connection.sendfile(lines)

    def usage(self) -> Usage:
        """The usage so far."""
        return self.program.usage()

    def stored_bytes(self) -> int:
        """The size of the table's files, without the WAL; call it after the program has ended."""
        (table,) = (path for path in (self._root / "db").glob(f"{_TABLE}~*") if path.is_dir())
        partitions = (path for path in table.iterdir() if path.is_dir() and not path.name.startswith("wal"))
        files = (path for partition in partitions for path in partition.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.program.stop()


def write_lines(path: Path, batches: Iterable[tuple[str, int, str]]) -> int:
    """Write ``(device, second, canonical text)`` as line protocol, one line per sample; returns how many."""
    samples = 0
    with path.open("w", encoding="ascii") as file:
        for device, second, text in batches:
            lines, count = _SAMPLE.subn(rf"{_TABLE},device={device} value=\2 {second}\g<1>000\n", text)
            file.write(lines)
            samples += count
    return samples
