"""The demo: a server and three meters that lose messages, with a line a second of what is stored.

    python -m reference_client.demo

Everything it makes stands under ``demo/`` in the working folder: data, the meters' own stores, two
logs. Ctrl-C (or SIGTERM) ends meters and server in order. What the meters lose on purpose, one message
in a hundred, comes back with the next round, half a minute later: ``proven`` says through when.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from configuration.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("demo")
OWN_SETTINGS = {"EC_STORAGE_PATH": str(FOLDER / "data"), "EC_SYNC_SYNCFREQ": "0.5"}
METERS = ("--devices", "3", "--transport", "tcp", "--faults", "drop=1%,twice=1%,disorder=1%,seed=1")
_UP_S = 60.0
_END_S = 30.0
_HEADING = "  time      batches/s   samples/s    stored   missing now   repaired   proven through"


def main() -> int:
    """Run until stopped; 0 where all ended well, 1 where the server did not come up or died."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    FOLDER.mkdir(exist_ok=True)
    environ = {**os.environ, **OWN_SETTINGS, "PYTHONUNBUFFERED": "1"}
    with ExitStack() as ending:
        server = _start(ending, ["ec_server_main.py"], "server.log", environ)
        status = f"http://{Settings().status_ip}:{Settings().status_port}"
        if not _wait_until_up(server, status, stop):
            return 0 if stop.is_set() else _tell_why(server)
        target = f"{Settings().sync_ip}:{Settings().sync_port}"
        sip = f"{Settings().sip_public_addr}:{Settings().sip_port}"
        meters = ["-m", "reference_client", *METERS, "--server", sip, "--sync", target]
        _start(ending, [*meters, "--store", str(FOLDER / "meters")], "meters.log", environ)
        print(f"three meters send to {sip}; the page is {status}/; Ctrl-C ends all of it\n\n{_HEADING}")
        _show(server, status, stop)
        print("\nending meters and server ...", flush=True)
    return 0 if server.returncode == 0 else _tell_why(server)


def _start(
    ending: ExitStack, command: Sequence[str], log: str, environ: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a program of ours whose output goes to a log; it is ended with the demo, newest first."""
    program = [str(ROOT / command[0]), *command[1:]] if command[0].endswith(".py") else command
    with (FOLDER / log).open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environ, "PYTHONPATH": str(ROOT)},
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


def _wait_until_up(server: subprocess.Popen[bytes], status: str, stop: threading.Event) -> bool:
    deadline = time.monotonic() + _UP_S
    while server.poll() is None and time.monotonic() < deadline and not stop.wait(0.2):
        if _get(f"{status}/readyz") is not None:
            return True
    return False


def _tell_why(server: subprocess.Popen[bytes]) -> int:
    log = (FOLDER / "server.log").read_text("utf-8", "replace").splitlines()
    print(f"the server ended with {server.poll()}; the end of {FOLDER / 'server.log'}:", *log[-8:], sep="\n")
    return 1


def _show(server: subprocess.Popen[bytes], status: str, stop: threading.Event) -> None:
    before: tuple[float, float] | None = None
    while server.poll() is None and not stop.wait(1.0):
        metrics, devices = _get(f"{status}/metrics"), _get(f"{status}/api/devices")
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
    """The unlabelled samples of a Prometheus text."""
    lines = [line.split() for line in metrics.splitlines() if line and line[0] != "#" and "{" not in line]
    return {name: float(value) for name, value in lines}


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own status server)
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, OSError):
        return None


if __name__ == "__main__":
    sys.exit(main())
