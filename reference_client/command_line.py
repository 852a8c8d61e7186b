"""Parses the command line of the meters into plans for their processes."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from reference_client.faults import FaultPlan
from reference_client.message import SAMPLES_PER_SECOND
from reference_client.plan import WINDOWS, ProcessPlan, Recorded, SyncTarget
from reference_client.recording import Recording
from utilities.sip_client_options import MOST_ACCOUNTS, ClientOptions, ClientTls

DEVICE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SERVER = "127.0.0.1:34567"
_HELP_RECORDING = ".npy, .wav, .flac or .csv to replay; may be repeated: the next meter's"
_HELP_RATE = "samples per second of a .npy or .csv that does not say so itself (default: 44000)"
_HELP_CERTIFICATE = "client certificate; its common name is the device id"
_HELP_KEY = "key that proves the device id, the same for all devices"
_HELP_SPEED = "speed relative to real time, or max (default: 1)"
_HELP_STAY = "after that, continue to answer the synchronization until stopped"
_HELP_STORE = "folder for local stores (default: meters)"
_HELP_WINDOW = "unanswered messages per process, at most (default: 512, over UDP 64)"
_HELP_HOURS = "hours that a local store keeps (default: 6)"
_HELP_PASSWORDS = "lines DEVICE:PASSWORD, for a proxy that asks for digest authentication"
_HELP_FAULTS = (
    "faults to inject, such as drop=5%%,twice=1%%,disorder=1%%,damage=0.1%%,silent=60-120,forget=300,seed=7"
)


def plans_of(arguments: Sequence[str]) -> list[ProcessPlan]:
    """One plan per process. If something is wrong, ends the program with a message and exit code 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if bool(given.certificate) != bool(given.key):
        parser.error("--certificate and --key are needed together")
    for file in given.recording:
        try:
            Recording(file, 0, rate=given.recording_rate, scale=given.recording_scale)
        except (OSError, ValueError) as error:
            parser.error(f"--recording: {error}")
    if given.sync is None and (given.device_key or given.sync_tls):
        parser.error("--device-key and --sync-tls need --sync")
    longest = f"{given.id_prefix}-{given.devices}"
    if not DEVICE_ID.fullmatch(longest):
        parser.error(f"--id-prefix: {longest!r} is not a device id: 1 to 64 of A-Z a-z 0-9 . _ -")
    # A certificate names only one device, and a process has only one connection.
    most = 1 if given.certificate else MOST_ACCOUNTS
    devices = [(number, f"{given.id_prefix}-{number + 1}") for number in range(given.devices)]
    groups = [devices[i : i + most] for i in range(0, len(devices), most)]
    return [
        ProcessPlan(
            name=f"meters-{number}" if len(groups) > 1 else "meters",
            devices=tuple(group),
            sip=_sip(given),
            sync=_sync(given),
            store=given.store,
            keep_hours=given.keep_hours,
            binary=given.format == "binary",
            subscribe=given.subscribe,
            recorded=Recorded(tuple(given.recording), given.loop, given.recording_rate, given.recording_scale)
            if given.recording
            else None,
            faults=given.faults,
            start=given.start,
            seconds=given.seconds,
            speed=given.speed,
            window=given.window or WINDOWS[given.transport],
            stay=given.stay,
        )
        for number, group in enumerate(groups)
    ]


def _sip(given: argparse.Namespace) -> ClientOptions:
    host, port = given.server
    tls = ClientTls(given.ca, given.certificate, given.key)
    return ClientOptions(host, port, given.transport, tls, given.to, given.passwords)


def _sync(given: argparse.Namespace) -> SyncTarget | None:
    if given.sync is None:
        return None
    host, port = given.sync
    return SyncTarget(
        host, port, given.device_key, given.ca, given.certificate, given.key, over_tls=given.sync_tls
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference_client",
        description="Reference meters: they record, send, and answer the synchronization.",
    )
    for title, add_options in (
        ("messages", _add_messages),
        ("synchronization", _add_synchronization),
        ("identity and trust", _add_credentials),
        ("what is recorded", _add_recording),
    ):
        add_options(parser.add_argument_group(title))
    return parser


def _add_messages(group: argparse._ArgumentGroup) -> None:
    add, whole = group.add_argument, _checked(int, lambda n: n >= 1)
    add("--devices", type=whole, default=1, metavar="N", help="number of meters (default: 1)")
    add("--id-prefix", default="meter", help="device ids are PREFIX-1, PREFIX-2, ... (default: meter)")
    add(
        "--server", type=_address, default=_SERVER, metavar="HOST:PORT", help=f"SIP port (default: {_SERVER})"
    )
    add("--transport", choices=tuple(WINDOWS), default="tcp", help="default: tcp")
    add("--to", default="", metavar="URI", help="SIP address of record, if it is not the server itself")
    add("--subscribe", action="store_true", help="send only once the server's presence is open")
    add("--format", choices=("text", "binary"), default="text", help="form of the samples (default: text)")
    add("--window", type=_checked(int, lambda n: n >= 0), default=0, metavar="N", help=_HELP_WINDOW)
    add("--faults", type=_faults, default=FaultPlan(), metavar="LIST", help=_HELP_FAULTS)


def _add_synchronization(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--sync", type=_address, metavar="HOST:PORT", help="the server's synchronization port")
    add("--sync-tls", action="store_true", help="use TLS for the synchronization")
    add("--store", type=Path, default=Path("meters"), metavar="DIR", help=_HELP_STORE)
    add("--keep-hours", type=_checked(int, lambda n: n >= 1), default=6, metavar="N", help=_HELP_HOURS)


def _add_credentials(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--device-key", type=_device_key, default=b"", metavar="HEX", help=_HELP_KEY)
    add("--ca", type=Path, metavar="FILE", help="authority that must have signed the server's certificate")
    add("--certificate", type=Path, metavar="FILE", help=_HELP_CERTIFICATE)
    add("--key", type=Path, metavar="FILE", help="private key of the certificate")
    add("--passwords", type=_passwords, default={}, metavar="FILE", help=_HELP_PASSWORDS)


def _add_recording(group: argparse._ArgumentGroup) -> None:
    add, rate = group.add_argument, _checked(int, lambda n: n >= 1)
    add("--recording", type=Path, action="append", default=[], metavar="FILE", help=_HELP_RECORDING)
    add("--recording-rate", type=rate, default=SAMPLES_PER_SECOND, metavar="HZ", help=_HELP_RATE)
    add("--recording-scale", type=_scale, default=1.0, metavar="X", help="watts per unit of the file")
    add("--loop", action="store_true", help="repeat the recording")
    add("--speed", type=_speed, default=1.0, metavar="X|max", help=_HELP_SPEED)
    add("--start", type=_start, metavar="EPOCH|now", help="second of the first sample (default: now)")
    add("--seconds", type=_checked(int, lambda n: n >= 0), metavar="S", help="record for S seconds, then end")
    add("--stay", action="store_true", help=_HELP_STAY)


def _checked(kind: Callable[[str], int], holds: Callable[[int], bool]) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text} is too small")
        return value

    return number


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _device_key(text: str) -> bytes:
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise argparse.ArgumentTypeError(f"a key has exactly 64 hex digits, not {len(text)} characters")
    return bytes.fromhex(text)


def _passwords(text: str) -> dict[str, str]:
    try:
        lines = [line for line in Path(text).read_text().splitlines() if line]
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    pairs = [line.partition(":") for line in lines]
    for number, (device, _, password) in enumerate(pairs, 1):
        if not DEVICE_ID.fullmatch(device) or not password:
            raise argparse.ArgumentTypeError(f"{text}, line {number}: DEVICE:PASSWORD is expected")
    return {device: password for device, _, password in pairs}


def _speed(text: str) -> float:
    try:
        speed = math.inf if text == "max" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor max") from error
    if not speed > 0:
        raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
    return speed


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if not math.isfinite(scale):
        raise argparse.ArgumentTypeError(f"{text!r} is not finite")
    return scale


def _start(text: str) -> int | None:
    if text != "now" and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise argparse.ArgumentTypeError(f"{text!r} is neither an epoch second nor now")
    return None if text == "now" else int(text)


def _faults(text: str) -> FaultPlan:
    try:
        return FaultPlan.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
