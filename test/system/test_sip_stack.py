"""What the SIP stack is really like, asked in a process of its own: its sockets, its version, its layout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import free_port

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


_ANOTHER = """
import ctypes, sys
from utilities import sip_library
from utilities.sip_config import SipOptions, SipReceiver

receiver = SipReceiver(SipOptions("127.0.0.1", "127.0.0.1", int(sys.argv[1]), ("udp",)), print)
receiver.start()
print(receiver._module is not None)
{change}
print(sip_library.add_request_module(lambda *_: 200) is not None)
receiver.stop()
"""
_SHIFTED = """
class Shifted(ctypes.Structure):
    _fields_ = [
        (name, kind * 2 if name == "source" else kind) for name, kind in sip_library._Received._fields_
    ]
sip_library._Received = Shifted
"""


@pytest.mark.parametrize(
    "change", ["sip_library._KNOWN_VERSION = '2.15.2'", _SHIFTED], ids=["version", "layout"]
)
def test_another_library_than_the_one_known_is_used_without_a_module(change: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ANOTHER.format(change=change), str(free_port())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split() == ["True", "False"]
    assert "is not the one known here" in done.stderr
