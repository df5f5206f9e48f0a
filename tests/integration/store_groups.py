"""Commit groups and a small city for the tests of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lifeline_stream.core.catalog import Adjacency, Asset, Catalog, Channel, Device, District
from lifeline_stream.core.model import (
    Block,
    ConditionEvent,
    EventKind,
    ReadingBatch,
    alarm_id,
)
from lifeline_stream.store.database import connected
from lifeline_stream.store.group import CommitGroup, OutboxItem, Rule
from lifeline_stream.store.registry import sync_registry
from lifeline_stream.store.writer import ShardWriter

T0_US = 1_760_000_000_000_000
S = 1_000_000
RULE = Rule("hazard", "why it matters", "a standard", "what to do", "packhash")

Row = tuple[int, int, float] | tuple[int, int, float, int]


def batch_of(rows: Sequence[Row]) -> ReadingBatch:
    """Readings from (channel, seconds after T0, value[, quality])."""
    full = [(*row, 0)[:4] for row in rows]
    return ReadingBatch(
        np.array([r[0] for r in full], np.int32),
        np.array([T0_US + r[1] * S for r in full], np.int64),
        np.array([r[2] for r in full], np.float64),
        np.array([r[3] for r in full], np.uint8),
    )


def group_of(seq: int, rows: Sequence[Row] = (), **more: Any) -> CommitGroup:
    """A group whose clock is `seq` seconds after T0."""
    batch = batch_of(rows)
    lag_ms = np.arange(len(batch), dtype=np.int32)
    return CommitGroup(**{
        "seq": seq, "now_us": T0_US + seq * S, "watch_from_us": -1, "declaration_hash": "d1", "batch": batch,
        "gateway_lag_ms": lag_ms, **more,
    })  # fmt: skip


def block_of(channel: int, second: int, samples: Sequence[float], quality: int = 0) -> Block:
    return Block(channel, T0_US + second * S, 100.0, np.array(samples, np.float32), quality)


def event_of(kind: EventKind, second: int, severity: int = 2, **more: Any) -> ConditionEvent:
    """An event of the alarm of channel 0 that began at second 10, unless told otherwise."""
    onset = more.pop("onset", 10)
    channel, detector = more.pop("channel_ix", 0), more.pop("detector", "toy.level.high")
    return ConditionEvent(**{
        "alarm_id": alarm_id(f"c{channel}", detector, onset), "kind": kind, "at_us": T0_US + second * S,
        "onset_us": T0_US + onset * S, "channel_ix": channel, "detector": detector, "severity": severity,
        "value": 10.0 * severity, "limit": 5.0 * severity, **more,
    })  # fmt: skip


def item_of(id_: str, event: ConditionEvent, **more: Any) -> OutboxItem:
    return OutboxItem(
        **{"id": id_, "alarm_id": event.alarm_id, "at_us": event.at_us, "held": False, "body": b"{}", **more}
    )


def nothing_late(_: ReadingBatch) -> tuple[list[ConditionEvent], list[OutboxItem]]:
    return [], []


def writer_of(dsn: str, shard: str = "s1", **more: Any) -> ShardWriter:
    return ShardWriter(dsn, shard, lambda _hash, _detector: RULE, **{"standby_wait_s": 0.2, "poll_s": 0.02, **more})


def city(n_channels: int = 4) -> Catalog:
    """Channels c0, c1 … of one asset in county north, on a device each."""
    asset = Asset("A1", "一号阀室", "toy", "chamber", ("north", "south"), "owner", 117.0, 31.8, "high")
    return Catalog(
        channels=tuple(
            Channel(f"c{i}", i, f"D{i}", "G1", "A1", "north", "toy", "toy.level", "", "", 60.0)
            for i in range(n_channels)
        ),
        districts=(District("city", "市", "city", ""), District("north", "北县", "county", "city")),
        assets=(asset,),
        devices=tuple(Device(f"D{i}", "G1", "A1", "m") for i in range(n_channels)),
        adjacency=(Adjacency("A1", "A1", "near", 3.0),),
    )


async def settle_city(dsn: str, n_channels: int = 4) -> dict[str, int]:
    async with connected(dsn) as connection:
        return await sync_registry(connection, city(n_channels), {"toy.level": "m"})


async def rows_of(dsn: str, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    async with connected(dsn) as connection:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]


async def stored(dsn: str) -> list[tuple[int, int, float]]:
    """What is stored, as (channel, seconds after T0, value)."""
    query = "SELECT channel, (us_of(ts) - $1) / 1000000, value FROM reading ORDER BY channel, ts"
    return [(c, s, v) for c, s, v in await rows_of(dsn, query, T0_US)]
