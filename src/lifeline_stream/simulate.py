"""The simulated city of a topology: published in real time, or recorded without a broker."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.model import FLAG_MASK, ReadingBatch
from lifeline_stream.declarations import load_packs, load_topology
from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.fleet.gateways import Gateways
from lifeline_stream.fleet.simulation import Fleet
from lifeline_stream.settings import Settings

STRETCH_US = 600_000_000
"""Simulated time that is recorded at once."""


async def run_fleet(
    topology_name: str, settings: Settings, stop: asyncio.Event, seconds: float | None, truth: Path | None
) -> str:
    """Publish until `stop`, or for so many seconds; one line of JSON says how many readings the broker took.

    Raises:
        ConfigError: a declaration is wrong.
    """
    topology = load_topology(topology_name)
    packs = load_packs(topology.packs_path())
    catalog = load_registry(topology.registry_path(), packs)
    gateways = Gateways(catalog, packs, topology.fleet, settings.mqtt)
    started_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(gateways.run(stop, truth), name="fleet")
        await asyncio.wait([running], timeout=seconds)
        stop.set()
    published = gateways.published
    elapsed_s = round(time.monotonic() - started_s, 1)
    return json.dumps({"seconds": elapsed_s, "published": sum(published.values()), "by_domain": published})


def record_fleet(topology_name: str, out: Path, hours: float, start: str) -> str:
    """Write `trace.parquet` and `truth.jsonl`; one line of JSON says what is in them.

    Values are in the gateway's unit, as they would be published: `lifeline replay --registry` converts them. A reading
    stands at its stamp, so a late batch is late no more; a duplicate stands there twice.

    Raises:
        ConfigError: a declaration or the start is wrong.
    """
    topology = load_topology(topology_name)
    packs = load_packs(topology.packs_path())
    catalog = load_registry(topology.registry_path(), packs)
    start_us = _start_us(start)
    end_us = start_us + round(hours * 3.6e9)
    fleet = Fleet(catalog, packs, topology.fleet, start_us)
    out.mkdir(parents=True, exist_ok=True)
    names = np.full(catalog.n_ix, "", object)
    names[[c.ix for c in catalog.channels]] = [c.id for c in catalog.channels]
    n_readings = 0
    with pq.ParquetWriter(out / "trace.parquet", _SCHEMA) as file:
        for batch, at_us in _stretches(fleet, start_us, end_us):
            file.write_batch(_record(batch, names))
            n_readings += len(batch)
            sys.stderr.write(f"\r{(at_us - start_us) / 3.6e9:.1f} of {hours:g} h, {n_readings} readings")
    sys.stderr.write("\n")
    truth = list(fleet.truth(end_us))
    with (out / "truth.jsonl").open("wb") as lines:
        lines.writelines(msgspec.json.encode(line) + b"\n" for line in truth)
    return json.dumps({"hours": hours, "readings": n_readings, "channels": len(catalog.channels), "truth": len(truth)})


_SCHEMA = pa.schema(
    [
        ("ts", pa.timestamp("us", tz="UTC")),
        ("channel", pa.dictionary(pa.int32(), pa.string())),
        ("value", pa.float64()),
        ("quality", pa.uint8()),
    ]
)


def _start_us(start: str) -> int:
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        raise ConfigError([Problem("--start", "", start, "write it like 2026-01-05T00:00:00+08:00")]) from None
    if moment.tzinfo is None:
        raise ConfigError([Problem("--start", "", start, "names no zone; add Z or +08:00")])
    return round(moment.timestamp() * 1e6)


def _stretches(fleet: Fleet, start_us: int, end_us: int) -> Iterator[tuple[ReadingBatch, int]]:
    """All readings, those of waveforms too, and the time that they reach."""
    for t0_us in range(start_us, end_us, STRETCH_US):
        t1_us = min(t0_us + STRETCH_US, end_us)
        tick = fleet.readings(t0_us, t1_us)
        yield ReadingBatch.concat([tick.batch, tick.again, *(block.as_readings() for block in tick.blocks)]), t1_us


def _record(batch: ReadingBatch, names: npt.NDArray[np.object_]) -> pa.RecordBatch:
    batch = batch.take(np.argsort(batch.ts_us, kind="stable"))
    ts = pa.array(batch.ts_us, _SCHEMA.field("ts").type)
    channel = pa.DictionaryArray.from_arrays(pa.array(batch.channel_ix), pa.array(names, pa.string()))
    return pa.record_batch([ts, channel, batch.value, batch.quality & np.uint8(FLAG_MASK)], schema=_SCHEMA)
