"""A cluster of one to a few nodes on 127.0.0.1, 127.0.0.2, ...: started, waited for, stopped together."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from reference_cluster.node import Node

_RING = 2**64


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster; created again with the same arguments, it refers to the running one."""

    folder: Path
    count: int = 1
    native_port: int = 9042
    storage_port: int = 7000
    heap_mb: int = 1024
    jmx_port: int = 0
    yaml: str = ""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, the first of which is the seed; each has an equal share of the token ring."""
        return tuple(
            Node(
                folder=self.folder / f"node-{i + 1}",
                address=f"127.0.0.{i + 1}",
                native_port=self.native_port,
                storage_port=self.storage_port,
                token=i * _RING // self.count - _RING // 2,
                heap_mb=self.heap_mb,
                jmx_port=self.jmx_port + i if self.jmx_port else 0,
                yaml=self.yaml,
            )
            for i in range(self.count)
        )

    def start(self) -> None:
        """Start every node that is not running, the seed first, and wait until all are ready (NodeError)."""
        seed, *others = self.nodes
        seed.start()
        seed.wait_until_ready()
        for node in others:
            node.start()
        for node in others:
            node.wait_until_ready()

    def stop(self) -> None:
        """Stop every node in order."""
        for node in self.nodes:
            node.stop()

    def clean(self) -> None:
        """Stop every node and remove all data; the jars stay in the cache."""
        for node in self.nodes:
            node.clean()
        shutil.rmtree(self.folder, ignore_errors=True)
