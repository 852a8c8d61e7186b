"""docs/protocol-messages.md says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from configuration.settings import OPTIONS
from ec_server.ingest.message_body import Limits, parse
from utilities.model import Batch, RejectReason
from utilities.sip_request import MESSAGE_LIMIT_BYTES as PACKET_LIMIT_BYTES

TEXT = (Path(__file__).parents[2] / "docs" / "protocol-messages.md").read_text("utf-8")
DEFAULTS = {option.key: option.default for option in OPTIONS}


def test_every_reason_is_explained_once() -> None:
    explained = re.findall(r"^\| `([a-z_]+)` \| ", TEXT.partition("## What is rejected")[2], re.MULTILINE)
    assert sorted(explained) == sorted(reason.value for reason in RejectReason)


def test_the_example_of_a_text_body_is_one() -> None:
    (body,) = re.findall(r"^    (meter-7\|.*)$", TEXT, re.MULTILINE)
    found = parse(body.encode(), Limits(), 1_772_366_400)
    assert isinstance(found, Batch)
    assert (found.count, found.start_us, found.end_us) == (3, 0, 45)


def test_the_example_of_a_binary_sample_is_one() -> None:
    (printed,) = re.findall(r"^    ((?:[0-9a-f]{2} ?){8})$", TEXT, re.MULTILINE)
    found = parse(b"m|1772366400|" + bytes.fromhex(printed) + b"||", Limits(), 1_772_366_400)
    assert isinstance(found, Batch)
    assert f"stored as `{found.values}`" in TEXT


def test_the_limits_it_names_are_the_defaults() -> None:
    for key, said in re.findall(r"`((?:ingest|storage)\.[a-z_]+)`(?:,)? \(?([0-9,]+)", TEXT):
        assert said.replace(",", "") == DEFAULTS[key], key
    assert f"at most {PACKET_LIMIT_BYTES:,} bytes" in TEXT
    assert {field.name for field in fields(Limits)} == {"max_ahead_s", "max_back_s", "max_samples"}


def test_every_option_it_names_is_one() -> None:
    named = set(re.findall(r"`((?:sip|ingest|storage|devices)\.[a-z_]+)`", TEXT))
    assert named <= set(DEFAULTS)
    assert {key for key in DEFAULTS if key.startswith("sip.")} - {"sip.bind"} <= named | {"sip.bind"}
