"""Says why the body of a message is rejected, for developers of devices: SIP answers 200 in any case.

    python -m reference_client.validate FILE
    printf 'meter-1|1772366400|000000,231.5||' | python -m reference_client.validate

It applies the server's own rules (docs/protocol-messages.md), with the limits of its configuration. Exit code
0 if every body is accepted, 1 if one is not, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configuration.devices import DeviceDirectory
from configuration.properties_reader import read_settings
from configuration.settings import Settings
from ec_server.ingest.admission import Admission
from ec_server.ingest.message_group import GroupParser
from ec_server.ingest.message_limits import limits_of
from utilities import utc
from utilities.addresses import host_port
from utilities.command_line import run, say
from utilities.errors import ConfigurationError
from utilities.model import Batch, RawMessage, Rejection, RejectReason

LONGEST_SIP_MESSAGE = 4_000
"""The longest SIP message, including headers, that the server accepts."""
_TOO_LONG = (
    f"the server takes SIP messages of at most {LONGEST_SIP_MESSAGE} bytes, headers included; a longer one "
    "arrives cut over UDP, and ends the connection over TCP and TLS"
)
_USUAL_HEADERS = 400


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the server would do with one body."""

    source: str
    outcome: Batch | Rejection
    bytes: int
    warnings: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether it would be stored."""
        return isinstance(self.outcome, Batch)

    def as_object(self) -> dict[str, object]:
        """The result for programs."""
        shared: dict[str, object] = {"source": self.source, "accepted": self.accepted, "bytes": self.bytes}
        if isinstance(self.outcome, Rejection):
            said = {"reason": self.outcome.reason.value, "detail": self.outcome.detail}
        else:
            said = {"device_id": self.outcome.device_id, "second": utc.second_text(self.outcome.second)}
            shared |= {"samples": self.outcome.count, "values_checksum": self.outcome.checksum}
        return shared | said | {"warnings": list(self.warnings)}

    def as_text(self) -> str:
        """The result for people: one line, and one more for each warning."""
        if isinstance(self.outcome, Rejection):
            said = f"rejected, {self.outcome.reason.value}: {self.outcome.detail}"
        else:
            batch = self.outcome
            said = (
                f"accepted: {batch.device_id}, {batch.count} samples of second "
                f"{utc.second_text(batch.second)}, microseconds {batch.start_us} to "
                f"{batch.end_us}, MD5 {batch.checksum}"
            )
        return "\n".join([f"{self.source}: {said}", *(f"  warning: {text}" for text in self.warnings)])


def judge(source: str, body: bytes, settings: Settings, sender: str, now_s: int) -> Judgement:
    """What a server with these settings would do with a body from the address ``sender`` (empty: any)."""
    directory = DeviceDirectory.read(settings.devices_file)
    admits = Admission(directory if sender else _Anywhere(directory))
    message = RawMessage(body, host_port(sender, 0), now_s * 1_000_000)
    (outcome,) = GroupParser(limits_of(settings), admits).parse([message], now_s)
    size = len(body.rstrip(b" \r\n"))  # what is cut off behind that is ignored
    if isinstance(outcome, Batch) and size >= LONGEST_SIP_MESSAGE:
        outcome = Rejection(RejectReason.TRUNCATED, f"{size} bytes: {_TOO_LONG}", outcome.device_id)
    return Judgement(source, outcome, len(body), tuple(_warnings(body)))


class _Anywhere:
    """The devices file without its networks, where it is not known whence the message comes."""

    def __init__(self, directory: DeviceDirectory) -> None:
        self._directory = directory
        self.open_to_all = directory.open_to_all

    def admits(self, device_id: str, _ip: str) -> RejectReason | None:
        """None where the device is in the file."""
        return None if self._directory.rule(device_id) else RejectReason.UNKNOWN_DEVICE


def _warnings(body: bytes) -> list[str]:
    found = []
    if LONGEST_SIP_MESSAGE - _USUAL_HEADERS < len(body) < LONGEST_SIP_MESSAGE:
        found.append(
            f"{len(body)} bytes: with its headers the SIP message may be longer than the "
            f"{LONGEST_SIP_MESSAGE} bytes that the server takes; over UDP it arrives cut"
        )
    if body.endswith((b"||\n", b"||\r\n")):
        found.append("ends in a line break, which is ignored")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge each body; returns the exit code."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        settings = read_settings(asked.config, os.environ)
        bodies = [(str(file), file.read_bytes()) for file in asked.files]
    except (ConfigurationError, OSError) as error:
        parser.error(str(error))
    bodies = bodies or [("standard input", sys.stdin.buffer.read())]
    now_s = int(time.time()) if asked.now is None else asked.now
    judgements = [judge(source, body, settings, asked.sender, now_s) for source, body in bodies]
    for judgement in judgements:
        say(json.dumps(judgement.as_object()) if asked.json else judgement.as_text())
    return 0 if all(judgement.accepted for judgement in judgements) else 1


def _address(text: str) -> str:
    """An address in its usual form; empty where it is not to be checked."""
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 or IPv6 address") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference_client.validate",
        description="Say whether the server would store a message with this body, and if not, why.",
        epilog="Exit codes: 0 accepted, 1 rejected, 2 wrong arguments.",
    )
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="file with the exact bytes of a body; default: standard input",
    )
    add(
        "-c", dest="config", type=Path, metavar="FILE", help="the server's configuration file, for its limits"
    )
    add(
        "--sender",
        type=_address,
        default="",
        metavar="IP",
        help="the device's address, for the networks of devices.file",
    )
    add("--now", type=int, metavar="EPOCH", help="the server's clock (default: now)")
    add("--json", action="store_true", help="one JSON object per body, for programs")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
