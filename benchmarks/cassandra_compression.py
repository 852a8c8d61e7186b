"""Bytes per sample on disk for each way in which Cassandra can store the rows, with real recordings.

    python -m benchmarks.cassandra_compression --recording laptop.npy --recording fridge.npy

A recording is a NumPy file of 44,000 values per second. Its samples become rows as from a meter, 44 per
message. Each way gets the same rows, which are flushed, compacted, and read back completely. The last way
packs them first (storage.pack_after_hours); its bytes are those of both tables, rows and blocks.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ec_server.storage.cassandra_store import CassandraStore
from ec_server.storage.merge import batch_of
from reference_cluster.cluster import Cluster
from utilities.cassandra_target import Target
from utilities.model import Batch, CommitMark

RATE = 44_000
PER_MESSAGE = 44
START = 1_772_366_400
MARK = CommitMark("benchmark", 1)

FORMS = {"float32": "%06d,%.9g", "decimals": "%06d,%.3f"}
PACKED = "packed into blocks"
WAYS: dict[str, str] = {
    "none": "{'enabled': 'false'}",
    "LZ4, 16 KB (Cassandra's default)": "{'class': 'LZ4Compressor', 'chunk_length_in_kb': 16}",
    "LZ4, 64 KB": "{'class': 'LZ4Compressor', 'chunk_length_in_kb': 64}",
    "Zstd 1, 64 KB": "{'class': 'ZstdCompressor', 'compression_level': 1, 'chunk_length_in_kb': 64}",
    "Zstd 3, 16 KB": "{'class': 'ZstdCompressor', 'compression_level': 3, 'chunk_length_in_kb': 16}",
    "Zstd 3, 64 KB": "{'class': 'ZstdCompressor', 'compression_level': 3, 'chunk_length_in_kb': 64}",
    "Zstd 3, 256 KB": "{'class': 'ZstdCompressor', 'compression_level': 3, 'chunk_length_in_kb': 256}",
    "Zstd 9, 64 KB": "{'class': 'ZstdCompressor', 'compression_level': 9, 'chunk_length_in_kb': 64}",
}


def batches(
    device_id: str, values: np.ndarray[tuple[int], np.dtype[np.float32]], form: str
) -> Iterator[Batch]:
    """A recording, as the messages of a meter."""
    micros = np.arange(RATE) * 1_000_000 // RATE
    for second in range(len(values) // RATE):
        of_second = zip(micros.tolist(), values[second * RATE : (second + 1) * RATE].tolist())
        samples = [FORMS[form] % one for one in of_second]
        for at in range(0, RATE, PER_MESSAGE):
            yield batch_of(device_id, START + second, ";".join(samples[at : at + PER_MESSAGE]))


def measure(cluster: Cluster, way: str, rows: Sequence[Batch]) -> tuple[int, float, float]:
    """``(bytes on disk, seconds to pack, flush and compact, seconds to read all)`` of one way."""
    keyspace = f"c{abs(hash(way)) % 10**9}"
    target = Target(("127.0.0.1",), cluster.native_port, keyspace)
    with CassandraStore(target, packs=way == PACKED) as store:
        store.wait(60)
        if way in WAYS:
            alter = f"ALTER TABLE {keyspace}.ec_consumption WITH compression = {WAYS[way]}"
            store._db._session.execute(alter, timeout=30)
        for at in range(0, len(rows), 1000):
            store.ingest(rows[at : at + 1000], MARK)
        began = time.monotonic()
        if way == PACKED:
            packed = [
                store.pack_minute(device_id, START) for device_id in {batch.device_id for batch in rows}
            ]
            assert sum(one.rows for one in packed) == len(rows), "not every row was packed"
        node = cluster.nodes[0]
        node.nodetool("flush", keyspace)
        node.nodetool("compact", keyspace, "ec_consumption", "ec_block")
        kept_s = time.monotonic() - began
        folder = node.folder / "data" / "data" / keyspace
        tables = ("ec_consumption-*/*", "ec_block-*/*")
        size = sum(f.stat().st_size for table in tables for f in folder.glob(table) if f.is_file())
        assert size, f"nothing in {folder}: another node answers at port {cluster.native_port}"
        began = time.monotonic()
        read = sum(
            1 for device in {batch.device_id for batch in rows} for _ in store.rows(device, START, START + 60)
        )
        assert read == len(rows), f"{read} rows read of {len(rows)}"
        return size, kept_s, time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recording", type=Path, action="append", required=True, metavar="FILE.npy")
    parser.add_argument("--seconds", type=int, default=15, help="of each recording; default 15")
    parser.add_argument(
        "--form", choices=FORMS, default="float32", help="how values are printed; default %(default)s"
    )
    parser.add_argument(
        "--way", choices=[*WAYS, PACKED], action="append", help="only this way; may be repeated"
    )
    options = parser.parse_args(arguments)
    rows = [
        batch
        for path in options.recording
        for batch in batches(path.stem[:32], np.load(path)[: options.seconds * RATE], options.form)
    ]
    samples = sum(batch.count for batch in rows)
    table = Table(title=f"{samples / 1e6:.1f} million samples, {options.form}, in {len(rows)} rows")
    for name in (
        "compression",
        "bytes per sample",
        "GB per device and day",
        "(pack) flush compact s",
        "read all s",
    ):
        table.add_column(name, justify="left" if name == "compression" else "right")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the node is ended as well
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), 1, 9342, 7342, heap_mb=1024, jmx_port=7343)
        try:
            cluster.start()
            for way in options.way or [*WAYS, PACKED]:
                size, kept_s, read_s = measure(cluster, way, rows)
                each = size / samples
                a_day = each * RATE * 86_400 / 1e9
                table.add_row(way, f"{each:.2f}", f"{a_day:.1f}", f"{kept_s:.1f}", f"{read_s:.1f}")
        finally:
            cluster.clean()
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
