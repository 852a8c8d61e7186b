"""Builds the messages of a meter from its samples: the bodies, and the canonical text to record.

A body is ``device_id|epoch_seconds|SAMPLES||`` (docs/protocol.md). In text, SAMPLES are ``UUUUUU,VALUE``
joined by ``;``; in binary, a little-endian int32 microsecond and float32 value each, joined by ``;``. Values
are float32 in both. Text is written with ``%.9g``, which reads back as the same float32, so the canonical
text of a batch is the same in both formats.

Sample ``i`` of a second is at microsecond ``i * 1,000,000 // 44,000``. Hence a message of 44 samples contains
exactly those of one millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SAMPLES_PER_SECOND = 44_000
SAMPLES_PER_MILLISECOND = 44
MOST_SAMPLES_IN_BINARY = 300
"""The most samples that the original devices put into one message."""

Values = npt.NDArray[np.float32]
"""Up to one second of power in watts, float32, one value per sample from microsecond 0 on."""

MICROSECONDS: npt.NDArray[np.int32] = (
    np.arange(SAMPLES_PER_SECOND, dtype=np.int64) * 1_000_000 // SAMPLES_PER_SECOND
).astype(np.int32)

_RECORD = np.dtype([("microsecond", "<i4"), ("value", "<f4"), ("separator", "S1")])


def text_batches(values: Values, per_message: int = SAMPLES_PER_MILLISECOND) -> list[str]:
    """The second's canonical text split into batches; the last may be shorter; [] if there are no values."""
    numbers, templates = values.tolist(), _templates(per_message)
    whole, rest = divmod(len(numbers), per_message)
    batches = [templates[i] % tuple(numbers[i * per_message : (i + 1) * per_message]) for i in range(whole)]
    if rest:
        first = whole * per_message
        batches.append(_template(first, first + rest) % tuple(numbers[first:]))
    return batches


def binary_batches(values: Values, per_message: int = SAMPLES_PER_MILLISECOND) -> list[bytes]:
    """The same batches in the binary format of the original devices: 8 bytes per sample, joined by ``;``."""
    records = np.empty(len(values), _RECORD)
    records["microsecond"] = MICROSECONDS[: len(values)]
    records["value"] = values
    records["separator"] = b";"
    packed, stride = records.tobytes(), per_message * _RECORD.itemsize
    return [packed[i : i + stride][:-1] for i in range(0, len(packed), stride)]


def body(device_id: str, second: int, samples: bytes) -> bytes:
    """The body of one message."""
    return b"%b|%d|%b||" % (device_id.encode("ascii"), second, samples)


def bodies(
    device_id: str, second: int, values: Values, *, binary: bool, texts: Sequence[str] | None = None
) -> list[bytes]:
    """One body per millisecond of the second; ``texts`` avoids formatting the values again."""
    if binary:
        return [body(device_id, second, batch) for batch in binary_batches(values)]
    batches = text_batches(values) if texts is None else texts
    return [body(device_id, second, batch.encode("ascii")) for batch in batches]


@lru_cache(maxsize=8)
def _templates(per_message: int) -> tuple[str, ...]:
    starts = range(0, SAMPLES_PER_SECOND, per_message)
    return tuple(_template(i, min(i + per_message, SAMPLES_PER_SECOND)) for i in starts)


def _template(first: int, stop: int) -> str:
    return ";".join([f"{us:06d},%.9g" for us in MICROSECONDS[first:stop].tolist()])
