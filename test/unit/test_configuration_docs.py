"""Schema, sample file and documentation say the same of every option, and the examples are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configuration.devices import DeviceDirectory
from configuration.ini_file import parse_ini
from configuration.properties_reader import DEFAULT_PATH, read_settings
from configuration.settings import OPTIONS, SECTIONS, Settings
from utilities.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
BLOCKS = [block.group() for block in re.finditer(r"(?m)(^    .*\n(\n(?=    ))?)+", DOC)]


def block_with(text: str) -> str:
    (block,) = [block for block in BLOCKS if text in block]
    return re.sub(r"(?m)^    ", "", block)


def test_the_documentation_has_a_line_for_each_option_that_says_what_the_schema_says() -> None:
    parts = re.split(r"(?m)^## `\[(\w+)\]`.*$", DOC)
    documented = [
        (section, *row)
        for section, text in zip(parts[1::2], parts[2::2])
        for row in re.findall(r"(?m)^\| `(\w+\.\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", text)
    ]
    assert documented == [
        (
            option.section,
            option.key,
            f"`{option.default}`" if option.default else "empty",
            option.kind.allowed,
            option.help,
        )
        for option in OPTIONS
    ]


def test_the_sample_file_has_every_option_at_its_default_with_its_help() -> None:
    lines = DEFAULT_PATH.read_text(encoding="utf-8").splitlines()
    options = [line for line in lines if "=" in line.split("#")[0]]
    assert options == [f"{option.key}={option.default} # {option.help}" for option in OPTIONS]
    assert [line for line in lines if line.startswith("[")] == [f"[{section}]" for section in SECTIONS]
    assert read_settings(DEFAULT_PATH, {}) == Settings()


def test_the_options_of_the_sample_file_stand_in_their_sections() -> None:
    entries = parse_ini(DEFAULT_PATH.read_text(encoding="utf-8")).entries
    assert [(entry.section, entry.key) for entry in entries] == [(o.section, o.key) for o in OPTIONS]


def test_the_documents_example_file_is_valid(tmp_path) -> None:
    path = tmp_path / "server.properties"
    path.write_text(block_with("sip.public_addr=192.0.2.10"))
    assert read_settings(path, {}).sip_public_addr == "192.0.2.10"


def test_the_documents_devices_file_is_valid(tmp_path) -> None:
    path = tmp_path / "devices.ini"
    path.write_text(block_with("[meter-7]"))
    rules = DeviceDirectory.read(path).rules
    assert [(rule.device_id, len(rule.key), len(rule.networks)) for rule in rules] == [
        ("meter-7", 32, 2),
        ("meter-8", 0, 0),
    ]


def test_the_documents_faults_are_what_is_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("server.properties").write_text("[SIP]\n\nsip.port=99999\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings(Path("server.properties"), {"EC_SIP_PROT": "1"})
    assert str(caught.value) == block_with("2 errors").rstrip()
