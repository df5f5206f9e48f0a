"""The simulated gateways on a real broker: nothing that they say is lost, and nothing comes twice without need."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import mosquitto
from integration.faultproxy import FaultProxy
from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.packs import Pack
from lifeline_stream.declarations import load_packs
from lifeline_stream.fleet.encoding import metric
from lifeline_stream.fleet.gateways import Gateways
from lifeline_stream.fleet.options import FleetOptions, Incident
from lifeline_stream.formats.json_v1 import decode
from lifeline_stream.resources import find
from lifeline_stream.settings import Mqtt, Settings
from lifeline_stream.simulate import run_fleet
from lifeline_stream.sources.mqtt import MqttSource

WITHIN_S = 30.0
OPTIONS = FleetOptions(seed=1, tick_s=0.2, incident=(Incident(kind="leak", at="gas-chamber-01", starts_s=0.5),))


@pytest.fixture(scope="module")
def packs() -> list[Pack]:
    return load_packs(find("detectors"))


@pytest.fixture(scope="module")
def city(packs: list[Pack]) -> Catalog:
    return load_registry(find("config", "demo_city"), packs)


class Heard:
    """What a subscriber has received, as readings in the order they came."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.readings: list[tuple[str, int]] = []
        self.n_samples = 0

    @property
    def n(self) -> int:
        """Readings and samples."""
        return len(self.readings) + self.n_samples

    def take(self, topic: str, payload: bytes) -> None:
        """Take one message, which must be right."""
        device = topic.split("/")[3]
        message = decode(payload)
        assert message.rejects == []
        names = [name if "/" in name else f"{device}/{name}" for name in message.names]
        self.readings += [
            (names[n], ts) for n, ts in zip(message.name_ix.tolist(), message.ts_us.tolist(), strict=True)
        ]
        self.n_samples += sum(len(samples) for _, _, _, samples, _ in message.blocks)


@contextlib.asynccontextmanager
async def subscriber(broker: mosquitto.Broker) -> AsyncIterator[Heard]:
    source = MqttSource(broker.host, broker.port, client_id="subscriber")
    heard = Heard()

    async def listen() -> None:
        while True:
            for message in (messages := await source.take(0.05)):
                heard.take(message.topic, message.payload)
            source.acknowledge(messages)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(source.run()), tasks.create_task(listen())]
        await until(lambda: source.connected)
        yield heard
        for task in running:
            task.cancel()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.01)


def assert_without_gap(readings: set[tuple[str, int]], city: Catalog) -> None:
    """Every channel that reports at least once a second has all its readings between its first and its last."""
    every_us = {f"{c.device}/{metric(c)}": round(c.every_s * 1e6) for c in city.channels}
    times: dict[str, list[int]] = {}
    for name, ts_us in readings:
        times.setdefault(name, []).append(ts_us)
    newest_us = max(ts_us for _, ts_us in readings)
    for name, mine in times.items():
        assert set(np.diff(sorted(mine)).tolist()) <= {every_us[name]}
        assert newest_us - max(mine) < every_us[name] + 1_000_000


async def test_every_reading_arrives_once_and_is_counted_once(
    broker: mosquitto.Broker, city: Catalog, packs: list[Pack], tmp_path: Path
) -> None:
    gateways = Gateways(city, packs, OPTIONS, Mqtt(port=broker.port))
    stop = asyncio.Event()
    async with subscriber(broker) as heard, asyncio.TaskGroup() as tasks:
        fleet = tasks.create_task(gateways.run(stop, tmp_path / "truth.jsonl"))
        await until(lambda: heard.n > 1500)
        stop.set()
        await fleet
        await until(lambda: heard.n >= sum(gateways.published.values()))
    assert heard.n == sum(gateways.published.values())
    assert set(gateways.published) == {pack.domain.id for pack in packs}
    assert set(Counter(heard.readings).values()) == {1}
    assert_without_gap(set(heard.readings), city)
    truth = [msgspec.json.decode(line) for line in (tmp_path / "truth.jsonl").read_bytes().splitlines()]
    assert [line["kind"] for line in truth] == ["leak"]


async def test_no_reading_is_lost_when_the_connection_is_cut(
    broker: mosquitto.Broker, city: Catalog, packs: list[Pack]
) -> None:
    stop = asyncio.Event()
    async with subscriber(broker) as heard, FaultProxy(broker.host, broker.port).running() as proxy:
        gateways = Gateways(city, packs, OPTIONS, Mqtt(port=proxy.port))
        async with asyncio.TaskGroup() as tasks:
            fleet = tasks.create_task(gateways.run(stop))
            for _ in range(3):
                n = sum(gateways.published.values())
                await until(lambda n=n: sum(gateways.published.values()) > n + 400)  # type: ignore[misc]
                proxy.stall()
                await until(lambda: gateways.waiting > 30)  # on their way, and swallowed by the cut
                proxy.cut()
            proxy.refuse()
            await until(lambda: gateways.waiting > 30)
            proxy.resume()
            await until(lambda: gateways.waiting == 0)
            stop.set()
            await fleet
        published = sum(gateways.published.values())
        await until(lambda: heard.n >= published)
    assert gateways.waiting == 0
    assert_without_gap(set(heard.readings), city)
    assert len(set(heard.readings)) + heard.n_samples >= published


async def test_the_command_says_how_many_readings_the_broker_took(broker: mosquitto.Broker) -> None:
    settings = Settings(mqtt=Mqtt(port=broker.port))
    async with subscriber(broker) as heard:
        said = json.loads(await run_fleet("demo", settings, asyncio.Event(), 2.5, None))
        await until(lambda: heard.n >= said["published"])
    assert heard.n == said["published"] == sum(said["by_domain"].values()) > 0


async def test_a_channel_is_heard_in_the_order_of_its_times(
    broker: mosquitto.Broker, city: Catalog, packs: list[Pack]
) -> None:
    stop = asyncio.Event()
    gateways = Gateways(city, packs, FleetOptions(readings_per_s=5000.0, tick_s=0.1), Mqtt(port=broker.port))
    async with subscriber(broker) as heard, asyncio.TaskGroup() as tasks:
        fleet = tasks.create_task(gateways.run(stop))
        await until(lambda: heard.n > 5000)
        stop.set()
        await fleet
    newest: dict[str, int] = {}
    for name, ts_us in heard.readings:
        assert ts_us > newest.get(name, 0)
        newest[name] = ts_us
