"""The formats of exported samples, as encoders that turn seconds into bytes, without I/O.

| format | content |
|---|---|
| csv | header ``time,value``; ISO-8601 UTC with microseconds and ``Z``; the value's canonical text |
| parquet | ``time`` timestamp[us, UTC], ``value`` double; zstd |
| npy | structured ``time`` int64 (epoch microseconds), ``value`` float64 |

An encoder returns what is to be written next, often nothing yet; memory is bounded by the row group's size.
"""

from __future__ import annotations

import io
from typing import Any, Protocol

import numpy as np

from ec_server.export.coverage import SECOND_US
from ec_server.export.stored_seconds import Microseconds, Values, arrays_of
from utilities import extras, utc
from utilities.errors import ConfigurationError

NPY_DTYPE = np.dtype([("time", "<i8"), ("value", "<f8")])
_NPY_HEADER_BYTES = 128
_ROW_GROUP_SAMPLES = 1 << 20


class Encoder(Protocol):
    """Turns seconds, ascending, into the bytes of a file."""

    media_type: str

    def begin(self) -> bytes:
        """The bytes before the first sample."""
        ...

    def add(self, second: int, text: str) -> bytes:
        """Add the canonical text of a second; returns what can be written now."""
        ...

    def finish(self) -> bytes:
        """The remaining bytes."""
        ...


class CsvEncoder:
    """Text to text: values are not parsed."""

    media_type = "text/csv; charset=utf-8; header=present"

    def begin(self) -> bytes:
        """The header line."""
        return b"time,value\n"

    def add(self, second: int, text: str) -> bytes:
        """One line per sample."""
        moment = f"{utc.iso(second * SECOND_US)[:19]}."
        return f"{moment}{text.replace(',', 'Z,').replace(';', f'{chr(10)}{moment}')}\n".encode("ascii")

    def finish(self) -> bytes:
        """Nothing, as every line was returned already."""
        return b""


class NpyEncoder:
    """A one-dimensional structured array; its header is rewritten once the length is known."""

    media_type = "application/octet-stream"

    def __init__(self) -> None:
        self._count = 0

    def begin(self) -> bytes:
        """A header of the final size, for no samples yet."""
        return self.header()

    def add(self, second: int, text: str) -> bytes:
        """16 bytes per sample."""
        microseconds, values = arrays_of(text)
        records = np.empty(len(values), NPY_DTYPE)
        records["time"] = microseconds + second * SECOND_US
        records["value"] = values
        self._count += len(values)
        return records.tobytes()

    def finish(self) -> bytes:
        """Nothing; the caller overwrites the first bytes with ``header()``."""
        return b""

    def header(self) -> bytes:
        """The header for the samples added so far, always of the same length."""
        described = f"{{'descr': {NPY_DTYPE.descr!r}, 'fortran_order': False, 'shape': ({self._count},), }}"
        length = _NPY_HEADER_BYTES - 10
        return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + f"{described:<{length - 1}}\n".encode()


class ParquetEncoder:
    """Row groups of about a million samples. Raises ConfigurationError if pyarrow is missing."""

    media_type = "application/vnd.apache.parquet"

    def __init__(self) -> None:
        try:
            import pyarrow  # noqa: PLC0415 (an extra)
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError as error:
            raise ConfigurationError(f"Parquet needs {extras.install_text('pyarrow')}") from error
        self._arrow: Any = pyarrow
        self._schema = pyarrow.schema(
            [("time", pyarrow.timestamp("us", "UTC")), ("value", pyarrow.float64())]
        )
        self._sink = _Drained()
        self._writer = parquet.ParquetWriter(
            pyarrow.PythonFile(self._sink, mode="w"),
            self._schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding={"time": "DELTA_BINARY_PACKED", "value": "BYTE_STREAM_SPLIT"},
        )
        self._waiting: list[tuple[Microseconds, Values]] = []
        self._samples = 0

    def begin(self) -> bytes:
        """The magic number."""
        return self._sink.drain()

    def add(self, second: int, text: str) -> bytes:
        """Nothing, or a row group."""
        microseconds, values = arrays_of(text)
        self._waiting.append((microseconds + second * SECOND_US, values))
        self._samples += len(values)
        return self._write_group() if self._samples >= _ROW_GROUP_SAMPLES else b""

    def finish(self) -> bytes:
        """The last row group and the footer."""
        last = self._write_group() if self._waiting else b""
        self._writer.close()
        return last + self._sink.drain()

    def _write_group(self) -> bytes:
        times, values = (np.concatenate(column) for column in zip(*self._waiting))
        self._waiting, self._samples = [], 0
        arrow = self._arrow
        table = arrow.table(
            [arrow.array(times).cast(self._schema.field("time").type), arrow.array(values)],
            schema=self._schema,
        )
        self._writer.write_table(table, row_group_size=len(times))
        return self._sink.drain()


class _Drained(io.RawIOBase):
    """Collects what is written until it is drained."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def tell(self) -> int:
        return self._written

    def drain(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


ENCODERS: dict[str, type[CsvEncoder] | type[ParquetEncoder] | type[NpyEncoder]] = {
    "csv": CsvEncoder,
    "parquet": ParquetEncoder,
    "npy": NpyEncoder,
}
