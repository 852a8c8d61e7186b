"""Canonical text of many binary bodies at once, as C would print it with ``"%06d,%.9g"``; pure.

A body is certainly valid if its stride, its microseconds and its values are: each value 0, or from 1e-4 to
below 1e8, for which ``%.9g`` writes no exponent and at most eight digits before the point. About all other
bodies, nothing is decided here. packing/number_text.py does the printing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ec_server.ingest.message_body import STRIDE, US_END
from ec_server.ingest.text_group import Canonical
from ec_server.packing.number_text import (
    FLOAT_END,
    LEAST_FLOAT,
    float_digits,
    head_words,
    join_samples,
    value_words,
)

BYTES_AT_ONCE = 108 << 10
"""The best amount to print at once: with more, the arrays no longer fit into the processor's cache."""

_Numbers = npt.NDArray[np.int64]
_Values = npt.NDArray[np.float64]
_Chosen = npt.NDArray[np.bool_]

_SAMPLE = np.dtype([("us", "<i4"), ("value", "<f4"), ("end", "u1")])


def canonical_texts(bodies: Sequence[bytes]) -> list[Canonical | None]:
    """The text of each body, with its properties; None if it is not certainly valid.

    ``bodies`` are SAMPLES in complete strides, the last one without its ``;``: 9n - 1 bytes, n at least 1.
    """
    samples = np.frombuffer(b";".join(bodies) + b";", _SAMPLE)
    us, values = samples["us"].astype(np.int64), samples["value"].astype(np.float64)
    sizes = np.abs(values)
    counts = (np.fromiter(map(len, bodies), np.int64, len(bodies)) + 1) // STRIDE
    ends = np.cumsum(counts)
    firsts = ends - counts

    good = (samples["end"] == ord(";")) & (us >= 0) & (us < US_END)
    good &= (sizes < FLOAT_END) & ((sizes >= LEAST_FLOAT) | (sizes == 0))
    rises = us[1:] > us[:-1]
    rises[firsts[1:] - 1] = True
    good[1:] &= rises
    all_good = np.logical_and.reduceat(good, firsts)
    texts = iter(_printed(us, values, np.repeat(all_good, counts), counts[all_good]))
    known = zip(all_good.tolist(), counts.tolist(), us[firsts].tolist(), us[ends - 1].tolist(), strict=True)
    return [(next(texts), *figures) if is_good else None for is_good, *figures in known]


def _printed(us: _Numbers, values: _Values, chosen: _Chosen, counts: _Numbers) -> list[bytes]:
    """The texts of the chosen samples, one for each of ``counts``, the sample counts of valid bodies."""
    if not len(counts):
        return []
    if not chosen.all():  # do not print samples of other bodies: it would double their cost
        us, values = us[chosen], values[chosen]
    words = value_words(float_digits(np.abs(values)), np.signbit(values))
    joined, places = join_samples(head_words(us), words)
    text = bytes(joined)
    ends = np.cumsum(counts)
    begins, stops = places[ends - counts].tolist(), places[ends].tolist()
    return [text[begin + 1 : stop] for begin, stop in zip(begins, stops, strict=True)]
