"""PostgreSQL's binary COPY format, written from and read into numpy structured arrays.

A row of fixed width is one big-endian record: its number of fields, then length and bytes of each field. So a table is
one array, and encoding it is a byte swap per column.
https://www.postgresql.org/docs/current/sql-copy.html, *Binary Format*.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lifeline_stream.core.model import Block, Int32s, Int64s, ReadingBatch

Records: TypeAlias = npt.NDArray[np.void]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
EPOCH_US = 946_684_800_000_000
"""PostgreSQL counts µs from 2000-01-01 UTC."""
_FLOAT4_OID = 700


class Layout:
    """Layout of the rows of one table, all of fixed width and without NULL."""

    def __init__(self, **columns: str) -> None:
        """Name the columns in order, with the dtype of their wire form: `>i4`, `>i8`, `>f8` and so on."""
        self.columns = tuple(columns)
        fields = [("n_fields", ">i2")]
        for name, kind in columns.items():
            fields += [(f"{name}_length", ">i4"), (name, kind)]
        self.dtype = np.dtype(fields)
        self._empty_row = np.zeros((), self.dtype)
        self._empty_row["n_fields"] = len(columns)
        for name in columns:
            self._empty_row[f"{name}_length"] = self.dtype[name].itemsize

    def encode(self, **values: npt.ArrayLike) -> Records:
        """Rows from columns of equal length n, or single values; at least one of them is an array.

        >>> rows = Layout(channel=">i4", value=">f8").encode(channel=np.array([7, 8]), value=0.5)
        >>> rows[0].tobytes().hex(" ", 4)
        '0002 00000004 00000007 00000008 3fe00000 00000000'
        """
        n = max(len(v) for v in values.values() if isinstance(v, np.ndarray))
        rows = np.empty(n, self.dtype)
        rows[...] = self._empty_row
        for name in self.columns:
            rows[name] = values[name]
        return rows

    def decode(self, copied: bytes | bytearray) -> Records:
        """Rows from a whole COPY stream of this layout.

        Raises:
            ValueError: the stream is of another layout, cut short, or holds a NULL.
        """
        body = len(copied) - len(HEADER) - len(TRAILER)
        if body < 0 or body % self.dtype.itemsize or copied[-2:] != TRAILER:
            raise ValueError(f"a COPY stream of {len(copied)} bytes does not hold rows of {self.dtype.itemsize}")
        rows: Records = np.frombuffer(copied, self.dtype, body // self.dtype.itemsize, len(HEADER))
        if any(
            (rows[name] != self._empty_row[name]).any() for name in self.dtype.names or () if name not in self.columns
        ):
            raise ValueError("a COPY stream has rows of another layout")
        return rows


def stream(rows: Records) -> bytearray:
    """The whole COPY stream of rows of fixed width; no `bytes`, which asyncpg takes for the name of a file."""
    return bytearray().join((HEADER, rows.tobytes(), TRAILER))


READING = Layout(channel=">i4", ts=">i8", value=">f8", quality=">i2", gateway_lag_ms=">i4", group_seq=">i8")
READING_KEY = Layout(ord=">i4", channel=">i4", ts=">i8")
STORED_READING = Layout(group_seq=">i8", channel=">i4", ts=">i8", value=">f8", quality=">i2")
"""What recovery reads back."""
WAVEFORM_COLUMNS = ("channel", "t0", "rate_hz", "n", "samples", "quality", "group_seq")


def encode_readings(batch: ReadingBatch, gateway_lag_ms: Int32s, group_seq: int) -> Records:
    """Rows of table `reading` in the order of the batch, which should be that of `by_channel_and_time`.

    Args:
        batch: n readings.
        gateway_lag_ms: int32[n].
        group_seq: of the group that stores them.
    """
    return READING.encode(
        channel=batch.channel_ix,
        ts=batch.ts_us - EPOCH_US,
        value=batch.value,
        quality=batch.quality,
        gateway_lag_ms=gateway_lag_ms,
        group_seq=np.int64(group_seq),
    )


def by_channel_and_time(batch: ReadingBatch) -> Int64s:
    """int64[n]: indices that put readings in the order of the index, which takes them twice as fast so; stable."""
    return np.lexsort((batch.ts_us, batch.channel_ix))


def decode_readings(copied: bytes | bytearray) -> tuple[Int64s, ReadingBatch]:
    """Group numbers and readings, in the order of the stream, from `STORED_READING` rows."""
    rows: Mapping[str, npt.NDArray[Any]] = STORED_READING.decode(copied)  # type: ignore[assignment]
    batch = ReadingBatch(
        rows["channel"].astype(np.int32),
        rows["ts"].astype(np.int64) + EPOCH_US,
        rows["value"].astype(np.float64),
        rows["quality"].astype(np.uint8),
    )
    return rows["group_seq"].astype(np.int64), batch


# Waveform rows hold an array, so their width varies: a fixed head, the samples with a length each, a fixed tail.
_SAMPLE = np.dtype([("length", ">i4"), ("value", ">f4")])
_HEAD = struct.Struct(">h ii iq id ii")
_TAIL = struct.Struct(">ih iq")
_STORED_HEAD = struct.Struct(">h iq ii iq id ih")
_ARRAY = struct.Struct(">iiiiii")
_EMPTY_ARRAY_BYTES = 12


def encode_blocks(blocks: Iterable[Block], group_seq: int) -> bytearray:
    """The whole COPY stream of `WAVEFORM_COLUMNS`, in the given order."""
    parts: list[bytes] = [HEADER]
    for block in blocks:
        n = len(block.samples)
        samples = np.empty(n, _SAMPLE)
        samples["length"], samples["value"] = 4, block.samples
        parts += [
            _HEAD.pack(7, 4, block.channel_ix, 8, block.t0_us - EPOCH_US, 8, block.rate_hz, 4, n),
            _ARRAY.pack(20 + samples.nbytes, 1, 0, _FLOAT4_OID, n, 1),
            samples.tobytes(),
            _TAIL.pack(2, block.quality, 8, group_seq),
        ]
    parts.append(TRAILER)
    return bytearray().join(parts)


class StoredBlock(NamedTuple):
    """A block, and the group that stored it."""

    group_seq: int
    block: Block


def decode_blocks(copied: bytes | bytearray) -> Iterator[StoredBlock]:
    """Blocks from a COPY stream of rows (group_seq, channel, t0, rate_hz, quality, samples)."""
    at = len(HEADER)
    while copied[at : at + 2] != TRAILER:
        _, _, group_seq, _, channel, _, t0, _, rate_hz, _, quality = _STORED_HEAD.unpack_from(copied, at)
        at += _STORED_HEAD.size
        n_bytes, *_, n, _ = _ARRAY.unpack_from(copied, at)
        n = 0 if n_bytes == _EMPTY_ARRAY_BYTES else n
        samples = np.frombuffer(copied, _SAMPLE, n, at + _ARRAY.size)["value"].astype(np.float32)
        at += 4 + n_bytes
        yield StoredBlock(group_seq, Block(channel, t0 + EPOCH_US, rate_hz, samples, quality))
