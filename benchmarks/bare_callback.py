"""The peer: PJSUA2 as the server tunes it, with a callback for messages that does nothing.

python -m benchmarks.bare_callback PORT
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from utilities.sip_config import SipOptions, SipReceiver


class _Bare(SipReceiver):
    """Takes a message and does nothing with it."""

    def receive(self, prm: Any) -> None:
        """The empty callback."""


def main(port: int) -> int:
    """Serve until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    options = SipOptions("127.0.0.1", "127.0.0.1", port, ("udp", "tcp"))
    receiver = _Bare(options, lambda _message: None, takes_requests=False)
    receiver.start()
    print("ready", flush=True)
    receiver.run(stop.is_set, lambda: None)
    receiver.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
