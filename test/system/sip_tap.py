"""A program: one SIP receiver as JSON options say; prints ``ready``, then each message as a JSON line.

``python sip_tap.py OPTIONS``, OPTIONS being the fields of SipOptions as JSON, and optionally ``devices``: a
list, the only devices that may send; ``network``: a prefix, the only addresses that they may send from;
``files``: how many files it may have open.
SIGTERM ends it. A body that starts with ``WAIT`` blocks the callback until a line comes on standard input;
one that starts with ``RAISE`` raises in it, and one with ``SHUT`` is not taken.
"""

from __future__ import annotations

import base64
import json
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ec_server.ingest.message_body import Limits
from ec_server.ingest.message_limits import valid_within
from utilities import log
from utilities.model import RawMessage
from utilities.sip_config import Senders, SipOptions, SipReceiver
from utilities.sip_registration import Registration
from utilities.sip_tls import TlsFiles


def options(given: dict[str, Any]) -> SipOptions:
    tls, registration = given.pop("tls", None), given.pop("registration", None)
    return SipOptions(
        **given,
        tls=TlsFiles(*[Path(name) if name else None for name in tls]) if tls else None,
        registration=Registration(*registration) if registration else None,
    )


def senders(devices: list[str] | None, network: str) -> Senders:
    return Senders(
        lambda device_id, ip: (devices is None or device_id in devices) and ip.startswith(network),
        lambda ip: ip.startswith(network),
        valid_within(Limits()),
    )


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


class Tap:
    def __init__(self) -> None:
        self.counted = 0

    def take(self, message: RawMessage) -> bool:
        self.counted += 1
        if message.body.startswith(b"RAISE"):
            raise RuntimeError("on purpose")
        say(
            {
                "body": base64.b64encode(message.body).decode(),
                "sender": message.sender,
                "peer_name": message.peer_name,
                "cut": message.cut,
                "received_us": message.received_us,
                "counted": self.counted,
            }
        )
        if message.body.startswith(b"WAIT"):
            sys.stdin.readline()
        return not message.body.startswith(b"SHUT")


def main() -> None:
    log.set_up("tap", logging.DEBUG)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    tap = Tap()
    given = json.loads(sys.argv[1])
    if files := given.pop("files", 0):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    allowed = senders(given.pop("devices", None), given.pop("network", ""))
    receiver = SipReceiver(options(given), tap.take, allowed)
    receiver.start()
    say({"ready": True})
    receiver.run(lambda: bool(stopped), lambda: None)
    receiver.stop()
    figures = receiver.figures
    say({"stopped": True, "evicted": figures.evicted, "refused": figures.refused, "dropped": figures.dropped})


if __name__ == "__main__":
    main()
