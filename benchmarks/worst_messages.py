"""The cost of the most expensive messages that an attacker could send, compared with ordinary ones.

One thread checks and stores each form with the server's own code (storing.py); the SIP port before that costs
the same for any body. Processor time is measured, so other programs disturb it little.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Mapping

from benchmarks.effort import Effort
from benchmarks.outcome import Outcome, Ratio, Value, medians
from benchmarks.storing import A_COMMIT, Storing
from ec_server.account.figures import RECEIVER_FIGURES
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.sqlite_store import SqliteStore

Say = Callable[[str], None]
_Sample = Callable[[random.Random], bytes]

_MESSAGES = 2_000
_MICROSECONDS = 20
_AT_MOST = 3.0


def _single(bits: int) -> bytes:
    return struct.pack("<I", bits)


_TEXT: Mapping[str, tuple[int, _Sample]] = {
    "ordinary": (250, lambda r: b"%d.%d" % (r.randint(100, 400), r.randint(0, 9))),
    "exponents": (250, lambda r: b"%de-%d" % (r.randint(1, 9), r.randint(1, 9))),
    "tiny": (230, lambda r: b"%de-300" % r.randint(1, 9)),
    "huge": (230, lambda r: b"%de+300" % r.randint(1, 9)),
    "near the largest double": (230, lambda r: b"1.%de+308" % r.randint(0, 7)),
    "no digit before the point": (280, lambda r: b".%d" % r.randint(1, 9)),
    "long decimals": (17, lambda r: b"0.%0180d" % r.randint(1, 10**60)),
    "beyond the short way": (12, lambda r: b"%0250d" % r.randint(1, 10**60)),
}
_BINARY: Mapping[str, tuple[int, _Sample]] = {
    "ordinary": (300, lambda r: struct.pack("<f", r.uniform(100, 400))),
    "denormal": (300, lambda r: _single(r.randint(1, 1 << 22))),
    "tiny": (300, lambda r: _single(r.randint(1 << 23, 0x38000000))),
    "huge": (300, lambda r: _single(r.randint(0x4D000000, 0x7F000000))),
    "few odd values": (300, lambda r: struct.pack("<f", r.uniform(100, 400) if r.randint(0, 99) else 1e-30)),
}


def run(effort: Effort, say: Say) -> Outcome:
    """Cost of the most expensive messages, compared with ordinary ones of equal size."""
    rows: list[dict[str, Value]] = []
    ratios: dict[str, list[float]] = {}
    for number in effort.each_round():
        for kind, forms in (("text", _TEXT), ("binary", _BINARY)):
            costs = {form: _cost_ns_a_byte(effort, kind, *of_form) for form, of_form in forms.items()}
            rows += [{"form": f"{kind}, {form}", "CPU ns/byte": cost} for form, cost in costs.items()]
            for form, cost in costs.items():
                if form != "ordinary":
                    ratios.setdefault(f"{kind}, {form} / ordinary", []).append(cost / costs["ordinary"])
        dearest = max(one[-1] for one in ratios.values())
        say(f"round {number + 1} of {effort.rounds}: at most {dearest:.1f} times")
    return Outcome(
        "The dearest messages: checked and stored, one device",
        medians(rows, "form"),
        [Ratio(name, tuple(values), at_most=_AT_MOST) for name, values in ratios.items()],
        (),
        (),
        rows,
    )


def _cost_ns_a_byte(effort: Effort, kind: str, count: int, sample: _Sample) -> float:
    """Processor nanoseconds that a storing thread spends per byte of the body."""
    chance, now_s = random.Random(1), int(time.time())
    bodies = []
    for second in range(now_s - _MESSAGES, now_s):
        head = b"%06d," if kind == "text" else b""
        samples = [
            (head % (i * _MICROSECONDS) if head else struct.pack("<i", i * _MICROSECONDS)) + sample(chance)
            for i in range(count)
        ]
        bodies.append(b"worst|%d|%s||" % (second, b";".join(samples)))
    with effort.fresh_folder() as folder, SqliteStore(folder) as store:
        page = WorkerPage.create(folder / "storing.page", RECEIVER_FIGURES)
        storing = Storing(store, page, "storing")
        began_s = time.thread_time()
        for first in range(0, len(bodies), A_COMMIT):
            storing.store(bodies[first : first + A_COMMIT])
        took_s = time.thread_time() - began_s
        page.close()
    return 1e9 * took_s / sum(map(len, bodies))
