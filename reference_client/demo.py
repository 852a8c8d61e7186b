"""The demo: a server, and meters that lose messages, with one line per second about what is stored.

    python -m reference_client.demo

Everything it creates is in ``demo/`` in the working folder: the server's configuration (``demo.properties``),
data, the meters' own stores, two logs. Ctrl-C (or SIGTERM) ends the meters and the server in order. The
meters lose one message in a hundred on purpose, which the next round, half a minute later, recovers: the
column ``proven through`` shows up to when.

It uses only its own configuration, neither ``EC_`` variables of the environment nor
``configuration/config.properties``, and connects to no server that it did not start. Exit code 0 if all ended
well, 1 if the server did not come up or died, 2 for wrong arguments or without PJSUA2.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from configuration.settings import Settings
from utilities import extras

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("demo")
LOOPBACK = "127.0.0.1"
FAULTS = "drop=1%,twice=1%,disorder=1%,seed=1"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks no proxy of the environment for what is on this machine."""
_UP_S = 60.0
_END_S = 30.0
_HEADING = "  time      batches/s   samples/s    stored   missing now   repaired   proven through"


@dataclass(frozen=True, slots=True)
class Demo:
    """The arguments of the command line; ports are those in use."""

    folder: Path
    meters: int
    seconds: int | None
    sip_port: int
    sync_port: int
    status_port: int

    @property
    def status(self) -> str:
        """The URL of the status page."""
        return f"http://{LOOPBACK}:{self.status_port}"

    @property
    def configuration(self) -> Path:
        """The server's configuration file, with which every other command can inspect the demo."""
        return self.folder / "demo.properties"

    def configuration_text(self) -> str:
        """The options that differ from the defaults; ``storage.path`` is relative to the working folder."""
        return (
            f"[SIP]\nsip.port = {self.sip_port}\n"
            f"[Storage]\nstorage.path = {self.folder / 'data'}\n"
            f"[Synchronization]\nsync.syncfreq = 0.5\nsync.port = {self.sync_port}\n"
            f"[Status]\nstatus.port = {self.status_port}\n"
        )

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment of server and meters: without the ``EC_`` variables of another server."""
        others = {name: value for name, value in environ.items() if not name.startswith("EC_")}
        return {**others, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def meter_command(self) -> list[str]:
        """The command that starts the meters, as a user would start them."""
        command = ["-m", "reference_client", "--devices", str(self.meters), "--transport", "tcp"]
        command += ["--faults", FAULTS, "--server", f"{LOOPBACK}:{self.sip_port}"]
        return [*command, "--sync", f"{LOOPBACK}:{self.sync_port}", "--store", str(self.folder / "meters")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped, or for ``--seconds``; returns the exit code."""
    demo = _demo(_parser().parse_args(arguments))
    if extras.is_missing("pjsua2"):
        print(f"the demo's meters need {extras.install_text('pjsua2')}", file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    demo.folder.mkdir(parents=True, exist_ok=True)
    demo.configuration.write_text(demo.configuration_text())
    environ = demo.environment(os.environ)
    with ExitStack() as ending:
        log = demo.folder / "server.log"
        server = _start(ending, ["ec_server_main.py", "-c", str(demo.configuration)], log, environ)
        if not _wait_until_up(server, log, stop):
            return 0 if stop.is_set() else _tell_why(server, log)
        _start(ending, demo.meter_command(), demo.folder / "meters.log", environ)
        print(
            f"{demo.meters} meters send to {LOOPBACK}:{demo.sip_port}; the page is {demo.status}/; "
            f"Ctrl-C ends all of it\n\n{_HEADING}",
            flush=True,
        )
        _show(server, demo, stop)
        print("\nending meters and server ...", flush=True)
    return 0 if server.returncode == 0 else _tell_why(server, log)


def _demo(asked: argparse.Namespace) -> Demo:
    ports = [asked.sip_port, asked.sync_port, asked.status_port]
    return Demo(asked.folder, asked.meters, asked.seconds, *_with_free_ports(ports))


def _with_free_ports(ports: Sequence[int]) -> list[int]:
    """The ports, each 0 replaced by a port that is free at the moment."""
    with ExitStack() as held:
        found = []
        for port in ports:
            if port == 0:
                probe = held.enter_context(socket.socket())
                probe.bind((LOOPBACK, 0))
                port = probe.getsockname()[1]  # noqa: PLW2901
            found.append(port)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference_client.demo",
        description="Start a server and meters that lose messages on purpose, and show the repair.",
        epilog="Exit codes: 0 ended as requested, 1 the server did not start or died, "
        "2 wrong arguments, or PJSUA2 is missing.",
    )
    add, default = parser.add_argument, Settings()
    add("--meters", type=_whole(1, 100), default=3, metavar="N", help="number of meters (default: 3)")
    add("--seconds", type=_whole(1, 10**9), metavar="S", help="end after S seconds (default: on Ctrl-C)")
    add("--folder", type=Path, default=FOLDER, metavar="DIR", help="data, stores and logs (default: demo)")
    for name, port in (
        ("sip", default.sip_port),
        ("sync", default.sync_port),
        ("status", default.status_port),
    ):
        text = f"default: {port}; 0: a free one"
        add(f"--{name}-port", type=_whole(0, 65535), default=port, metavar="PORT", help=text)
    return parser


def _whole(low: int, high: int) -> Any:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return number


def _start(
    ending: ExitStack, command: Sequence[str], log: Path, environ: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a program of this project, with its output in a log; programs are ended in reverse order."""
    program = [str(ROOT / command[0]), *command[1:]] if command[0].endswith(".py") else command
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )
    ending.callback(_end, child)
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_up(server: subprocess.Popen[bytes], log: Path, stop: threading.Event) -> bool:
    """Whether our server is up, according to its log (the status page might be that of another server)."""
    deadline = time.monotonic() + _UP_S
    while server.poll() is None and time.monotonic() < deadline and not stop.wait(0.2):
        if b" launcher up: " in log.read_bytes():
            return True
    return False


def _tell_why(server: subprocess.Popen[bytes], log: Path) -> int:
    lines = log.read_text("utf-8", "replace").splitlines()
    code = server.poll()
    what = f"ended with {code}" if code is not None else f"is not up after {_UP_S:.0f} s"
    print(f"the server {what}; the last lines of {log}:", *lines[-8:], sep="\n", file=sys.stderr)
    return 1


def _show(server: subprocess.Popen[bytes], demo: Demo, stop: threading.Event) -> None:
    before: tuple[float, float] | None = None
    end = None if demo.seconds is None else time.monotonic() + demo.seconds
    while server.poll() is None and not stop.wait(1.0) and (end is None or time.monotonic() < end):
        metrics, devices = _get(f"{demo.status}/metrics"), _get(f"{demo.status}/api/devices")
        if metrics is None or devices is None:
            continue
        figures = _figures(metrics.decode())
        now, stored = time.monotonic(), figures["ec_batches_stored_total"]
        if before is not None:
            rate = (stored - before[1]) / (now - before[0])
            print(_line(rate, figures, json.loads(devices)), flush=True)
        before = now, stored


def _line(rate: float, figures: Mapping[str, float], devices: Sequence[Mapping[str, Any]]) -> str:
    through = [device["verified_through"] for device in devices]
    unresolved = sum(device["unresolved_minutes"] for device in devices)
    proven = f"{min(through)} UTC" if through and all(through) else "first round to come"
    return (
        f"  {time.strftime('%H:%M:%S', time.gmtime())}  {rate:9,.0f}"
        f"{sum(device['samples_per_second'] for device in devices):12,.0f}"
        f"{figures['ec_batches_stored_total']:10,.0f}{unresolved:10,} min"
        f"{figures['ec_sync_seconds_repaired_total']:9,.0f} s   {proven}"
    )


def _figures(metrics: str) -> dict[str, float]:
    """The samples without labels in a Prometheus text."""
    lines = [line.split() for line in metrics.splitlines() if line and line[0] != "#" and "{" not in line]
    return {name: float(value) for name, value in lines}


def _get(url: str) -> bytes | None:
    try:
        with _DIRECT.open(url, timeout=5) as answer:
            body: bytes = answer.read()
            return body
    except (OSError, HTTPException):
        return None


if __name__ == "__main__":
    sys.exit(main())
