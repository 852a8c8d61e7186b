"""What the sockets of the SIP stack are really set to: with a wrong receive buffer they work, but slowly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.measured_program import free_port

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import json, os, socket, sys
from utilities.sip_config import SipOptions, SipReceiver

port = int(sys.argv[1])
receiver = SipReceiver(SipOptions("127.0.0.1", "127.0.0.1", port, ("udp", "tcp")), print)
receiver.start()
found = []
for name in os.listdir("/proc/self/fd"):
    try:
        with socket.socket(fileno=os.dup(int(name))) as one:
            if one.family == socket.AF_INET and one.getsockname()[1] == port:
                tcp = one.type == socket.SOCK_STREAM
                found.append({
                    "tcp": tcp,
                    "receive_buffer": one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
                    "shared": one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT),
                    "no_delay": one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) if tcp else 1,
                })
    except OSError:
        pass
print(json.dumps(found))
receiver.stop()
"""


def test_each_listening_socket_has_the_options_that_it_was_asked_for():
    most = int(Path("/proc/sys/net/core/rmem_max").read_text())
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(free_port())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    sockets = json.loads(done.stdout.splitlines()[-1])
    assert {one["tcp"] for one in sockets} == {False, True}
    for one in sockets:
        assert one["receive_buffer"] >= min(most, 512 << 10)
        assert one["shared"] == 1
        assert one["no_delay"]
