"""Jars, mainly Cassandra's: downloaded once into a cache outside the project, each checked against a lock.

A line of a lock is ``sha256  group:artifact:version[:classifier]``. Exactly the jars in the lock are fetched,
so nothing is resolved at run time and no newer version can slip in. ``relock`` writes a new lock from the
release's own dependency tree; run it manually when CASSANDRA_VERSION changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CASSANDRA_VERSION = "5.0.9"
LOCK = Path(__file__).with_name("jars.lock")
_FETCHING_THREADS = 8
_TIMEOUT_S = 60


class JarError(Exception):
    """A jar could not be fetched, or does not match the lock."""


def cache_folder() -> Path:
    """The folder for jars and nodes: ``$XDG_CACHE_HOME`` or ``~/.cache``, then the project's name."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "energy-consumption-server"


def locked(lock: Path = LOCK) -> list[tuple[str, str]]:
    """``(coordinate, sha256)`` of every jar in a lock."""
    lines = (line.split() for line in lock.read_text("ascii").splitlines() if line[:1] not in ("#", ""))
    return [(coordinate, sha256) for sha256, coordinate in lines]


def classpath(
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    *,
    lock: Path = LOCK,
    product: str = f"Cassandra {CASSANDRA_VERSION}",
) -> str:
    """The Java class path of all jars in the lock, which are fetched if missing and always verified.

    Raises JarError if a jar cannot be fetched or does not match the lock. Concurrent processes wait for each
    other.
    """
    wanted = locked(lock)
    _repository().mkdir(parents=True, exist_ok=True)
    with (_repository() / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        absent = [entry for entry in wanted if not _path(entry[0]).exists()]
        if absent:
            say(f"fetching {len(absent)} jars of {product} into {cache_folder()}")
            context = _maven_context()
            with ThreadPoolExecutor(_FETCHING_THREADS) as threads:
                list(threads.map(lambda entry: _fetch(context, *entry), absent))
        for coordinate, sha256 in wanted:
            _verify(coordinate, _path(coordinate), sha256)
    return os.pathsep.join(str(_path(coordinate)) for coordinate, _ in wanted)


def relock() -> None:
    """Write jars.lock from the dependency tree of CASSANDRA_VERSION, trusting what it fetches."""
    context = _maven_context()
    release = context.create_dependency(f"org.apache.cassandra:cassandra-all:{CASSANDRA_VERSION}")
    _root, nodes = context.resolver.get_dependency_list([release])
    artifacts = [release.artifact, *[node.dep.artifact for node in nodes]]
    entries = []
    for artifact in artifacts:
        parts = (artifact.groupId, artifact.artifactId, artifact.version, artifact.classifier)
        coordinate = ":".join(part for part in parts if part)
        entries.append(f"{_sha256(artifact.resolve())}  {coordinate}\n")
    head = "# sha256  group:artifact:version[:classifier], made by `python -m reference_cluster relock`\n"
    LOCK.write_text(head + "".join(sorted(entries, key=lambda line: line.split()[1])), "ascii")


def _maven_context() -> Any:
    try:
        from jgo.maven import MavenContext  # noqa: PLC0415
    except ImportError as error:
        raise JarError(
            "the package jgo, which fetches Cassandra, is missing: pip install '.[node]'"
        ) from error
    return MavenContext(repo_cache=_repository(), timeout=_TIMEOUT_S)


def _repository() -> Path:
    return cache_folder() / "maven"


def _path(coordinate: str) -> Path:
    group, artifact, version, *classifier = coordinate.split(":")
    name = "-".join([artifact, version, *classifier]) + ".jar"
    return _repository() / group.replace(".", "/") / artifact / version / name


def _fetch(context: Any, coordinate: str, sha256: str) -> None:
    group, name, version, *classifier = coordinate.split(":")
    component = context.project(group, name).at_version(version)
    try:
        path = component.artifact(classifier[0]).resolve() if classifier else component.artifact().resolve()
    except Exception as error:
        raise JarError(f"{coordinate} could not be fetched: {error}") from error
    _verify(coordinate, path, sha256)


def _verify(coordinate: str, path: Path, sha256: str) -> None:
    if _sha256(path) != sha256:
        path.unlink(missing_ok=True)
        raise JarError(f"{coordinate} does not match jars.lock; it was removed, try again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
