"""What a meter composes is what the contract says, by code that shares nothing with the composer."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from reference_client import message
from reference_client.waveform import Waveform

NOON = 1_772_366_400


def test_microseconds_ascend_strictly_and_44_lie_in_each_millisecond():
    microseconds = message.MICROSECONDS.tolist()
    assert microseconds == [i * 1_000_000 // 44_000 for i in range(44_000)]
    assert microseconds == sorted(set(microseconds))
    assert (microseconds[0], microseconds[-1]) == (0, 999_977)
    for millisecond in range(1000):
        slot = microseconds[millisecond * 44 : millisecond * 44 + 44]
        assert all(us // 1000 == millisecond for us in slot)


def test_text_reads_back_as_the_same_float32():
    values = np.random.default_rng(1).normal(scale=1e3, size=44_000).astype(np.float32)
    samples = ";".join(message.text_batches(values)).split(";")
    assert [int(s[:6]) for s in samples] == message.MICROSECONDS.tolist()
    assert np.array_equal(np.array([s[7:] for s in samples], np.float32), values)
    assert samples[3] == f"000068,{values[3]:.9g}"


def test_binary_batches_are_the_same_samples_as_the_text():
    values = Waveform(1).second(NOON)
    for per_message in (44, 300):
        texts = message.text_batches(values, per_message)
        packed = message.binary_batches(values, per_message)
        assert len(texts) == len(packed) == -(-44_000 // per_message)
        for text, batch in zip(texts, packed):
            fields = [batch[i : i + 8] for i in range(0, len(batch), 9)]
            assert all(batch[i] == ord(";") for i in range(8, len(batch), 9))
            assert ";".join("{:06d},{:.9g}".format(*struct.unpack("<if", f)) for f in fields) == text


@pytest.mark.parametrize("count", [0, 1, 43, 44, 45, 88])
def test_a_second_that_ends_early_has_a_shorter_last_batch(count: int):
    values = np.arange(count, dtype=np.float32)
    texts = message.text_batches(values)
    assert sum(len(text.split(";")) for text in texts) == count
    assert len(message.binary_batches(values)) == len(texts) == -(-count // 44)


def test_bodies_carry_device_second_samples_and_end_mark():
    values = np.arange(50, dtype=np.float32)
    first, second = message.bodies("meter-1", NOON, values, binary=False)
    assert first.startswith(b"meter-1|1772366400|000000,0;000022,1;")
    assert second == b"meter-1|1772366400|001000,44;001022,45;001045,46;001068,47;001090,48;001113,49||"
    (packed,) = message.bodies("meter-1", NOON, values[:2], binary=True)
    samples = struct.pack("<if", 0, 0) + b";" + struct.pack("<if", 22, 1)
    assert packed == b"meter-1|1772366400|" + samples + b"||"
