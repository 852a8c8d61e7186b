"""Decodes a packed block from docs/block-format.md alone, with none of the server's code.

Kept short on purpose: it is what somebody who finds a day file years from now has to write.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import zstandard
from pcodec import standalone


def parts(data, count):
    found, at = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    assert at == len(data)
    return found


def integers(data, count):
    if data[0] == 0:
        return [int.from_bytes(data[1:], "little", signed=True)] * count
    return standalone.simple_decompress(data[1:]).tolist()


def microseconds(data, count):
    if data[0] == 1:
        return np.cumsum(integers(data[1:], count)).tolist()
    rate, offset, runs = struct.unpack_from("<III", data, 1)
    firsts, lengths = (integers(part, runs) for part in parts(data[13:], 2))
    ticks = [first + i for first, length in zip(firsts, lengths) for i in range(length)]
    return [(tick * 1_000_000 + offset) // rate for tick in ticks]


def decimal(number, places):
    digits = f"{abs(number):0{places + 1}d}"
    point = len(digits) - places
    return "-" * (number < 0) + digits[:point] + "." * (places > 0) + digits[point:]


def values(codec, data, count):
    if codec == 0:
        return zstandard.decompress(data).decode().split(";")
    *columns, odd = parts(data, 2 if codec == 3 else 3)
    if codec in (1, 2):
        places, step = struct.unpack("<BI", columns[0])
        texts = [decimal(number * step, places) for number in integers(columns[1], count)]
        if codec == 2 and places:
            texts = [text.rstrip("0").rstrip(".") for text in texts]
    else:
        numbers = standalone.simple_decompress(columns[0][4:] if codec == 4 else columns[0])
        if codec == 4:
            bits = np.where(numbers >> 31, numbers ^ np.uint32(1 << 31), ~numbers)
            numbers = bits.astype(np.uint32).view(np.float32)[integers(columns[1], count)]
        texts = [f"{number:.9g}" for number in numbers.tolist()]
    if odd:
        places, other = parts(odd[4:], 2)
        count = int.from_bytes(odd[:4], "little")
        for place, text in zip(integers(places, count), zstandard.decompress(other).decode().split(";")):
            texts[place] = text
    return texts


def decode(block):
    """``(device, second, [(start_us, end_us, text, count, md5, inserted_us, rank, tie), ...])``."""
    assert hashlib.md5(block[:-16]).digest() == block[-16:]
    assert block[0] == 1
    device, header, *of_rows, clock, column = parts(block[1:-16], 8)
    second, rows, samples = struct.unpack("<qII", header)
    us, texts = microseconds(clock, samples), values(column[0], column[1:], samples)
    found, at = [], 0
    for count, moment, rank, tie in zip(*(integers(part, rows) for part in of_rows)):
        text = ";".join(f"{us[i]:06d},{texts[i]}" for i in range(at, at + count))
        md5 = hashlib.md5(text.encode()).hexdigest()
        found.append((us[at], us[at + count - 1], text, count, md5, moment, moment + rank, tie))
        at += count
    return device.decode(), second, sorted(found, key=lambda row: (row[6], row[0], row[1], row[7]))
