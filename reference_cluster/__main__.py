"""``python -m reference_cluster start|stop|clean|status|relock [--nodes N]``: a real, local Cassandra."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from reference_cluster import jars
from reference_cluster.cluster import Cluster
from reference_cluster.node import NodeError, answers


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 with the reason on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except (NodeError, jars.JarError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reference_cluster", description=__doc__)
    parser.add_argument("command", choices=sorted(_COMMANDS))
    parser.add_argument("--nodes", type=int, choices=range(1, 10), metavar="N", default=1,
                        help="nodes to start, on 127.0.0.1, 127.0.0.2, ...; default 1")  # fmt: skip
    parser.add_argument("--port", type=int, default=9042, help="CQL port of every node; default 9042")
    parser.add_argument(
        "--heap", type=int, metavar="MB", help="heap per node in MB; default 1024, for several nodes 512"
    )
    parser.add_argument("--folder", type=Path, default=jars.cache_folder() / "cluster",
                        help="folder for the nodes' data; default %(default)s")  # fmt: skip
    return parser


def _cluster(options: argparse.Namespace, count: int) -> Cluster:
    heap_mb = options.heap or (1024 if count == 1 else 512)
    return Cluster(options.folder.resolve(), count, options.port, heap_mb=heap_mb)


def _existing(options: argparse.Namespace) -> Cluster:
    return _cluster(options, max(1, len(list(options.folder.glob("node-*")))))


def _start(options: argparse.Namespace) -> int:
    found = len(list(options.folder.glob("node-*")))
    if found not in (0, options.nodes):
        raise NodeError(
            f"{options.folder} holds a cluster of {found}; `clean` it first, or use --nodes {found}"
        )
    cluster = _cluster(options, options.nodes)
    for node in cluster.nodes:
        if node.pid() is None and answers(node.address, node.native_port):
            raise NodeError(
                f"{node.address}:{node.native_port} is used by another program; choose another --port"
            )
    begun = time.monotonic()
    cluster.start()
    print(f"Cassandra {jars.CASSANDRA_VERSION} is ready after {time.monotonic() - begun:.0f} s:")
    return _status(options)


def _stop(options: argparse.Namespace) -> int:
    _existing(options).stop()
    return 0


def _clean(options: argparse.Namespace) -> int:
    _existing(options).clean()
    return 0


def _status(options: argparse.Namespace) -> int:
    nodes = _existing(options).nodes
    states = [(node, node.pid()) for node in nodes]
    for node, pid in states:
        state = "stopped" if pid is None else f"pid {pid}"
        ready = "takes connections" if pid and answers(node.address, node.native_port) else "not ready"
        print(f"{node.address}:{node.native_port}  {state}, {ready}  {node.folder}")
    return 0 if all(pid for _, pid in states) else 1


def _relock(_options: argparse.Namespace) -> int:
    jars.relock()
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "start": _start,
    "stop": _stop,
    "clean": _clean,
    "status": _status,
    "relock": _relock,
}

if __name__ == "__main__":
    sys.exit(main())
