"""Readings and blocks that the store may hold already: compared with it first, so nothing is stored twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lifeline_stream.core.model import (
    LATE,
    RESTARTED,
    Block,
    Bools,
    Float64s,
    Int64s,
    ReadingBatch,
    Reject,
    RejectReason,
)
from lifeline_stream.store import pgcopy, sql
from lifeline_stream.store.database import Connection
from lifeline_stream.store.refuse import blocks_as_json, readings_as_json

SQL = sql.load(__file__)
MAYBE_STORED = LATE | RESTARTED
"""Arrival bits of rows whose time the store may hold."""
_CONFLICT = "another value is stored for this time; the first one stays"


class Sifted(NamedTuple):
    """Which of the compared rows are new: a mask over them; and what became of the others."""

    new: Bools
    n_duplicates: int
    conflicts: list[Reject]


async def prepare(connection: Connection) -> None:
    """Create the session's staging tables."""
    await connection.execute(SQL["create_staging"])


async def sift_readings(connection: Connection, batch: ReadingBatch) -> Sifted:
    """Compare readings with the store and with each other; of equal (channel, time) the first stays.

    Args:
        connection: in a transaction that has written the rows of the group that need no comparison.
        batch: n readings in order of arrival.
    """
    first = _first_of_each(batch)
    n = len(batch)
    reference = batch.value[first]
    has_reference = first != np.arange(n)
    stored_ord, stored_value = await _stored_values(connection, batch)
    has_reference[stored_ord] = True
    reference[stored_ord] = stored_value
    equal = (batch.value == reference) | (np.isnan(batch.value) & np.isnan(reference))
    conflicting = has_reference & ~equal
    conflicts = [
        Reject(
            RejectReason.CONFLICT,
            f"channel {c}, {t} µs: {_CONFLICT}",
            readings_as_json(batch.take(slice(r, r + 1))).encode(),
        )
        for r, c, t in zip(
            np.flatnonzero(conflicting).tolist(), batch.channel_ix[conflicting], batch.ts_us[conflicting], strict=True
        )
    ]
    return Sifted(~has_reference, int((has_reference & equal).sum()), conflicts)


def _first_of_each(batch: ReadingBatch) -> Int64s:
    """int64[n]: for each reading the index of the first of the same channel and time."""
    order = pgcopy.by_channel_and_time(batch)
    channel, ts_us = batch.channel_ix[order], batch.ts_us[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (channel[1:] != channel[:-1]) | (ts_us[1:] != ts_us[:-1])
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    return first


async def _stored_values(connection: Connection, batch: ReadingBatch) -> tuple[Int64s, Float64s]:
    """Indices of the readings whose channel and time the store has, and the values that it has."""
    rows = pgcopy.READING_KEY.encode(
        ord=np.arange(len(batch), dtype=np.int32), channel=batch.channel_ix, ts=batch.ts_us - pgcopy.EPOCH_US
    )
    await connection.copy_to_table(
        "staged_reading", source=pgcopy.stream(rows), format="binary", columns=pgcopy.READING_KEY.columns
    )
    found = await connection.fetch(SQL["stored_readings"], int(batch.ts_us.min()), int(batch.ts_us.max()))
    await connection.execute(SQL["empty_staged_reading"])
    return np.array([row["ord"] for row in found], np.int64), np.array([row["value"] for row in found], np.float64)


async def sift_blocks(connection: Connection, blocks: Sequence[Block]) -> Sifted:
    """The same for blocks, whose identity is (channel, t0, n)."""
    firsts: dict[tuple[int, int, int], Block] = {}
    new = np.zeros(len(blocks), np.bool_)
    same = np.zeros(len(blocks), np.bool_)
    for i, block in enumerate(blocks):
        first = firsts.setdefault(_key(block), block)
        new[i] = first is block
        same[i] = first is not block and np.array_equal(first.samples, block.samples, equal_nan=True)
    copied = pgcopy.encode_blocks(firsts.values(), 0)
    await connection.copy_to_table("staged_waveform", source=copied, format="binary")
    t0_us = [block.t0_us for block in blocks]
    found = await connection.fetch(SQL["stored_waveforms"], min(t0_us), max(t0_us))
    await connection.execute(SQL["empty_staged_waveform"])
    stored = {(row["channel"], row["t0_us"], row["n"]): row["same"] for row in found}
    for i in np.flatnonzero(new).tolist():
        if (key := _key(blocks[i])) in stored:
            new[i], same[i] = False, stored[key]
    conflicts = [
        Reject(
            RejectReason.CONFLICT,
            f"channel {b.channel_ix}, block at {b.t0_us} µs: {_CONFLICT}",
            blocks_as_json([b]).encode(),
        )
        for b in (blocks[i] for i in np.flatnonzero(~new & ~same).tolist())
    ]
    return Sifted(new, int(same.sum()), conflicts)


def _key(block: Block) -> tuple[int, int, int]:
    return block.channel_ix, block.t0_us, len(block.samples)
