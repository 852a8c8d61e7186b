"""What the README and docs/first-steps.md tell a stranger to type works as printed, against the demo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running_server import ROOT, wait_for

from configuration.properties_reader import read_settings


def commands_of(page: str) -> list[str]:
    blocks = re.findall(r"^```shell\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    command = re.compile(r'^(?:.*\\\n)*.*"\n(?:.+\n)+"$|^(?:.*\\\n)*.+$', re.M)
    return [found.replace("\\\n", "") for block in blocks for found in command.findall(block)]


COMMANDS = commands_of("README.md")
FIRST_STEPS = commands_of("docs/first-steps.md")
METER = next(command for command in FIRST_STEPS if "-m reference_client " in command)

NOT_RUN_HERE = {
    "make demo": "its program is started below, on ports of its own",
    "python3 -m venv .venv": "builds an environment",
    ".venv/bin/pip install --require-hashes -r requirements.txt": "installs packages",
    ".venv/bin/pip install 'pyarrow>=21' 'pandas>=2.3'": "installs packages",
    ".venv/bin/pip install 'pyarrow>=21' 'pandas>=2.3' 'matplotlib>=3.10'": "installs packages",
    ".venv/bin/python ec_server_main.py": "runs until stopped: test_launcher.py",
    "nohup .venv/bin/python -u ec_server_main.py > server.log 2>&1 &": "runs until stopped: test_launcher.py",
    ".venv/bin/python -m reference_client --sync 127.0.0.1:27979": "fixed ports: test_meters_end_to_end.py",
}


def run_as_printed(folder: Path, command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a shell, in a folder that looks like the project's."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("EC_")}
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**ours, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environ},
        input="SELECT count(*) > 0 FROM ec_consumption;\n" if "storage.shell" in command else "",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder of links, with the environment of this test as ``.venv``."""
    for name in ("ec_server_main.py", "test", "configuration"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


@pytest.fixture
def demo(folder: Path) -> Iterator[Path]:
    """``make demo`` on ports of its own, running."""
    ports = [word for name in ("sip", "sync", "status") for word in (f"--{name}-port", "0")]
    program = subprocess.Popen(
        [sys.executable, "-m", "reference_client.demo", *ports],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        assert "3 meters send to 127.0.0.1:" in program.stdout.readline()
        yield folder
    finally:
        program.send_signal(signal.SIGINT)
        rest, _ = program.communicate(timeout=60)
        assert program.returncode == 0, rest


def test_every_command_is_run_or_the_reason_why_not_is_known() -> None:
    assert set(NOT_RUN_HERE) <= {*COMMANDS, *FIRST_STEPS}
    assert len(COMMANDS) > len(NOT_RUN_HERE)


def test_the_commands_work_in_their_order_against_the_demo(demo: Path) -> None:
    for command in COMMANDS:
        if command not in NOT_RUN_HERE:
            works_soon(demo, command)
    with a_meter(demo):
        for command in FIRST_STEPS:
            if command not in {*NOT_RUN_HERE, METER}:
                works_soon(demo, command)
    made = {path.name for path in demo.iterdir()}
    assert made >= {"demo", "today.parquet", "today.parquet.json", "house.parquet", "house.png"}
    assert "data" not in made  # what the demo makes is all in its own folder


@contextmanager
def a_meter(folder: Path) -> Iterator[None]:
    """The meter of the first steps, at the demo's ports."""
    settings = read_settings(folder / "demo" / "demo.properties", {})
    command = METER.replace(".venv/bin/python", f"exec {sys.executable}")
    command = command.replace("27979", str(settings.sync_port)) + f" --server 127.0.0.1:{settings.sip_port}"
    program = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0


def works_soon(folder: Path, command: str) -> None:
    """Exit code 0; not at once where the meters have only just begun to send."""
    environ = {} if "demo.properties" in command else {"EC_STORAGE_PATH": "demo/data"}
    done = run_as_printed(folder, command, **environ)

    def works() -> bool:
        nonlocal done
        done = run_as_printed(folder, command, **environ)
        return done.returncode == 0

    if done.returncode == 1:
        wait_for(works, command)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    assert done.stdout + done.stderr
    assert "Traceback" not in done.stderr
