"""A SIP peer that nobody here wrote, ``sipp`` of Debian, sends MESSAGEs: all are answered and stored."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.receiver_process import Receiver

MESSAGES = 400
SCENARIO = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE scenario SYSTEM "sipp.dtd">
<scenario name="meter">
  <send retrans="500">
    <![CDATA[
      MESSAGE sip:server@[remote_ip]:[remote_port] SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
      From: <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
      To: <sip:server@[remote_ip]:[remote_port]>
      Call-ID: [call_id]
      CSeq: 1 MESSAGE
      Max-Forwards: 70
      Content-Type: text/plain
      Content-Length: [len]

      sipp-[transport]|SECOND|[field0],-[call_number].5||
    ]]>
  </send>
  <recv response="200"/>
</scenario>
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path)
    yield receiver.ready()
    receiver.clean_up()


@pytest.mark.parametrize(("transport", "mode"), [("UDP", "u1"), ("TCP", "t1")])
def test_every_message_of_a_foreign_peer_is_answered_and_stored(
    sipp: str, receiver: Receiver, tmp_path: Path, transport: str, mode: str
) -> None:
    # sipp pads no number by itself: each call has its line in a file of six digits.
    numbers = [f"{number:06d}" for number in range(MESSAGES)]
    (tmp_path / "numbers.csv").write_text("SEQUENTIAL\n" + "".join(f"{number};\n" for number in numbers))
    scenario = SCENARIO.replace("SECOND", str(int(time.time())))
    (tmp_path / "meter.xml").write_text(scenario)
    command = [sipp, f"127.0.0.1:{receiver.port}", "-i", "127.0.0.1", "-sf", "meter.xml"]
    command += ["-inf", "numbers.csv", "-t", mode, "-m", str(MESSAGES), "-r", "200", "-timeout", "30s"]
    ended = subprocess.run(
        [*command, "-timeout_error", "-nostdin"], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert receiver.stop() == 0
    stored = receiver.rows()
    assert [device for device, _ in stored] == [f"sipp-{transport}"] * MESSAGES
    assert [values[:6] for _, values in stored] == numbers
