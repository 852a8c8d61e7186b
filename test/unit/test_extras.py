"""What only some installations need is an extra; where it is missing, the message says what to install."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from configuration.consistency import conflicts
from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server.storage.engines import open_store
from utilities import extras
from utilities.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEEDED = (ROOT / "requirements.txt").read_text("utf-8")
NEEDS_DRIVER = "needs the Cassandra driver: pip install --require-hashes -r requirements-cassandra.txt"


def run_without(module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of ours in a Python in which ``module`` cannot be found."""
    hidden = f"import sys, runpy; sys.modules[{module!r}] = None; sys.argv = {list(command)!r}; "
    run = "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", hidden + run],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", ["matplotlib", "pyarrow", "soundfile"])
def test_what_a_message_says_to_install_is_what_an_extra_asks_for(module: str) -> None:
    asked = {one for extra in PROJECT["optional-dependencies"].values() for one in extra}
    command = extras.install_text(module)
    assert re.search(r"'(.+)'$", command).group(1) in asked


@pytest.mark.parametrize("package", ["cassandra-driver", "matplotlib", "pyarrow", "soundfile", "jgo"])
def test_the_server_alone_does_not_install_it(package: str) -> None:
    assert not re.search(rf"^{package}==", NEEDED, re.M)
    assert re.search(rf"^{package}==", (ROOT / "requirements-dev.txt").read_text("utf-8"), re.M)


def test_the_lock_for_cassandra_is_that_of_the_server_and_the_driver() -> None:
    def pinned(name: str) -> set[str]:
        return set(re.findall(r"^[\w-]+==\S+", (ROOT / name).read_text("utf-8"), re.M))

    with_driver = pinned("requirements-cassandra.txt")
    assert pinned("requirements.txt") < with_driver
    assert "cassandra-driver==3.30.1" in with_driver


def test_pythons_without_a_wheel_of_the_sip_library_can_run_the_server() -> None:
    (line,) = re.findall(r"^pjsua2-python==.*", NEEDED, re.M)
    assert "python_full_version < '3.13'" in line
    assert "platform_machine == 'x86_64'" in line


class TestWithoutTheCassandraDriver:
    @pytest.fixture(autouse=True)
    def hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cassandra", None)

    def test_a_configuration_that_names_the_engine_is_at_fault_and_says_where(self, tmp_path: Path) -> None:
        file = tmp_path / "c.properties"
        file.write_text("[Storage]\nstorage.engine = cassandra\n")
        with pytest.raises(ConfigurationError) as error:
            read_settings(file, {})
        assert f"{file}:2: [Storage] storage.engine = 'cassandra': {NEEDS_DRIVER}" in str(error.value)

    def test_the_other_engine_is_not_concerned(self) -> None:
        assert conflicts(Settings()) == []

    def test_a_command_that_opens_it_beside_the_configured_one_says_so_too(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=NEEDS_DRIVER):
            open_store(Settings(storage_engine="cassandra", storage_path=tmp_path))


def test_check_config_without_the_driver_is_exit_2_and_says_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "c.properties"
    file.write_text("[Storage]\nstorage.engine = cassandra\n")
    done = run_without("cassandra", "ec_server_main", "--check-config", "-c", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert NEEDS_DRIVER in done.stderr


def test_the_meters_help_and_usage_errors_need_no_sip_library() -> None:
    for words, code in ((("--help",), 0), (("--id-prefix", "bad id"), 2)):
        done = run_without("pjsua2", "reference_client", *words)
        assert done.returncode == code
        assert "usage: python -m reference_client" in done.stdout + done.stderr
        assert "PJSUA2: pip install" not in done.stderr


@pytest.mark.parametrize("command", ["reference_client", "reference_client.demo"])
def test_meters_without_the_sip_library_say_what_to_install(command: str) -> None:
    done = run_without("pjsua2", command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "PJSUA2: pip install" in done.stderr
    assert "Traceback" not in done.stderr
