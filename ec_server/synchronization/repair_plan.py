"""What to request and what to write so that a second holds the device's samples; pure.

Rules:

1. A repair only adds. Its batches hold only samples that are missing or have another value. As a later
   insertion wins for each microsecond, it overrides wrong values. Right values are not written again, and
   samples that the device lacks stay.
2. A batch never spans a stored sample that is right, so rows of a repair do not overlap correct rows.
3. Ranges lie exactly between neighbouring stored samples (half-open, excluding both). So everything that is
   sent for a range is missing here, and nothing is transferred needlessly.

Text is canonical: ``UUUUUU,VALUE`` joined by ``;``, ascending. As microseconds have six digits, the
alphabetical order of samples is that of time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import sub
from statistics import median_low

from ec_server.ingest.message_body import canonical_fault
from ec_server.storage.merge import batch_of
from ec_server.synchronization.frames import MAX_RANGES, SECOND_US, Samples
from utilities.checksum_util import second_digest
from utilities.errors import RemoteProtocolError
from utilities.model import Batch, Digest
from utilities.utc import second_text

MAX_BATCH = 300
"""The most samples in a batch of a repair: as many as the largest message carries."""
MAX_RANGE_REQUESTS = 8
"""A second with more gaps than these requests can name is requested whole."""
_GAP_STEPS = 1.5
"""A distance of more than this many typical steps is a gap."""

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a second or minute cannot be repaired: the device contradicts itself, or a limit is exceeded.

    This is a normal result: it leaves its minute unresolved, and affects nothing else.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class SecondRepair:
    """The repair of one second: the batches to write, and the expected result."""

    batches: tuple[Batch, ...]
    expected: Digest
    """The second's digest after they are written."""
    conflicts: int
    """Number of stored values that the device's values replace."""
    extra: int
    """Number of stored samples that the device lacks."""

    @property
    def samples(self) -> int:
        """Number of samples to write."""
        return sum(batch.count for batch in self.batches)


def range_requests(stored: str, wanted: int) -> tuple[Ranges, ...]:
    """The ranges in which a second's missing samples can be, grouped into requests.

    ``stored`` is the stored text, ``wanted`` the device's count. Empty if ranges do not help: nothing is
    stored, the device does not have more, there are too many gaps, or a damaged row is among the stored ones,
    so that their text is not canonical.
    """
    if not stored or wanted <= stored.count(";") + 1 or canonical_fault(stored) is not None:
        return ()
    gaps = _gaps(list(map(int, stored.replace(";", ",").split(",")[::2])))
    if len(gaps) > MAX_RANGES * MAX_RANGE_REQUESTS:
        return ()
    return tuple(tuple(gaps[at : at + MAX_RANGES]) for at in range(0, len(gaps), MAX_RANGES))


def _gaps(stored: Sequence[int]) -> list[tuple[int, int]]:
    """Where samples can be missing: in wide steps, before the first sample, and after the last.

    If one request can name every step, all are named.
    """
    steps = list(map(sub, stored[1:], stored))
    widest = _GAP_STEPS * median_low(steps) if len(stored) >= MAX_RANGES else 1.0
    gaps = [(stored[i] + 1, stored[i + 1]) for i, step in enumerate(steps) if step > widest]
    borders = [(0, stored[0])], [(stored[-1] + 1, SECOND_US)]
    return [(a, b) for a, b in [*borders[0], *gaps, *borders[1]] if a < b]


def checked_text(answer: Samples, ranges: Ranges | None, most: int) -> str | Fault:
    """The answer's canonical text, decompressed; "" if it has none.

    A Fault if it does not match its count and MD5, is not canonical, or has samples outside the requested
    ranges or more than ``most``. Raises RemoteProtocolError if it is too long when decompressed.
    """
    where = f"samples of {second_text(answer.second)}"
    if answer.count > most:
        return Fault("too_many_samples", f"{where}: {answer.count}; sync.max_second_samples is {most}")
    try:
        text = answer.text()
    except RemoteProtocolError as error:
        if error.code == "payload_too_long":
            raise
        return Fault(error.code, str(error))
    if not text:
        return ""
    fault = canonical_fault(text)
    if fault is None and ranges is not None and not _within([int(s[:6]) for s in text.split(";")], ranges):
        fault = "samples outside of the ranges that were asked for"
    return text if fault is None else Fault("bad_samples", f"{where}: {fault}")


def _within(microseconds: Iterable[int], ranges: Ranges) -> bool:
    """Whether all of the ascending microseconds lie in the ascending ranges; one pass over both."""
    remaining = iter(ranges)
    start, stop = next(remaining)
    for microsecond in microseconds:
        while microsecond >= stop:
            following = next(remaining, None)
            if following is None:
                return False
            start, stop = following
        if microsecond < start:
            return False
    return True


def from_ranges(
    device_id: str, second: int, stored: str, fetched: Sequence[str], wanted: Digest
) -> SecondRepair | None:
    """The repair from the samples of all ranges; None if the result would not have the digest ``wanted``."""
    arrived = [sample for text in fetched if text for sample in text.split(";")]
    merged = sorted(stored.split(";") + arrived)
    if digest_of(";".join(merged)) != wanted:
        return None
    batches = _batches(device_id, second, arrived, [sample[:6] for sample in stored.split(";")])
    return SecondRepair(tuple(batches), wanted, conflicts=0, extra=0)


def from_whole(device_id: str, second: int, stored: str, theirs: str) -> SecondRepair:
    """The repair from the device's whole second; ``theirs`` is not empty."""
    if not stored:
        batches = _batches(device_id, second, theirs.split(";"), [])
        return SecondRepair(tuple(batches), digest_of(theirs), conflicts=0, extra=0)
    mine, device = stored.split(";"), theirs.split(";")
    known = set(mine)
    to_write = [sample for sample in device if sample not in known]
    replaced = {sample[:6] for sample in to_write}
    kept = [sample for sample in mine if sample[:6] not in replaced]
    merged = sorted(kept + to_write)
    batches = _batches(device_id, second, to_write, [sample[:6] for sample in kept])
    return SecondRepair(
        tuple(batches),
        digest_of(";".join(merged)),
        conflicts=len(mine) - len(kept),
        extra=len(merged) - len(device),
    )


def digest_of(text: str) -> Digest:
    """The second digest of canonical text that is not empty."""
    digest = second_digest(text)
    assert digest is not None, "a second without samples has no digest"
    return Digest(*digest)


def _batches(device_id: str, second: int, samples: Sequence[str], kept: Sequence[str]) -> Iterator[Batch]:
    """``samples`` as batches of at most MAX_BATCH that span no microsecond of ``kept``."""
    run: list[str] = []
    run_place = -1
    for sample in samples:
        place = bisect_right(kept, sample[:6]) if kept else 0
        if run and (place != run_place or len(run) == MAX_BATCH):
            yield batch_of(device_id, second, ";".join(run))
            run = []
        run.append(sample)
        run_place = place
    if run:
        yield batch_of(device_id, second, ";".join(run))
