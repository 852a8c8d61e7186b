"""The meters' command line: what it makes of its words, and what it refuses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from reference_client.command_line import _parser, plans_of
from reference_client.fleet import begin_of
from reference_client.meter_process import Begin

ROOT = Path(__file__).parents[2]


def test_meters_are_divided_among_processes():
    plans = plans_of(["--devices", "19", "--id-prefix", "flat"])
    assert [len(plan.devices) for plan in plans] == [8, 8, 3]
    assert [d for plan in plans for _, d in plan.devices] == [f"flat-{i}" for i in range(1, 20)]


def test_a_certificate_names_one_device_so_each_has_its_process():
    plans = plans_of(["--devices", "3", "--certificate", "c.pem", "--key", "k.pem"])
    assert [len(plan.devices) for plan in plans] == [1, 1, 1]


def test_now_is_the_next_whole_second_and_another_start_begins_at_once():
    (plan,) = plans_of([])
    assert plan.start is None
    assert begin_of(plan.start, 1_772_366_400.25) == Begin(1_772_366_401, 1_772_366_401.0)
    (plan,) = plans_of(["--start", "1700000000", "--speed", "max", "--format", "binary"])
    assert begin_of(plan.start, 1_772_366_400.25) == Begin(1_700_000_000, 1_772_366_400.25)
    assert math.isinf(plan.speed)
    assert plan.binary


def test_addresses_and_the_device_key_are_accepted():
    key = "00ff" * 16
    (plan,) = plans_of(["--server", "[::1]:5060", "--sync", "127.0.0.1:27979", "--device-key", key])
    assert plan.sip.uri == "sip:ecserver@[::1]:5060;transport=tcp"
    assert plan.sync
    assert (plan.sync.host, plan.sync.port, plan.sync.key) == ("127.0.0.1", 27979, bytes.fromhex(key))
    assert key not in repr(plan)
    assert "key=b" not in repr(plan)


def test_passwords_come_from_a_file_and_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "passwords"
    file.write_text("meter-1:se:cret\nmeter-2:other\n")
    (plan,) = plans_of(["--passwords", str(file)])
    assert plan.sip.passwords == {"meter-1": "se:cret", "meter-2": "other"}
    assert "cret" not in repr(plan)
    file.write_text("meter-1:secret\nmeter-2\n")
    with pytest.raises(SystemExit):
        plans_of(["--passwords", str(file)])
    assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--server", "nowhere"], "HOST:PORT"),
        (["--devices", "0"], "--devices"),
        (["--speed", "0"], "--speed"),
        (["--faults", "drop=200%"], "drop=200%"),
        (["--recording", "missing.npy"], "missing.npy"),
        (["--device-key", "xyz"], "--device-key"),
        (["--certificate", "c.pem"], "--key"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], named: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        plans_of(words)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_a_file_that_is_not_a_recording_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "wrong.npy", np.zeros((3, 3)))
    with pytest.raises(SystemExit):
        plans_of(["--recording", str(tmp_path / "wrong.npy")])
    assert "one-dimensional" in capsys.readouterr().err


def test_every_option_is_documented_and_nothing_else():
    documented = set(re.findall(r"`(--[a-z-]+)", (ROOT / "docs/meter.md").read_text()))
    from reference_client.demo import _parser as demo_parser
    from reference_client.load_generator import _parser as load_parser
    from reference_client.validate import _parser as validate_parser

    parsers = (_parser(), load_parser(), demo_parser(), validate_parser())
    offered = {option for one in parsers for action in one._actions for option in action.option_strings}
    assert documented == {option for option in offered if option.startswith("--")} - {"--help"}
