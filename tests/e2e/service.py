"""`lifeline run` as a process, a small city for it, a publisher and a webhook receiver."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiomqtt
import httpx
from paho.mqtt.client import Client as Paho
from prometheus_client.parser import text_string_to_metric_families

from lifeline_stream.notify.receiver import Receiver
from lifeline_stream.service.http import bind, serve
from lifeline_stream.settings import Http
from lifeline_stream.store.database import connected
from mosquitto import Broker

DEADLINE_S = 120.0
AT_ONCE = 500
"""Messages that a publisher has on their way to the broker at most."""


async def until(holds: Callable[[], Awaitable[bool]], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + deadline_s
    while not await holds():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.05)


# ── a city ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Device(NamedTuple):
    """A device with its channels; each is named `device/sensor`, or `sensor` where the device has no other name."""

    id: str
    gateway: str
    domain: str
    sensors: tuple[str, ...]
    unit: str = ""
    every_s: float = 300.0


class City(NamedTuple):
    """A registry and a topology on the disk."""

    topology: Path
    registry: Path


def write_city(
    folder: Path, devices: Sequence[Device], *, shard: str = "s1", clock: str = "received", bare: bool = False
) -> City:
    """Write them: one county, one asset for each domain; `bare` channels are named as their device alone."""
    registry = folder / "city"
    registry.mkdir(parents=True)
    domains = sorted({device.domain for device in devices})
    tables: dict[str, list[tuple[Any, ...]]] = {
        "districts": [("district_id", "name", "kind", "parent"), ("north", "北县", "county", "")],
        "assets": [
            ("asset_id", "name", "domain", "kind", "districts", "owner", "lon", "lat", "risk"),
            *((f"A-{d}", f"{d} 一号", d, "chamber", "north", "owner", 117.0, 31.8, "high") for d in domains),
        ],
        "devices": [
            ("device_id", "gateway_id", "asset_id", "model"),
            *((d.id, d.gateway, f"A-{d.domain}", "m") for d in devices),
        ],
        "channels": [
            ("channel_id", "device_id", "sensor", "code", "unit", "every_s"),
            *((d.id if bare else f"{d.id}/{s}", d.id, s, "", d.unit, d.every_s) for d in devices for s in d.sensors),
        ],
        "adjacency": [("from_asset", "to_asset", "relation", "distance_m")],
    }
    for name, rows in tables.items():
        with (registry / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    topology = folder / f"{shard}.toml"
    source = '[source]\nkind = "mqtt"\n'
    topology.write_text(f'shard = "{shard}"\nregistry = "{registry}"\nclock = "{clock}"\n{source}', encoding="utf-8")
    return City(topology, registry)


# ── the pipeline ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Service:
    """One `lifeline run`, started and ended as often as a test likes; its settings stay."""

    def __init__(self, folder: Path, city: City, dsn: str, broker: Broker, **settings: Any) -> None:
        """Nothing runs yet; `settings` are `section__key`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        self._city = city
        self._settings = {
            "data_dir": folder / "data",
            "store__dsn": dsn,
            "mqtt__host": broker.host,
            "mqtt__port": broker.port,
            "http__port": 0,
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start the process; `ready` waits for it."""
        own = {f"LIFELINE__{key.upper()}": str(value) for key, value in self._settings.items()}
        command = [Path(sys.executable).with_name("lifeline"), "run", self._city.topology]
        with self._log.open("ab") as out:
            self._log_start = out.tell()
            self._process = subprocess.Popen(command, env=os.environ | own, stdout=out, stderr=out)

    @property
    def log(self) -> str:
        """What it has said over all its lives."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    @property
    def exit_code(self) -> int | None:
        """Of the process that was started last; None while it runs."""
        return self._process.poll() if self._process else None

    async def ready(self) -> None:
        """Wait until it says that it takes readings."""
        await until(self.is_ready, f"ready\n{self.log}")

    async def is_ready(self) -> bool:
        """What `/readyz` says."""
        assert self.exit_code is None, self.log
        try:
            return (await self._get("/readyz")).is_success
        except httpx.TransportError:
            return False

    async def is_idle(self) -> bool:
        """Whether all that it took is acknowledged."""
        return await self.metric("lifeline_oldest_unacknowledged_seconds") == 0

    async def conditions(self) -> dict[str, bool]:
        """The conditions of `/readyz` by name."""
        found = (await self._get("/readyz")).json()["conditions"]
        return {name: condition["holds"] for name, condition in found.items()}

    async def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels."""
        text = (await self._get("/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def _get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.get(f"http://127.0.0.1:{self._port()}{path}", timeout=5.0)

    def _port(self) -> int:
        """Where it serves, as it says in its log."""
        with self._log.open(encoding="utf-8") as file:
            file.seek(self._log_start)
            for line in file:
                if line.startswith("{") and line.endswith("\n") and (event := json.loads(line))["event"] == "serving":
                    return int(event["port"])
        raise httpx.ConnectError("it does not serve yet")

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE_S)

    async def terminate(self) -> float:
        """SIGTERM; how long it took to end, s."""
        assert self._process is not None
        started = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._process.wait, DEADLINE_S)
        return time.monotonic() - started

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        """Start it and wait until it is ready; whatever life it is in at the end is killed."""
        try:
            self.start()
            await self.ready()
            yield self
        finally:
            self.kill()


# ── gateways ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Sent(NamedTuple):
    """One message of a gateway."""

    topic: str
    payload: bytes


def topic_of(gateway: str, device: str) -> str:
    return f"lifeline/v1/{gateway}/{device}/up"


def columns(device: Device, rows: Sequence[tuple[str, int, float]]) -> Sent:
    """A columnar message of (sensor, ms since 1970, value)."""
    names = list(dict.fromkeys(name for name, _, _ in rows))
    message = {
        "channels": names,
        "ix": [names.index(name) for name, _, _ in rows],
        "ts": [ts_ms for _, ts_ms, _ in rows],
        "values": [value for _, _, value in rows],
    }
    return Sent(topic_of(device.gateway, device.id), json.dumps(message).encode())


def waveform(device: Device, sensor: str, t0_ms: int, period_ms: float, values: Sequence[float]) -> Sent:
    message = {"channel": sensor, "t0": t0_ms, "period": period_ms, "values": list(values)}
    return Sent(topic_of(device.gateway, device.id), json.dumps(message).encode())


class Publisher:
    """Gateways: what `publish` returned from, the broker has acknowledged."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._paho: Paho = client._client

    async def publish(self, messages: Iterable[Sent], qos: int = 1) -> int:
        """Publish in order; how many."""
        n, on_their_way = 0, []
        for message in messages:
            on_their_way.append(self._paho.publish(message.topic, message.payload, qos))
            n += 1
            if len(on_their_way) >= AT_ONCE:
                await self._acknowledged(on_their_way)
        await self._acknowledged(on_their_way)
        return n

    async def _acknowledged(self, on_their_way: list[Any]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            for info in on_their_way:
                while not info.is_published():
                    await asyncio.sleep(0.002)
        on_their_way.clear()


@contextlib.asynccontextmanager
async def publisher(broker: Broker) -> AsyncIterator[Publisher]:
    """A connected publisher."""
    client = aiomqtt.Client(broker.host, broker.port, identifier="gateways", max_inflight_messages=AT_ONCE)
    async with client:
        yield Publisher(client)


# ── who is told ──────────────────────────────────────────────────────────────────────────────────────────────────────

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Told(NamedTuple):
    """One verified webhook message."""

    at_s: float
    """When it came, s since 1970."""
    body: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.body["id"])


class Desk:
    """A receiver of webhooks that keeps what it got."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.receiver = Receiver(SECRET, lambda body: self.told.append(Told(time.time(), body)))
        self.settings: dict[str, Any] = {}

    def about(self, channel: str, detector: str = "") -> list[Told]:
        """What it was told of a channel."""
        return [
            told
            for told in self.told
            if told.body["data"]["channel"] == channel and detector in told.body["data"]["detector"]
        ]


@contextlib.asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    """A receiver that runs, and the settings that lead to it."""
    found = Desk()
    sock = bind(Http(host="127.0.0.1", port=0))
    secret = folder / "webhook.secret"
    secret.write_text(SECRET, encoding="utf-8")
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/alarms"
    found.settings = {"webhook__url": url, "webhook__secret_file": secret}
    up = asyncio.Event()
    serving = asyncio.create_task(serve(found.receiver.app(), sock, up.set))
    await up.wait()
    try:
        yield found
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


# ── what is stored ───────────────────────────────────────────────────────────────────────────────────────────────────


async def rows_of(dsn: str, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    async with connected(dsn, "test") as connection:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]


async def count(dsn: str, query: str, *arguments: Any) -> int:
    return int((await rows_of(dsn, f"SELECT count(*) FROM {query}", *arguments))[0][0])  # noqa: S608 - our own text


READINGS = "SELECT channel, (extract(epoch FROM ts) * 1000)::bigint, value FROM reading_v"
"""Readings as (channel, ms since 1970, value)."""
BLOCKS = "SELECT c.id, (extract(epoch FROM w.t0) * 1000)::bigint, w.n FROM waveform w JOIN channel c USING (channel)"
"""Waveforms as (channel, ms since 1970, samples)."""
ALARMS = """
SELECT alarm_id, channel, detector, class, severity, peak_severity, active, onset, raised_at, cleared_at, value,
       limit_value, found_late, withdrawn
FROM alarm_v ORDER BY raised_at, alarm_id"""
EVENTS = """
SELECT event_id, alarm_id, channel, detector, kind, at, severity, value, limit_value, late
FROM alarm_event_v ORDER BY at, event_id"""


async def until_stored(dsn: str, n: int, table: str = "reading", deadline_s: float = DEADLINE_S) -> None:
    """Wait until a table holds so many rows."""
    deadline = time.monotonic() + deadline_s
    while (found := await count(dsn, table)) < n:
        assert time.monotonic() < deadline, f"{found} of {n} rows in {table} after {deadline_s} s"
        await asyncio.sleep(0.1)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a seeded trace
