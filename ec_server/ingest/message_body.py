"""Parses the body of a message into a batch, or a reason for its rejection; pure. See docs/protocol.md.

    device_id|epoch_seconds|SAMPLES||

1. Accepted samples become canonical text: for a text body the SAMPLES exactly as sent, for a binary body each
   sample printed by C with ``"%06d,%.9g"``, joined by ``;``.
2. For any bytes, ``parse`` returns; it never raises. The first violated rule, in the order of ``parse``,
   gives the reason.
3. This is the hot path. A few calls that each process the whole text decide whether it is valid; only if it
   is not, the wrong sample is searched for.

No mark is needed to distinguish text from binary: SAMPLES of only ``0-9 + - . e E , ;`` is text. A truncated
body is never mistaken for a shorter binary one: at the place of the end mark it would have ``;``.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import lt

from utilities import utc
from utilities.model import Batch, Rejection, RejectReason

_END_MARK = b"||"
_IGNORED_AT_END = b" \r\n"
_TEXT_BYTES = b"0123456789+-.eE,;"
STRIDE = 9
"""Bytes of a binary sample, including the ``;`` after it."""
_DEVICE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Twenty digits can hold every 64-bit second; more cannot be a time, and int() has a limit, too.
_TIME = re.compile(rb"[0-9]{1,20}")
# No group is repeated possessively: CPython before 3.11.5 then accepts what the group does not match.
# Values that cannot overflow a double; all others are decided one sample at a time. The first pattern matches
# what devices send, at half the cost of the second.
_PLAIN_TEXT = re.compile(r"(?:;[0-9]{6},[+-]?[0-9]{1,200}+\.?[0-9]{0,100}+)+")
_SURELY_FINITE = r"[+-]?(?:[0-9]{1,200}+(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]{1,2}+)?"
_TEXT = re.compile(rf"(?:;[0-9]{{6}},{_SURELY_FINITE})+")
_VALUE = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_WELL_FORMED = re.compile(
    r"(?:;[0-9]{6},[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?(?=;|\Z))*"
)
_MICROSECOND = re.compile(r"[0-9]{6}")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]++")
_INTENDED_AS_TEXT = re.compile(rb"[0-9]{6},[ -~]*+")
_NOT_FINITE_NAMES = frozenset(("nan", "inf", "infinity"))
_SHOWN = 40

US_END = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Configurable limits: how far a message's second may be from now, and its number of samples."""

    max_ahead_s: int = 86_400
    max_back_s: int = 400 * 86_400
    max_samples: int = 1000


class _RefusedError(Exception):
    """A violated rule; caught by ``parse``."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def parse(body: bytes, limits: Limits, now_s: int, *, cut: bool = False) -> Batch | Rejection:
    """The batch in a message's body, or why it is rejected.

    ``now_s`` is the receiver's clock. ``cut`` means that the SIP message was shorter than its
    Content-Length; a cut body that still ends with the end mark has lost only bytes that are ignored.
    Never raises. ``Rejection.device_id`` is set only if the body names a well-formed one.
    """
    device_id = ""
    try:
        content = body.rstrip(_IGNORED_AT_END)
        if not content.endswith(_END_MARK):
            raise _no_end_mark(content, cut)
        device_id, second, samples = _fields(content, limits, now_s)
        text_body = not samples.translate(None, _TEXT_BYTES)
        values, start_us, end_us, count = (_from_text if text_body else _from_binary)(
            samples, limits.max_samples
        )
    except _RefusedError as refused:
        return Rejection(refused.reason, refused.detail, device_id or device_id_of(body))
    checksum = hashlib.md5(values.encode("ascii"), usedforsecurity=False).hexdigest()
    return Batch(device_id, second, start_us, end_us, values, count, checksum)


def canonical_fault(text: str) -> str | None:
    """Why ``text`` is not the canonical text of one or more samples of a second; None if it is."""
    if not text.isascii():
        return "not ASCII"
    try:
        _from_text(text.encode("ascii"), US_END)
    except _RefusedError as refused:
        return refused.detail
    return None


def _no_end_mark(content: bytes, cut: bool) -> _RefusedError:
    if cut:
        return _RefusedError(
            RejectReason.TRUNCATED, f"cut on the way after {len(content)} bytes, before the end mark"
        )
    return _RefusedError(
        RejectReason.NO_END_MARK, f"ends in {_show(content[-8:])} instead of the end mark ||"
    )


def _fields(content: bytes, limits: Limits, now_s: int) -> tuple[str, int, bytes]:
    fields = content[: -len(_END_MARK)].split(b"|", 2)
    if len(fields) != 3:
        raise _RefusedError(
            RejectReason.MALFORMED,
            f"{len(fields)} fields before the end mark instead of device|second|samples",
        )
    device_id, time_text, samples = fields
    if not _DEVICE_ID.fullmatch(device_id):
        raise _RefusedError(RejectReason.BAD_DEVICE_ID, f"device id {_show(device_id)}")
    if not _TIME.fullmatch(time_text):
        raise _RefusedError(RejectReason.BAD_TIME, f"second {_show(time_text)} is not decimal digits")
    second = int(time_text)
    if second > now_s + limits.max_ahead_s or not utc.is_expressible(second):
        raise _RefusedError(
            RejectReason.TIME_TOO_FAR_AHEAD,
            f"second {second} is {second - now_s} s ahead of the server's clock",
        )
    if second < now_s - limits.max_back_s:
        raise _RefusedError(
            RejectReason.TIME_TOO_FAR_BACK, f"second {second} is {now_s - second} s behind the server's clock"
        )
    if not samples:
        raise _RefusedError(RejectReason.EMPTY, "no samples")
    return device_id.decode("ascii"), second, samples


def device_id_of(body: bytes) -> str:
    """The device id in a body, whatever else is in it; "" if there is none."""
    device_id, bar, _ = body.partition(b"|")
    return device_id.decode("ascii") if bar and _DEVICE_ID.fullmatch(device_id) else ""


# --- text -------------------------------------------------------------------------------------


def _from_text(samples: bytes, max_samples: int) -> tuple[str, int, int, int]:
    """(canonical text, start_us, end_us, count) of SAMPLES that consist of bytes allowed in text."""
    count = samples.count(b";") + 1
    if count > max_samples:
        raise _too_many(count, max_samples)
    text = samples.decode("ascii")
    marked = ";" + text
    if not _PLAIN_TEXT.fullmatch(marked) and not _TEXT.fullmatch(marked):
        _check_each(text)
    microseconds = text.replace(";", ",").split(",")[::2]
    if sorted(microseconds) != microseconds or len(set(microseconds)) != count:
        raise _not_ascending([int(microsecond) for microsecond in microseconds])
    return text, int(microseconds[0]), int(microseconds[-1]), count


def _check_each(text: str) -> None:
    """Raise _RefusedError for the first wrong sample; returns if all are valid."""
    match = _WELL_FORMED.match(";" + text)
    well_formed = match.group() if match else ""
    samples, first = text.split(";"), well_formed.count(";")
    values = well_formed.replace(";", ",").split(",")[2::2]
    if not all(map(math.isfinite, map(float, values))):
        first = next(place for place, value in enumerate(values) if not math.isfinite(float(value)))
    for number, sample in enumerate(samples[first:], first + 1):
        microsecond, comma, value = sample.partition(",")
        where = f"sample {number}, {_show(sample.encode())}"
        if not comma or "," in value:
            raise _RefusedError(RejectReason.BAD_SAMPLE, f"{where}, is not UUUUUU,VALUE")
        if not _MICROSECOND.fullmatch(microsecond):
            beyond = _WHOLE_NUMBER.fullmatch(microsecond) and not 0 <= float(microsecond) < US_END
            raise _RefusedError(
                RejectReason.MICROSECOND_OUT_OF_RANGE if beyond else RejectReason.BAD_SAMPLE,
                f"{where}: the microsecond is not six digits",
            )
        if value.lower().lstrip("+-") in _NOT_FINITE_NAMES:
            raise _RefusedError(RejectReason.NOT_FINITE, f"{where}: the value is not finite")
        if not _VALUE.fullmatch(value):
            raise _RefusedError(RejectReason.NOT_A_NUMBER, f"{where}: the value is not a number")
        if not math.isfinite(float(value)):
            raise _RefusedError(
                RejectReason.NOT_FINITE, f"{where}: the value is out of the range of a double"
            )


# --- binary -----------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _layout(count: int) -> tuple[struct.Struct, str]:
    """The formats to unpack ``count`` binary samples, and to print them as canonical text."""
    return struct.Struct("<if" + "xif" * (count - 1)), ";".join(["%06d,%.9g"] * count)


def _from_binary(samples: bytes, max_samples: int) -> tuple[str, int, int, int]:
    """(canonical text, start_us, end_us, count) of SAMPLES in the original devices' binary format."""
    count, odd = divmod(len(samples) + 1, STRIDE)
    if odd or samples[STRIDE - 1 :: STRIDE] != b";" * (count - 1):
        raise _fault_of_a_text(samples) or _neither_text_nor_binary(samples)
    if count > max_samples:
        raise _too_many(count, max_samples)
    unpack, form = _layout(count)
    numbers = unpack.unpack(samples)
    microseconds = numbers[::2]
    if not (
        microseconds[0] >= 0 and microseconds[-1] < US_END and all(map(lt, microseconds, microseconds[1:]))
    ):
        raise _fault_of_a_text(samples) or _out_of_range(microseconds) or _not_ascending(microseconds)
    # A sum of single-precision values cannot overflow a double; NaN and infinity propagate to it.
    if not math.isfinite(sum(numbers[1::2])):
        raise _not_finite(numbers[1::2])
    return form % numbers, microseconds[0], microseconds[-1], count


def _fault_of_a_text(samples: bytes) -> _RefusedError | None:
    """What is wrong with SAMPLES that were meant as text, but have bytes that are not allowed in text."""
    if _INTENDED_AS_TEXT.fullmatch(samples):
        try:
            _check_each(samples.decode("ascii"))
        except _RefusedError as refused:
            return refused
    return None


def _neither_text_nor_binary(samples: bytes) -> _RefusedError:
    return _RefusedError(
        RejectReason.BAD_SAMPLE,
        f"{len(samples)} bytes are neither text nor binary samples of nine bytes: {_show(samples)}",
    )


def _out_of_range(microseconds: Sequence[int]) -> _RefusedError | None:
    for number, microsecond in enumerate(microseconds, 1):
        if not 0 <= microsecond < US_END:
            return _RefusedError(
                RejectReason.MICROSECOND_OUT_OF_RANGE, f"sample {number} is at microsecond {microsecond}"
            )
    return None


def _not_finite(values: Sequence[float]) -> _RefusedError:
    number = next(number for number, value in enumerate(values, 1) if not math.isfinite(value))
    return _RefusedError(RejectReason.NOT_FINITE, f"sample {number} has the value {values[number - 1]}")


# --- both -------------------------------------------------------------------------------------


def _not_ascending(microseconds: Sequence[int]) -> _RefusedError:
    number = next(i for i in range(1, len(microseconds)) if microseconds[i] <= microseconds[i - 1])
    return _RefusedError(
        RejectReason.MICROSECOND_NOT_ASCENDING,
        f"sample {number + 1} is at microsecond {microseconds[number]}, after {microseconds[number - 1]}",
    )


def _too_many(count: int, max_samples: int) -> _RefusedError:
    return _RefusedError(RejectReason.TOO_MANY_SAMPLES, f"{count} samples, {max_samples} are allowed")


def _show(raw: bytes) -> str:
    """Bytes as short printable text, for the log."""
    return repr(raw[:_SHOWN])[1:] + ("..." if len(raw) > _SHOWN else "")
