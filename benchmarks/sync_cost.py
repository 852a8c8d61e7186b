"""The cost of the synchronization: a clean half hour, recovery of an outage, a thousand meters at once."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.effort import Effort
from benchmarks.measured_program import PYTHON, ROOT, BenchmarkError, MeasuredProgram, answers, free_port
from benchmarks.meter_swarm import SwarmPlan, command, text_of
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.storing_program import StoringProgram, this_server
from ec_server.account.figures import RUN_FOLDER, SYNC_FIGURES, SYNC_NAME
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.contract import FinishedMinute
from ec_server.storage.merge import batch_of
from ec_server.storage.sqlite_store import SqliteStore
from reference_client.load_generator import LoadReport, run_load
from reference_client.load_plan import LoadPlan
from reference_client.local_store import LocalStore
from reference_client.message import text_batches
from reference_client.sync_answerer import SyncAnswerer, SyncSettings
from reference_client.waveform import Waveform
from utilities.checksum_util import second_digest
from utilities.model import Batch, Digest
from utilities.utc import MINUTE_S, day_of, minute_of

Say = Callable[[str], None]

DEVICE = "meter-0"
RATE, PER_MESSAGE = 44_000, 44
HALF_HOUR_S = 30 * MINUTE_S
METERS, METER_MINUTES = 1000, 30
LOAD_RATE = 5000.0
_PATIENCE_S = 900.0


class _SyncProgram(MeasuredProgram):
    """The sync server, run alone, with its figures."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        environ = {"EC_SYNC_PORT": str(self.port), "EC_STORAGE_PATH": str(folder / "data")}
        (folder / "data" / RUN_FOLDER).mkdir(parents=True, exist_ok=True)
        self._page = WorkerPage.create(folder / "data" / RUN_FOLDER / f"{SYNC_NAME}.page", SYNC_FIGURES)
        self._page.set_state("starting")
        super().__init__("the sync server", [PYTHON, "sync_server.py"], folder / "sync.log", environ)
        self.wait_until(lambda: self._page.state()[0] == "ready")

    def moved(self) -> int:
        """Bytes on the wire, in both directions."""
        figures = self._page.figures()
        return figures["bytes_received"] + figures["bytes_sent"]

    def bytes_read(self) -> int:
        """Bytes that the process has read from files and sockets, cached or not."""
        return int(re.findall(r"rchar: (\d+)", Path(f"/proc/{self.process.pid}/io").read_text())[0])

    def one_round(self, recorded: LocalStore) -> float:
        """Connect a meter, wait for its round; returns how many seconds it took."""
        meter = SyncAnswerer(SyncSettings("127.0.0.1", self.port, DEVICE), recorded)
        began = time.monotonic()
        meter.start()
        while not meter.rounds:
            if self.process.poll() is not None or time.monotonic() - began > _PATIENCE_S:
                raise BenchmarkError(f"no round ended: {self.said()}")
            time.sleep(0.002)
        took_s = time.monotonic() - began
        time.sleep(1.0)  # the figures are updated twice a second
        meter.stop()
        return took_s


def _closed_start(length_s: int) -> int:
    """The first minute of a closed time range of this length within one UTC day."""
    start = minute_of(int(time.time())) - length_s - 10 * MINUTE_S
    return start if day_of(start) == day_of(start + length_s) else day_of(start + length_s) - length_s


def _seconds(start: int, count: int) -> Iterator[tuple[int, str]]:
    """Realistic seconds at 44 kHz."""
    household = Waveform(seed=1)
    for second in range(start, start + count):
        yield second, ";".join(text_batches(household.second(second)))


def _record(folder: Path, seconds: Iterator[tuple[int, str]]) -> LocalStore:
    store = LocalStore(folder, durable=False)
    for second, text in seconds:
        store.record(second, text)
    store.finish()
    return store


# --- a clean half hour --------------------------------------------------------------------


def clean(effort: Effort, say: Say) -> Outcome:
    """Prove half an hour of one 44 kHz meter equal: bytes on the wire, bytes read from the database."""
    rows: list[dict[str, Value]] = []
    faults: list[str] = []
    with effort.fresh_folder() as folder:
        start = _closed_start(HALF_HOUR_S)
        say("recording and storing half an hour")
        recorded = _record(folder / "meter", _seconds(start, HALF_HOUR_S))
        _store_seconds(folder / "data", _seconds(start, HALF_HOUR_S))
        stored_mb = sum(file.stat().st_size for file in (folder / "data").glob("ec-*")) / 2**20
        with _SyncProgram(folder) as program:
            time.sleep(2.0)
            read, cpu_s = program.bytes_read(), program.usage().cpu_s
            took_s = program.one_round(recorded)
            rows.append(
                {
                    "half an hour at 44 kHz": "proven equal",
                    "seconds": took_s,
                    "server CPU s": program.usage().cpu_s - cpu_s,
                    "bytes on the wire": program.moved(),
                    "KB read": (program.bytes_read() - read) / 1024,
                    "MB stored": stored_mb,
                }
            )
        if "repaired" in program.said():
            faults.append("it was not clean")
        moved = float(program.moved())
    return Outcome(
        "A clean half hour",
        rows,
        [Ratio("bytes on the wire for a clean half hour", (moved,), at_most=4096)],
        faults,
        ["KB read: everything that the server process read meanwhile, sockets and figures included"],
    )


def _store_seconds(data: Path, seconds: Iterator[tuple[int, str]]) -> None:
    """Store seconds as a receiver does: one row per message, with digests."""
    data.mkdir(parents=True, exist_ok=True)
    kept: dict[int, list[tuple[int, str]]] = {}
    with SqliteStore(data) as store:
        for second, text in seconds:
            samples = text.split(";")
            parts = [";".join(samples[at : at + PER_MESSAGE]) for at in range(0, RATE, PER_MESSAGE)]
            store.ingest([batch_of(DEVICE, second, part) for part in parts])
            store.note_devices({DEVICE: second * 1_000_000})
            kept.setdefault(minute_of(second), [])
        for minute in kept:
            store.minute_digests(DEVICE, minute, minute + MINUTE_S)


# --- an outage ----------------------------------------------------------------------------


def catch_up(effort: Effort, say: Say) -> Outcome:
    """Recovery of an outage of the server, compared with rsync of the same data as files."""
    length_s = max(60, int(40 * effort.seconds))
    rows: list[dict[str, Value]] = []
    for number in range(effort.rounds):
        say(f"round {number + 1} of {effort.rounds}: {length_s} s of 44 kHz")
        with effort.fresh_folder() as folder:
            start = _closed_start(length_s)
            recorded = _record(folder / "meter", _seconds(start, length_s))
            with _SyncProgram(folder) as program:
                took_s = program.one_round(recorded)
                rows.append(_line("this server", took_s, program.moved(), length_s, program.usage().cpu_s))
            files = folder / "files"
            files.mkdir()
            for minute in range(start, start + length_s, MINUTE_S):
                texts = (recorded.text(s) for s in range(minute, minute + MINUTE_S))
                (files / f"{minute}.txt").write_text("\n".join(texts))
            for name, options in (("rsync", ["-a"]), ("rsync, packed", ["-az"])):
                rows.append(_line(name, *_rsync(folder, files, options, name), length_s, None))
    times = [float(row["times real time"]) for row in rows if row["what"] == "this server"]  # type: ignore[arg-type]
    return Outcome(
        f"An outage of {length_s} s of one 44 kHz meter recovered",
        medians(rows, "what"),
        [Ratio("outage recovered, times real time", tuple(times), at_least=10)],
        notes=[
            "rsync copies canonical text, a file a minute, from its daemon; it proves and indexes nothing"
        ],
        rounds=rows,
    )


def _line(what: str, took_s: float, moved: int, length_s: int, cpu_s: float | None) -> dict[str, Value]:
    return {
        "what": what,
        "seconds": took_s,
        "times real time": length_s / took_s,
        "MB on the wire": moved / 2**20,
        "server CPU s": cpu_s,
    }


def _rsync(folder: Path, files: Path, options: Sequence[str], name: str) -> tuple[float, int]:
    """``(seconds, bytes)`` of a copy from an rsync daemon over loopback."""
    port, target = free_port(), folder / name.replace(", ", "-")
    configuration = folder / "rsyncd.conf"
    configuration.write_text(f"use chroot = no\n[files]\npath = {files}\n")
    daemon = ["rsync", "--daemon", "--no-detach", f"--port={port}", f"--config={configuration}"]
    try:
        with MeasuredProgram("rsync", daemon, folder / "rsync.log") as program:
            program.wait_until(lambda: answers(port))
            began = time.monotonic()
            done = subprocess.run(
                ["rsync", *options, "--stats", f"rsync://127.0.0.1:{port}/files/", str(target)],
                capture_output=True,
                text=True,
                check=True,
            )
            took_s = time.monotonic() - began
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(f"rsync: {error}; install it (Debian: rsync)") from error
    counts = re.findall(r"Total bytes (?:sent|received): ([\d,]+)", done.stdout)
    return took_s, sum(int(count.replace(",", "")) for count in counts)


# --- a thousand meters --------------------------------------------------------------------


def swarm(effort: Effort, say: Say) -> Outcome:
    """A thousand meters at once, each with half an hour; and how much this slows down ingest."""
    rows: list[dict[str, Value]] = []
    kept: list[float] = []
    faults: list[str] = []
    with effort.fresh_folder() as folder:
        start = _closed_start(METER_MINUTES * MINUTE_S)
        plan = SwarmPlan(free_port(), "still", METERS, start, METER_MINUTES)
        say("storing what a thousand meters sent")
        _fill(folder / "data", plan, lost_of_hundred=0)
        _fill(folder / "data", replace(plan, prefix="torn"), lost_of_hundred=5)
        for number in range(effort.rounds):
            _fill(folder / "data", replace(plan, prefix=f"busy{number}"), lost_of_hundred=0)
        options = {"sync.port": str(plan.port), "storage.path": str(folder / "data")}
        program, sip_port = this_server(folder, whole=True, options=options)
        with program:
            program.wait_until(lambda: answers(plan.port))
            time.sleep(2.0)
            for name, prefix in (("equal", "still"), ("5 % of messages lost", "torn")):
                say(f"a thousand meters, {name}")
                rows.append(_swarmed(program, replace(plan, prefix=prefix), name, faults))
            for number in range(effort.rounds):
                say(f"round {number + 1} of {effort.rounds}: ingest alone, and with a thousand meters")
                alone = _load(sip_port, program, effort)
                with _meanwhile(replace(plan, prefix=f"busy{number}"), faults):
                    beside = _load(sip_port, program, effort)
                kept.append(beside / alone)
                rows.append({"meters": f"ingest alone, round {number + 1}", "messages/s": alone})
                rows.append({"meters": f"ingest beside them, round {number + 1}", "messages/s": beside})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Outcome(
        f"{METERS} meters at once, {METER_MINUTES} minutes each",
        [{column: row.get(column) for column in columns} for row in rows],
        [
            Ratio(
                f"messages stored at {LOAD_RATE:.0f}/s offered beside 1,000 meters / alone",
                tuple(kept),
                at_least=0.9,
            )
        ],
        faults,
    )


def _fill(data: Path, plan: SwarmPlan, lost_of_hundred: int) -> None:
    """Store what the meters of a plan sent, as a receiver does, with digests."""
    data.mkdir(parents=True, exist_ok=True)
    texts = [(second, text_of(second)) for second in plan.seconds()]
    with SqliteStore(data) as store:
        for number in range(plan.meters):
            device = plan.device_id(number)
            batches = [
                batch_of(device, second, text)
                for i, (second, text) in enumerate(texts)
                if (i * 37 + number) % 100 >= lost_of_hundred
            ]
            store.ingest(batches)
            store.publish(list(_finished(device, batches)))
        store.note_devices({plan.device_id(number): plan.start * 1_000_000 for number in range(plan.meters)})


def _finished(device: str, batches: Sequence[Batch]) -> Iterator[FinishedMinute]:
    minutes: dict[int, list[tuple[int, Digest]]] = {}
    for one in batches:
        found = second_digest(one.values)
        if found is not None:
            minutes.setdefault(minute_of(one.second), []).append((one.second, Digest(*found)))
    for minute, members in minutes.items():
        yield FinishedMinute(device, minute, tuple(members), complete=True)


def _swarmed(program: StoringProgram, plan: SwarmPlan, name: str, faults: list[str]) -> dict[str, Value]:
    before = program.usage()
    came = _run_swarm(plan)
    used = program.usage()
    if came["verified"] != plan.meters:
        faults.append(f"{name}: {plan.meters - came['verified']:.0f} meters not verified")
    return {
        "meters": name,
        "seconds": came["seconds"],
        "server CPU s": used.cpu_s - before.cpu_s,
        "swarm CPU s": came["cpu_s"],
        "peak MB": used.peak_mb,
        "MB on the wire": came["bytes"] / 2**20,
        "seconds repaired": came["repaired"],
    }


def _run_swarm(plan: SwarmPlan) -> dict[str, float]:
    done = subprocess.run(
        [PYTHON, *command(plan)], cwd=ROOT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"the meters: {done.stderr[-1000:]}")
    came: dict[str, float] = json.loads(done.stdout)
    return came


@contextmanager
def _meanwhile(plan: SwarmPlan, faults: list[str]) -> Iterator[None]:
    """Run the swarm while the block runs."""
    results: list[dict[str, float]] = []
    thread = threading.Thread(target=lambda: results.append(_run_swarm(plan)))
    thread.start()
    yield
    thread.join()
    if not results or results[0]["verified"] != plan.meters:
        faults.append("not all meters were verified beside the ingest")


def _load(port: int, program: StoringProgram, effort: Effort) -> float:
    """Messages stored per second, with LOAD_RATE offered."""
    messages = int(LOAD_RATE * 4 * effort.seconds)
    before = program.figure("received")
    began = time.monotonic()
    report: LoadReport = run_load(LoadPlan(port=port, messages=messages, rate=LOAD_RATE, devices=8))
    if report.answered != messages:
        raise BenchmarkError(f"{messages - report.answered} of {messages} messages were not answered")
    settled = program.wait_until_settled(before + messages)
    return messages / (settled - began)
