"""Meters replay recordings through the whole server; what is stored is what was recorded, sample by sample.

The expected text and digests are computed here from the recording, by code that shares nothing with
the server's or the meter's.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from running_server import ROOT, RunningServer, wait_for

from ec_server.storage.sqlite_store import SqliteStore
from utilities.utc import ec_time, minute_text

RATE = 44_000
SECONDS = 4


def recording(path: Path, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A file like a real one: mains power with its harmonics, noise, and a step when it is switched on."""
    t = np.arange(SECONDS * RATE) / RATE
    noise = np.random.default_rng(seed).normal(0, 3, len(t))
    power = 230 * (1 + np.sin(2 * np.pi * 100 * t)) * (t > 0.3) * (0.2 + seed) + noise
    samples = power.astype(np.float32)
    np.save(path, samples)
    return samples


def expected_seconds(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> list[str]:
    """Canonical text of each recorded second: C's "%06d,%.9g" joined by ;"""
    return [
        ";".join(
            f"{math.floor(i * 1_000_000 / RATE):06d},{float(samples[s * RATE + i]):.9g}" for i in range(RATE)
        )
        for s in range(len(samples) // RATE)
    ]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path) as running:
        yield running


def run_meter(server: RunningServer, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reference_client", "--store", str(server.folder / "meters"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def certificate(folder: Path) -> dict[str, Path]:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    paths = {name: folder / f"{name}.pem" for name in ("ca", "certificate", "key")}
    authority.cert_pem.write_to_path(str(paths["ca"]))
    issued.private_key_pem.write_to_path(str(paths["key"]))
    with paths["certificate"].open("wb") as file:
        for blob in issued.cert_chain_pems:
            file.write(blob.bytes())
    return paths


@pytest.mark.parametrize(
    ("transport", "form"), [("tcp", "text"), ("udp", "binary"), ("tls", "text"), ("tls", "binary")]
)
def test_every_recorded_sample_is_stored_and_every_digest_is_the_recording_s(
    server: RunningServer, tmp_path: Path, transport: str, form: str
) -> None:
    files = certificate(tmp_path)
    environ = {}
    if transport == "tls":
        environ = {
            "EC_SIP_TRANSPORTS": "tls",
            "EC_SIP_TLS_CERTIFICATE": str(files["certificate"]),
            "EC_SIP_TLS_KEY": str(files["key"]),
        }
    server.start(**environ)
    expected = expected_seconds(recording(tmp_path / "power.npy", 1))
    start = int(time.time()) - int(time.time()) % 60 - 600 + 58  # crosses a minute's border
    run_meter(
        server,
        *("--server", f"127.0.0.1:{server.sip_port}", "--transport", transport, "--format", form),
        *("--recording", str(tmp_path / "power.npy"), "--start", str(start), "--seconds", str(SECONDS)),
        *(("--ca", str(files["ca"])) if transport == "tls" else ()),
    )
    server.wait_for_figure("ec_batches_stored_total", SECONDS * 1000)
    with SqliteStore(tmp_path / "data", read_only=True) as store:
        stored = [store.second_text("meter-1", second) for second in range(start, start + SECONDS)]
        assert stored == expected  # one by one: text is every microsecond and value in order
        digests = {s: (len(t.split(";")), hashlib.md5(t.encode()).hexdigest()) for s, t in
                   zip(range(start, start + SECONDS), expected)}  # fmt: skip
        for minute in {s - s % 60 for s in digests}:
            of_minute = {s: d for s, d in digests.items() if s - s % 60 == minute}
            found = {s: (d.count, d.md5) for s, d in store.second_digests("meter-1", minute)}
            assert found == of_minute
            lines = "".join(f"{ec_time(s)},{c},{m}\n" for s, (c, m) in sorted(of_minute.items()))
            whole = (RATE * len(of_minute), hashlib.md5(lines.encode()).hexdigest())
            ((_, minute_digest),) = store.minute_digests("meter-1", minute, minute + 60)
            assert (minute_digest.count, minute_digest.md5) == whole
    assert server.account_is_exact()


def _minute_samples(folder: Path, device: str, minute: int) -> int:
    with SqliteStore(folder / "data", read_only=True) as store:
        return sum(digest.count for _, digest in store.minute_digests(device, minute, minute + 60))


def test_what_meters_lose_on_the_way_is_proven_and_repaired_after_a_round(
    server: RunningServer, tmp_path: Path
) -> None:
    server.start(EC_SYNC_SYNCFREQ="0.05")
    minute = int(time.time()) - int(time.time()) % 60 - 1200
    meter = subprocess.Popen(
        [
            *(sys.executable, "-m", "reference_client", "--store", str(tmp_path / "meters")),
            *("--devices", "2", "--server", f"127.0.0.1:{server.sip_port}"),
            *("--sync", f"127.0.0.1:{server.sync_port}", "--start", str(minute + 54), "--seconds", "12"),
            *("--speed", "max", "--stay", "--faults", "drop=5%,twice=1%,disorder=1%,seed=3"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        through = minute_text(minute + 60)
        devices = ("meter-1", "meter-2")
        server.wait_for_figure("ec_batches_stored_total", 20_000, 100)  # a round before it proves nothing
        # A round before the first sample proves the time until now; the meters' minutes come after it.
        wait_for(lambda: all(_minute_samples(tmp_path, d, minute) for d in devices), "samples", 60)
        wait_for(
            lambda: all(_minute_samples(tmp_path, d, minute) == 6 * RATE for d in devices),
            "the first minute of both to be whole",
            100,
        )
        wait_for(
            lambda: all((server.devices()[d]["verified_through"] or "") >= through for d in devices),
            "it to be proven",
            60,
        )
    finally:
        meter.terminate()
        meter.wait(30)
    assert server.figure("ec_sync_seconds_repaired_total") > 0
    with SqliteStore(tmp_path / "data", read_only=True) as store:
        for device in ("meter-1", "meter-2"):
            digests = dict(store.minute_digests(device, minute, minute + 60))
            assert digests[minute].count == 6 * RATE
