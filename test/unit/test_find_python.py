"""The set-up commands find a Python that has a wheel of the SIP stack, or say what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "find-python.sh"
UNSUITABLE = "#!/bin/sh\nexit 1\n"


def program(folder: Path, name: str, text: str = "") -> Path:
    """A program in ``folder``; without ``text`` it is the Python that runs this test."""
    path = folder / name
    path.write_text(text or f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


def find(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    only = {"PATH": f"{folder}:/usr/bin:/bin", "EC_MACHINE": "Linux x86_64"}
    for name in ("python3.12", "python3.11", "python3"):  # those of the machine do not count
        if not (folder / name).exists():
            program(folder, name, UNSUITABLE)
    return subprocess.run(
        ["/bin/sh", str(SCRIPT)], env=only | environ, capture_output=True, text=True, check=False
    )


def test_a_named_python_comes_first(tmp_path: Path) -> None:
    program(tmp_path, "python3.12")
    named = program(tmp_path, "my-python")
    assert find(tmp_path, PYTHON=str(named)).stdout.strip() == str(named)


def test_a_named_python_that_does_not_fit_is_an_error_and_no_other_is_taken(tmp_path: Path) -> None:
    program(tmp_path, "python3.12")
    named = program(tmp_path, "python3.13", UNSUITABLE)
    found = find(tmp_path, PYTHON=str(named))
    assert (found.returncode, found.stdout) == (2, "")
    assert f"PYTHON={named}" in found.stderr


@pytest.mark.parametrize("name", ["python3.12", "python3.11", "python3"])
def test_the_path_is_searched_for_one_that_fits(tmp_path: Path, name: str) -> None:
    fitting = program(tmp_path, name)
    assert find(tmp_path).stdout.strip() == str(fitting)


def test_uv_provides_one_where_the_path_has_none(tmp_path: Path) -> None:
    provided = program(tmp_path, "provided")
    asked = tmp_path / "asked"
    finds_nothing_at_first = f'[ "$2" = find ] && [ ! -e {asked}2 ] && {{ touch {asked}2; exit 1; }}\n'
    then_finds = f'[ "$2" = find ] && echo {provided}\nexit 0\n'
    program(tmp_path, "uv", f'#!/bin/sh\necho "$@" >> {asked}\n{finds_nothing_at_first}{then_finds}')
    assert find(tmp_path).stdout.strip() == str(provided)
    assert asked.read_text().splitlines() == ["python find 3.12", "python install 3.12", "python find 3.12"]


@pytest.mark.parametrize("system", ["Debian 12", "Debian 13", "Ubuntu", "Fedora", "macOS"])
def test_if_no_python_fits_the_message_says_what_to_install(tmp_path: Path, system: str) -> None:
    found = find(tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert system in found.stderr


@pytest.mark.parametrize("machine", ["Linux aarch64", "Darwin x86_64", "FreeBSD amd64"])
def test_a_machine_without_a_wheel_is_named(tmp_path: Path, machine: str) -> None:
    program(tmp_path, "python3.12")
    found = find(tmp_path, EC_MACHINE=machine)
    assert found.returncode == 2
    assert f"no wheel for {machine}" in found.stderr


def test_the_python_of_this_environment_fits(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "EC_MACHINE")}
    found = subprocess.run(
        ["/bin/sh", str(SCRIPT)],
        env=environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout.strip(), found.stderr) == (sys.executable, "")
