"""Many meters in one process: each connects to the sync server and answers until its round has ended.

``python -m benchmarks.meter_swarm PLAN`` with the plan as JSON; prints the result as JSON. All meters have
recorded the same: MINUTES minutes from ``start``, with one message of 44 samples in every tenth second. So
the answers are computed only once, and the process costs little compared with the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

from ec_server.synchronization.frames import (
    Answer,
    AskMinutes,
    AskSamples,
    AskSeconds,
    Hello,
    Minutes,
    Seconds,
    Side,
    Verified,
    samples_answer,
)
from ec_server.synchronization.session import Ended, Session
from utilities.checksum_util import minute_digest, second_digest
from utilities.model import Digest
from utilities.utc import MINUTE_S, ec_time

EVERY_S = 10
"""There is a message in each second that is a multiple of this."""


@dataclass(frozen=True, slots=True)
class SwarmPlan:
    """Which meters connect where, and what they have recorded."""

    port: int
    prefix: str
    meters: int
    start: int
    minutes: int

    def device_id(self, number: int) -> str:
        """The id of meter 0, 1, ..."""
        return f"{self.prefix}-{number:04d}"

    def seconds(self) -> range:
        """The seconds that have samples."""
        return range(self.start, self.start + self.minutes * MINUTE_S, EVERY_S)


def text_of(second: int) -> str:
    """What every meter recorded in a second of the plan."""
    first = second // EVERY_S % 1000 * 1000
    return ";".join(f"{first + 23 * i:06d},{230 + (second + i) % 97 / 10:.9g}" for i in range(44))


def digests(plan: SwarmPlan) -> tuple[dict[int, Digest], dict[int, Digest]]:
    """The digests of the seconds, and of the minutes."""
    seconds = {s: Digest(*found) for s in plan.seconds() if (found := second_digest(text_of(s)))}
    minutes = {}
    for minute in range(plan.start, plan.start + plan.minutes * MINUTE_S, MINUTE_S):
        lines = [(ec_time(s), d.count, d.md5) for s, d in seconds.items() if minute <= s < minute + MINUTE_S]
        if found := minute_digest(lines):
            minutes[minute] = Digest(*found)
    return seconds, minutes


class _Swarm:
    def __init__(self, plan: SwarmPlan) -> None:
        self._plan = plan
        self._seconds, self._minutes = digests(plan)
        self.bytes = 0
        self.verified: list[Verified] = []
        self.last_s = 0.0
        self._open: list[asyncio.StreamWriter] = []

    async def meter(self, number: int) -> None:
        """One meter, from the connection to the end of the first round."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._plan.port)
        session = Session(Side.DEVICE)
        session.send(Hello(self._plan.device_id(number), self._plan.start))
        done = False
        while not done:
            data = session.data_to_send()
            self.bytes += len(data)
            writer.write(data)
            data = await reader.read(65_536)
            self.bytes += len(data)
            session.receive_data(data) if data else session.receive_eof()
            for event in session.events_received():
                if isinstance(event, AskMinutes | AskSeconds | AskSamples):
                    session.send(self._answer(event))
                elif isinstance(event, Ended):
                    raise ConnectionError(f"{event.code}: {event.message}")
                elif isinstance(event, Verified):
                    self.verified.append(event)
                    self.last_s = time.monotonic()
                    done = True
        self._open.append(writer)

    def _answer(self, request: AskMinutes | AskSeconds | AskSamples) -> Answer:
        if isinstance(request, AskMinutes):
            span = range(request.start, request.stop, MINUTE_S)
            return Minutes(request.id, tuple((m, self._minutes[m]) for m in span if m in self._minutes))
        if isinstance(request, AskSeconds):
            listed = range(request.minute, request.minute + MINUTE_S)
            return Seconds(request.id, tuple((s, self._seconds[s]) for s in listed if s in self._seconds))
        # A second is one message, so the server has all or nothing of it, and never asks for ranges.
        text = text_of(request.second) if request.second in self._seconds else ""
        return samples_answer(request, text, packed=False)


async def _run(plan: SwarmPlan) -> dict[str, float]:
    swarm = _Swarm(plan)
    began, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(swarm.meter(number) for number in range(plan.meters)))
    through = plan.start + plan.minutes * MINUTE_S
    return {
        "verified": sum(v.through >= through and not v.unresolved for v in swarm.verified),
        "repaired": sum(v.repaired for v in swarm.verified),
        "seconds": swarm.last_s - began,
        "bytes": swarm.bytes,
        "cpu_s": time.process_time() - cpu,
    }


def command(plan: SwarmPlan) -> list[str]:
    """The arguments for the interpreter."""
    return ["-m", "benchmarks.meter_swarm", json.dumps(asdict(plan))]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(SwarmPlan(**json.loads(sys.argv[1]))))))
