"""The gateways of the simulated city on a real broker.

They speak MQTT 3.1.1 at QoS 1, as most gateways in the field do and every broker understands. A message is kept until
the broker has acknowledged it and is sent again after a reconnect, so it may come twice and is never lost. While the
broker is slow or away the city waits: what it has to say is said later, in order.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import aiomqtt
import msgspec
import numpy as np
import structlog
from paho.mqtt.client import MQTT_ERR_SUCCESS

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.packs import Pack
from lifeline_stream.fleet.encoding import Encoder, Outgoing
from lifeline_stream.fleet.options import FleetOptions
from lifeline_stream.fleet.simulation import Fleet, Load, Readings
from lifeline_stream.settings import Mqtt, secret_of
from lifeline_stream.sources.mqtt import tls_context

if TYPE_CHECKING:
    from paho.mqtt.client import Client as Paho

log = structlog.get_logger(__name__)

WINDOW = 500
"""Messages of a connection that the broker may owe an acknowledgement; with more the city waits."""
CONNECT_TIMEOUT_S = 5.0
BACK_OFF_S = (0.2, 10.0)
DRAIN_S = 5.0
"""How long the end waits for acknowledgements."""


class Gateways:
    """All gateways of a city over a few connections."""

    def __init__(self, catalog: Catalog, packs: Sequence[Pack], options: FleetOptions, mqtt: Mqtt) -> None:
        """Nothing is connected yet.

        Raises:
            ConfigError: a secret can't be read.
        """
        self._catalog, self._packs, self._options = catalog, packs, options
        self._domains = sorted({channel.domain for channel in catalog.channels})
        self._published = np.zeros(len(self._domains), np.int64)
        password = secret_of(mqtt.password_file, "mqtt.password_file")
        self._links = [Link(mqtt, password, n, self._count) for n in range(options.connections)]

    @property
    def published(self) -> dict[str, int]:
        """Readings that the broker has acknowledged, by domain; each counts once, however often it was sent."""
        return dict(zip(self._domains, self._published.tolist(), strict=True))

    @property
    def waiting(self) -> int:
        """Messages that the broker has not acknowledged."""
        return sum(link.waiting for link in self._links)

    def _count(self, message: Outgoing) -> None:
        self._published += message.counts

    async def run(self, stop: asyncio.Event, truth: Path | None = None) -> None:
        """Publish in real time until `stop`; the ground truth goes to a file beside.

        Raises:
            ConfigError: something is declared at a place where it can't happen.
        """
        start_us = _wall_us()
        kind = Load if self._options.readings_per_s else Fleet
        city = kind(self._catalog, self._packs, self._options, start_us)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(link.run(), name="mqtt link") for link in self._links]
            speaking = tasks.create_task(self._speak(city, start_us, stop, truth), name="gateways")
            stopping = tasks.create_task(_until(stop), name="stop")
            await asyncio.wait((speaking, stopping), return_when=asyncio.FIRST_COMPLETED)
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await asyncio.wait([speaking])
                    await asyncio.gather(*(link.drained() for link in self._links))
            for task in (*background, speaking, stopping):
                task.cancel()

    async def _speak(self, city: Readings, at_us: int, stop: asyncio.Event, truth: Path | None) -> None:
        encoder = Encoder(self._catalog.channels, self._domains, alone=not self._options.readings_per_s)
        tick_us = round(self._options.tick_s * 1e6)
        if truth is not None:
            _write(truth, [], "wb")
        while not await _stopped(stop, at_us + tick_us):
            tick = city.readings(at_us, at_us + tick_us)
            at_us += tick_us
            if truth is not None:
                _write(truth, city.truth(at_us), "ab")
            for message in encoder.messages(tick, _wall_us() // 1000):
                await self._links[message.gateway % len(self._links)].send(message)
            await asyncio.sleep(0)


class Link:
    """One connection that several gateways share."""

    def __init__(self, mqtt: Mqtt, password: str, number: int, published: Callable[[Outgoing], None]) -> None:
        """Not connected yet; `published` is told of each message that the broker has acknowledged."""
        self._mqtt, self._password, self._published = mqtt, password, published
        self._name = f"fleet-{os.getpid()}-{number}"
        self._waiting: deque[Outgoing] = deque()
        self._flying: dict[int, Outgoing] = {}
        self._paho: Paho | None = None
        self._moved = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Messages that the broker has not acknowledged."""
        return len(self._waiting) + len(self._flying)

    async def send(self, message: Outgoing) -> None:
        """Publish as soon as there is room."""
        while self.waiting >= WINDOW:
            await self._movement()
        self._waiting.append(message)
        self._flush()

    async def drained(self) -> None:
        """Wait until everything is acknowledged."""
        while self.waiting:
            await self._movement()

    async def _movement(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        n_failed, told = 0, ""
        while True:
            client = self._client()
            was_up, error = False, "closed"
            try:
                async with client:
                    was_up, told = True, ""
                    self._paho = client._client  # noqa: SLF001 - aiomqtt waits for each acknowledgement
                    self._flush()
                    await asyncio.wait([client._disconnected])  # noqa: SLF001
                    client._disconnected.result()  # noqa: SLF001
            except (aiomqtt.MqttError, OSError) as failure:
                error = str(failure)
            finally:
                self._paho = None
                self._waiting.extendleft(reversed(self._flying.values()))
                self._flying.clear()
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError  # aiomqtt hides it behind its own error when the broker is silent
            n_failed = 0 if was_up else n_failed + 1
            if error != told:
                log.warning("gateways lost the broker", link=self._name, error=error)
                told = error
            await asyncio.sleep(min(BACK_OFF_S[1], BACK_OFF_S[0] * 2.0**n_failed) * random.uniform(0.5, 1.0))  # noqa: S311

    def _client(self) -> aiomqtt.Client:
        mqtt = self._mqtt
        client = aiomqtt.Client(
            mqtt.host,
            mqtt.port,
            username=mqtt.username or None,
            password=self._password or None,
            identifier=self._name,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=True,
            tls_context=tls_context(mqtt.tls_ca_file) if mqtt.tls_ca_file else None,
            max_inflight_messages=WINDOW,
            timeout=CONNECT_TIMEOUT_S,
        )
        client._client.on_publish = self._acknowledged  # noqa: SLF001
        client._client.disable_logger()  # noqa: SLF001
        return client

    def _flush(self) -> None:
        """Hand to the connection what waits, in order."""
        while self._paho is not None and self._waiting:
            message = self._waiting[0]
            sent = self._paho.publish(message.topic, message.payload, qos=1)
            if sent.rc != MQTT_ERR_SUCCESS:
                return  # the connection is going; all that is not acknowledged is sent again over the next one
            self._flying[sent.mid] = self._waiting.popleft()

    def _acknowledged(self, _client: Paho, _data: Any, mid: int, *_: Any) -> None:  # noqa: ANN401 - paho's callback
        message = self._flying.pop(mid, None)
        if message is not None:
            self._published(message)
            self._moved.set()


def _wall_us() -> int:
    return time.time_ns() // 1000


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _stopped(stop: asyncio.Event, until_us: int) -> bool:
    """Wait for a time; whether `stop` came first."""
    try:
        async with asyncio.timeout(max(0.0, (until_us - _wall_us()) * 1e-6)):
            return await stop.wait()
    except TimeoutError:
        return stop.is_set()


def _write(path: Path, lines: Iterable[dict[str, Any]], mode: Literal["wb", "ab"]) -> None:
    with path.open(mode) as file:
        file.writelines(msgspec.json.encode(line) + b"\n" for line in lines)
