"""The stored readings are the log: the newest saved state, and the groups after it in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lifeline_stream.core.model import Block, ReadingBatch
from lifeline_stream.errors import FatalError
from lifeline_stream.store import pgcopy, sql
from lifeline_stream.store.database import Connection, budget
from lifeline_stream.store.group import SHARD_SPAN

SQL = sql.load(__file__)
CHUNK_ROWS = 200_000
"""Readings and samples that replay holds in memory at once, unless one group has more."""
CHUNK_GROUPS = 10_000
CHUNK_S = 120.0
"""Budget of reading one chunk."""
STATE_S = 120.0
"""Budget of reading a state, or the newest reading of every channel."""


class SavedState(NamedTuple):
    """The engine as it was after group n, and the declarations it ran with."""

    state: bytes
    group_seq: int
    declaration_hash: str
    declaration: bytes


class StoredGroup(NamedTuple):
    """A group as recovery feeds it.

    Attributes:
        n: its number in the shard.
        now_us: the engine's clock.
        watch_from_us: since when silence counted, or -1.
        declaration_hash: of the declarations that it ran with.
        batch: stored readings by channel and time, with their arrival bits.
        blocks: stored waveforms by channel and time.
    """

    n: int
    now_us: int
    watch_from_us: int
    declaration_hash: str
    batch: ReadingBatch
    blocks: list[Block]


class ActiveAlarm(NamedTuple):
    """An alarm that the book holds active."""

    alarm_id: str
    channel_ix: int
    channel: str
    detector: str
    onset_us: int
    severity: int
    class_: str
    found_late: bool


async def store_declaration(connection: Connection, hash_: str, body: bytes) -> None:
    """Keep declarations under their hash; to be called before the first group that names it."""
    async with budget(STATE_S, "store the declarations"):
        await connection.execute(SQL["store_declaration"], hash_, body)


async def load_declaration(connection: Connection, hash_: str) -> bytes:
    """Declarations by hash.

    Raises:
        FatalError: they are not in the store.
    """
    async with budget(STATE_S, "load the declarations"):
        body = await connection.fetchval(SQL["load_declaration"], hash_)
    if body is None:
        raise FatalError(f"the store holds groups of declarations {hash_} but not these declarations")
    return bytes(body)


async def latest_state(connection: Connection, shard: str) -> SavedState | None:
    """The newest saved state of a shard, or None before the first.

    Raises:
        FatalError: its declarations are not in the store.
    """
    async with budget(STATE_S, "load the engine state"):
        row = await connection.fetchrow(SQL["latest_state"], shard)
    if row is None:
        return None
    declaration = await load_declaration(connection, row["declaration_hash"])
    return SavedState(row["state"], row["group_seq"] % SHARD_SPAN, row["declaration_hash"], declaration)


async def replay(connection: Connection, shard: str, after_n: int) -> AsyncIterator[StoredGroup]:
    """The groups after number `after_n`, in order, a bounded number of rows in memory at a time."""
    async with budget(CHUNK_S, "read the shard's state"):
        shard_no = await connection.fetchval(SQL["shard_no"], shard)
    if shard_no is None:
        return
    at = shard_no * SHARD_SPAN + after_n
    end = (shard_no + 1) * SHARD_SPAN
    while True:
        async with budget(CHUNK_S, "replay"):
            groups = await connection.fetch(SQL["groups"], at, end, CHUNK_ROWS, CHUNK_GROUPS)
            if not groups:
                return
            chunk = await _chunk(connection, groups)
        for group in chunk:
            yield group
        at = groups[-1]["group_seq"]


async def _chunk(connection: Connection, groups: list[Connection]) -> list[StoredGroup]:
    """The groups with their rows; one query each for readings and blocks."""
    seqs = [group["group_seq"] for group in groups]
    bounds = (seqs[0], seqs[-1], min(g["from_us"] for g in groups), max(g["to_us"] for g in groups))
    of_reading, batch = np.empty(0, np.int64), ReadingBatch.empty()
    if any(group["n_readings"] for group in groups):
        of_reading, batch = pgcopy.decode_readings(await _copied(connection, "readings", bounds))
    blocks: dict[int, list[Block]] = {}
    if any(group["n_samples"] for group in groups):
        for seq, block in pgcopy.decode_blocks(await _copied(connection, "waveforms", bounds)):
            blocks.setdefault(seq, []).append(block)
    cuts = np.searchsorted(of_reading, [*seqs, seqs[-1] + 1]).tolist()
    return [
        StoredGroup(
            group["group_seq"] % SHARD_SPAN,
            group["now_us"],
            group["watch_from_us"],
            group["declaration_hash"],
            batch.take(slice(first, last)),
            blocks.get(group["group_seq"], []),
        )
        for group, (first, last) in zip(groups, pairwise(cuts), strict=True)
    ]


async def _copied(connection: Connection, query: str, bounds: tuple[int, int, int, int]) -> bytearray:
    copied = bytearray()

    async def take(part: bytes) -> None:
        copied.extend(part)

    await connection.copy_from_query(SQL[query], *bounds, output=take, format="binary")
    return copied


async def active_alarms(connection: Connection, shard: str) -> list[ActiveAlarm]:
    """What the book holds active, to be checked against the engine."""
    async with budget(STATE_S, "read the active alarms"):
        return [ActiveAlarm(*row) for row in await connection.fetch(SQL["active_alarms"], shard)]


async def newest(connection: Connection, shard: str) -> ReadingBatch:
    """The newest live reading of each channel that the shard has written, by channel."""
    async with budget(STATE_S, "read the newest readings"):
        shard_no = await connection.fetchval(SQL["shard_no"], shard)
        if shard_no is None:
            return ReadingBatch.empty()
        span = (shard_no * SHARD_SPAN, (shard_no + 1) * SHARD_SPAN)
        copied = bytearray()

        async def take(part: bytes) -> None:
            copied.extend(part)

        await connection.copy_from_query(SQL["newest"], *span, output=take, format="binary")
    return pgcopy.decode_readings(copied)[1]
