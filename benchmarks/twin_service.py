"""The plain-Python twin of `lifeline run`: aiomqtt's own loop, an object per reading, tuples into COPY."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import aiomqtt
import asyncpg

import reference
import reference_wire
from lifeline_stream.city.registry import load_registry
from lifeline_stream.declarations import load_packs
from lifeline_stream.resources import find
from lifeline_stream.sources import names_of

GROUP_ROWS = 20_000
NOTE = """
INSERT INTO commit_group (group_seq, shard, token, now_us, watch_from_us, declaration_hash,
                          n_readings, n_samples, from_us, to_us)
VALUES ($1, '', '', 0, 0, '', $2, 0, 0, 0)"""
COLUMNS = ("channel", "ts", "value", "quality", "gateway_lag_ms", "group_seq")


async def serve(dsn: str, port: int, city: Path, n_readings: int) -> None:
    """Take, detect and store until so many readings are stored."""
    packs = load_packs(find("detectors"))
    catalog = load_registry(city, packs)
    normalizer = reference_wire.ReferenceNormalizer(catalog, packs)
    engine = reference.ReferenceEngine(catalog, packs)
    connection = await asyncpg.connect(dsn)
    rows: list[tuple[Any, ...]] = []
    stored = 0
    async with aiomqtt.Client("127.0.0.1", port, max_queued_incoming_messages=0) as client:
        await client.subscribe("lifeline/v1/+/+/up", qos=1)
        print("ready", flush=True)
        async for message in client.messages:
            gateway, device = names_of(str(message.topic))
            now_us = time.time_ns() // 1000
            found = [
                normalizer.take(named, gateway, device, now_us)[0] for named in reference_wire.decode(message.payload)
            ]
            engine.step(found, now_us)
            rows += [(r.channel, datetime.fromtimestamp(r.ts_us / 1e6, UTC), r.value, r.quality, 0, 1) for r in found]
            if len(rows) >= GROUP_ROWS or stored + len(rows) >= n_readings:
                await connection.copy_records_to_table("reading", records=rows, columns=COLUMNS)
                stored += len(rows)
                await connection.execute(NOTE, stored // GROUP_ROWS, len(rows))
                rows.clear()
            if stored >= n_readings:
                break
    await connection.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
