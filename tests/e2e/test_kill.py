"""`kill -9` of the pipeline, broker and database alive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from e2e.service import (
    ALARMS,
    BLOCKS,
    EVENTS,
    READINGS,
    Device,
    Publisher,
    Sent,
    Service,
    columns,
    count,
    now_ms,
    publisher,
    rows_of,
    seeded,
    until,
    until_stored,
    waveform,
    write_city,
)
from integration.faultproxy import FaultProxy
from mosquitto import Broker

SEED = 20_260
N_KILLS = 10
N_STEPS = 780
"""Event seconds of the trace: enough for an off-delay of 600 s, and within what is near now."""
STEPS_AT_ONCE = 10
N_SAMPLES = 50

CHAMBERS = [Device(f"C{i}", f"G{i % 3}", "gas", ("methane", "water_level")) for i in range(6)]
COVERS = [Device(f"V{i}", f"G{i % 3}", "gas", ("cover_tilt",)) for i in range(4)]
TUNNELS = [Device(f"T{i}", "G3", "tunnel", ("methane", "h2s", "co")) for i in range(4)]
GIRDERS = [Device(f"B{i}", "G4", "bridge", ("acceleration",)) for i in range(2)]
CITY = [*CHAMBERS, *COVERS, *TUNNELS, *GIRDERS]
# Every channel is due each 300 s: no silence of this trace is long enough for an absence, whose clock is received time.
# A chamber's water level follows its methane at once, so what waits for a companion never waits until its hold is over.


class Trace:
    """A seeded trace by event second, and what must be stored of it."""

    def __init__(self, seed: int, start_ms: int) -> None:
        self._rng = seeded(seed)
        self._start_ms = start_ms
        self.readings: set[tuple[str, int, float]] = set()
        self.blocks: set[tuple[str, int, int]] = set()
        self._onset = {device.id: self._rng.randrange(20, 160) for device in [*CHAMBERS, *TUNNELS]}
        self._kept_back: dict[str, tuple[str, int, float]] = {}

    def steps(self) -> Iterator[list[Sent]]:
        for step in range(N_STEPS):
            messages = [sent for device in CHAMBERS for sent in self._chamber(device, step)]
            messages += [self._message(device, [self._row("cover_tilt", step, self._tilt())]) for device in COVERS]
            messages += [self._tunnel(device, step) for device in TUNNELS]
            messages += [self._girder(device, step) for device in GIRDERS]
            yield messages

    def _chamber(self, device: Device, step: int) -> list[Sent]:
        gas = self._row("methane", step, self._gas(device, step))
        level = self._row("water_level", step, 900.0 if device.id == "C5" and step > 200 else 20.0)
        return [self._message(device, [gas]), self._message(device, [level])]

    def _tunnel(self, device: Device, step: int) -> Sent:
        """Now and then a reading of hydrogen sulphide is kept back, comes late, and is high."""
        rows = [
            self._row("methane", step, self._gas(device, step)),
            self._row("co", step, self._gas(device, step) * 20),
        ]
        if step % 97 == int(device.id[1:]) + 11:
            self._kept_back[device.id] = self._row("h2s", step, self._rng.choice([35.0, 80.0, 2.0]))
        else:
            rows.append(self._row("h2s", step, 1.0))
        if step % 97 == int(device.id[1:]) + 18 and device.id in self._kept_back:
            rows.append(self._kept_back.pop(device.id))
        return self._message(device, rows)

    def _girder(self, device: Device, step: int) -> Sent:
        strength = 3.0 if step % 211 in range(40, 45) else 0.1
        values = [round(self._rng.gauss(0, strength), 3) for _ in range(N_SAMPLES)]
        t0_ms = self._start_ms + 1000 * step
        self.blocks.add((f"{device.id}/acceleration", t0_ms, N_SAMPLES))
        return waveform(device, "acceleration", t0_ms, 1000 / N_SAMPLES, values)

    def _gas(self, device: Device, step: int) -> float:
        since = step - self._onset[device.id]
        base = 0.2 + self._rng.uniform(-0.1, 0.1)
        return round(base + (0.1 * since if since < 60 else 3.0) if 0 <= since < 100 else base, 3)

    def _tilt(self) -> float:
        return self._rng.choice([12.0, 50.0]) if self._rng.random() < 0.02 else round(self._rng.uniform(0, 2), 2)

    def _row(self, sensor: str, step: int, value: float) -> tuple[str, int, float]:
        return sensor, self._start_ms + 1000 * step, value

    def _message(self, device: Device, rows: list[tuple[str, int, float]]) -> Sent:
        self.readings.update((f"{device.id}/{sensor}", ts_ms, value) for sensor, ts_ms, value in rows)
        return columns(device, rows)


async def _publish(trace: Trace, gateways: Publisher, kills: list[float]) -> None:
    """Publish at a pace; each kill lets another share of the trace go, so that all of them fall into the load."""
    share = N_STEPS // (N_KILLS + 1)
    batch: list[Sent] = []
    for step, messages in enumerate(trace.steps()):
        batch += messages
        if step % STEPS_AT_ONCE < STEPS_AT_ONCE - 1:
            continue
        while len(kills) < N_KILLS and step > share * (len(kills) + 1):
            await asyncio.sleep(0.05)
        await gateways.publish(batch)
        batch = []
        if len(kills) < N_KILLS:
            await asyncio.sleep(0.3)  # the pace of the load, nothing is waited for
    await gateways.publish(batch)


async def _kill(service: Service, link: FaultProxy, dsn: str, moment_s: float, *, before_acknowledging: bool) -> float:
    """Kill it; how many readings it had met again. Its acknowledgements may be kept from the broker just before."""
    await asyncio.sleep(moment_s)  # the random moment
    if before_acknowledging:
        link.stall()
        n_groups = await count(dsn, "commit_group")
        with contextlib.suppress(TimeoutError):  # it may have had nothing to commit
            async with asyncio.timeout(2.0):
                while await count(dsn, "commit_group") == n_groups:
                    await asyncio.sleep(0.02)
    met_again = 0.0
    with contextlib.suppress(httpx.TransportError):  # it may not have got so far
        met_again = await service.metric("lifeline_duplicate_readings_total")
    service.kill()
    link.cut()
    return met_again


async def test_ten_kills_under_load_lose_nothing_double_nothing_and_change_no_alarm(
    tmp_path: Path, broker: Broker, store_dsn: str, other_store_dsn: str
) -> None:
    trace, rng = Trace(SEED, now_ms() - 1000 * (N_STEPS + 20)), seeded(SEED + 1)
    killed_city = write_city(tmp_path / "killed", CITY, shard="killed")
    whole_city = write_city(tmp_path / "whole", CITY, shard="whole")
    undisturbed = Service(tmp_path / "whole", whole_city, other_store_dsn, broker)
    async with contextlib.AsyncExitStack() as stack:
        link = await stack.enter_async_context(FaultProxy(broker.host, broker.port).running())
        own = {"mqtt__port": link.port, "ingest__state_every_s": 2}
        service = Service(tmp_path / "killed", killed_city, store_dsn, broker, **own)
        for each in (service, undisturbed):
            await stack.enter_async_context(each.running())
        gateways = await stack.enter_async_context(publisher(broker))
        kills: list[float] = []
        publishing = asyncio.create_task(_publish(trace, gateways, kills))
        for kill in range(N_KILLS):
            if kill % 4 != 3:  # one in four strikes while it starts
                await service.ready()
            moment_s, before_acknowledging = rng.uniform(0.05, 1.5), kill % 2 == 0
            kills.append(await _kill(service, link, store_dsn, moment_s, before_acknowledging=before_acknowledging))
            service.start()
        await publishing
        await until_stored(other_store_dsn, len(trace.readings))
        await until_stored(store_dsn, len(trace.readings))
        for each in (service, undisturbed):
            await each.ready()
            await until(each.is_idle, "everything acknowledged")
        met_again = sum(kills) + await service.metric("lifeline_duplicate_readings_total")
        assert [await each.terminate() < 10 for each in (service, undisturbed)] == [True, True]
    assert met_again > 0, "no kill fell between a commit and its acknowledgement"

    for dsn in (other_store_dsn, store_dsn):
        stored = await rows_of(dsn, READINGS)
        assert len(stored) == len(set(stored))
        assert set(stored) == trace.readings
        blocks = await rows_of(dsn, BLOCKS)
        assert len(blocks) == len(set(blocks))
        assert set(blocks) == trace.blocks
        assert await rows_of(dsn, "SELECT reason, detail FROM reject_v") == []
    for query in (ALARMS, EVENTS):
        expected = await rows_of(other_store_dsn, query)
        assert await rows_of(store_dsn, query) == expected
        assert len(expected) > 20
    late = await rows_of(store_dsn, "SELECT DISTINCT channel FROM alarm_v WHERE found_late ORDER BY 1")
    assert late == [(f"T{i}/h2s",) for i in range(4)]
