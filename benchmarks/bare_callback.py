"""A competitor: PJSUA2, tuned, with a message callback that does nothing.

python -m benchmarks.bare_callback PORT
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from typing import Any

import pjsua2 as pj

from utilities.sip_library import TRANSPORTS, endpoint_config, tune

_TIMER_J_MS = 500
_SOCKET_BUFFER_BYTES = {"udp": 512 << 10, "tcp": 4 << 20}
_POLL_MS = 50


class _Bare(pj.Account):  # type: ignore[misc]
    """Receives a message and does nothing with it."""

    def onInstantMessage(self, prm: Any) -> None:  # noqa: N802
        """The empty callback."""


def main(port: int) -> int:
    """Serve until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = endpoint_config("bare-callback")
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    endpoint.libInit(config)
    for transport in ("udp", "tcp"):
        _listen(endpoint, transport, port)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    tune(server_ms=_TIMER_J_MS)
    account, account_config = _Bare(), pj.AccountConfig()
    account_config.idUri = f"sip:server@127.0.0.1:{port}"
    account.create(account_config, True)
    print("ready", flush=True)
    while not stop.is_set():
        endpoint.libHandleEvents(_POLL_MS)
    account.shutdown()
    endpoint.libDestroy(pj.PJSUA_DESTROY_NO_NETWORK)
    return 0


def _listen(endpoint: Any, transport: str, port: int) -> None:
    config = pj.TransportConfig()
    config.boundAddress, config.port = "127.0.0.1", port
    options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES[transport])]
    if transport == "tcp":  # else answers wait for up to 40 ms until the peer acknowledges earlier ones
        options.append((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
    kept = [pj.SockOpt(*option) for option in options]  # the configuration refers to them
    for option in kept:
        config.sockOptParams.sockOpts.append(option)
    endpoint.transportCreate(TRANSPORTS[transport, False], config)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
