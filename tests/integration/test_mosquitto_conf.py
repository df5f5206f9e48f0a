"""The shipped broker configuration: what it keeps, what bounds it, and who may do what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from integration.brokers import broker_with, with_users
from lifeline_stream.sources.probe import N_MESSAGES, BrokerProbe
from mosquitto import SHIPPED, Broker

N = 3_000


def session(broker: Broker) -> aiomqtt.Client:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    return aiomqtt.Client(
        broker.host, broker.port, identifier="away", protocol=aiomqtt.ProtocolVersion.V5, clean_start=False,
        properties=properties,
    )  # fmt: skip


async def publish(broker: Broker, topic: str) -> None:
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await asyncio.gather(*(client.publish(topic, b"%d" % i, qos=1, timeout=60) for i in range(N)))


async def test_what_is_queued_survives_a_stop_and_after_an_autosave_a_kill(broker: Broker, tmp_path: Path) -> None:
    saved = tmp_path / "mosquitto" / "persistence" / "mosquitto.db"
    async with asyncio.timeout(60):
        async with session(broker) as away:
            await away.subscribe("kept/#", qos=1)
        await publish(broker, "kept/by/stop")
        broker.stop()
        broker.start()
        await publish(broker, "kept/by/kill")
        while b"kept/by/kill" not in await asyncio.to_thread(saved.read_bytes):
            await asyncio.sleep(0.1)
        broker.kill()
        broker.start()
        seen = [found async for found in received(broker, 2 * N)]
    assert sorted(seen) == sorted((f"kept/by/{how}", b"%d" % i) for how in ("stop", "kill") for i in range(N))


async def received(broker: Broker, n: int) -> AsyncIterator[tuple[str, bytes]]:
    async with session(broker) as back:
        for _ in range(n):
            message = await anext(back.messages)
            yield message.topic.value, bytes(message.payload)


async def test_what_is_queued_has_a_bound_in_bytes(tmp_path: Path) -> None:
    text = SHIPPED.read_text()
    assert "max_queued_bytes 1073741824" in text
    with broker_with(tmp_path, text.replace("1073741824", "1000")) as bounded:
        probed = await BrokerProbe(bounded.host, bounded.port).run()
    assert 0 < probed.n_back < N_MESSAGES


async def test_a_gateway_publishes_under_its_own_name_only(tmp_path: Path) -> None:
    extra, _ = with_users(tmp_path, "lifeline", "G1")
    topics = ("lifeline/v1/G1/D1/up", "lifeline/v1/G2/D1/up", "lifeline/v1/lifeline/D1/up", "lifeline/doctor/x", "else")
    with broker_with(tmp_path, "", extra) as guarded:
        pipeline = aiomqtt.Client(guarded.host, guarded.port, username="lifeline", password="secret")  # noqa: S106
        gateway = aiomqtt.Client(guarded.host, guarded.port, username="G1", password="secret")  # noqa: S106
        async with asyncio.timeout(30), pipeline, gateway:
            await pipeline.subscribe([("lifeline/v1/+/+/up", 1), ("#", 1)])
            await gateway.subscribe([("#", 1)])
            for topic in topics:
                await gateway.publish(topic, topic.encode(), qos=1)
            await pipeline.publish("lifeline/doctor/end", b"end", qos=1)
            seen = []
            async for message in pipeline.messages:
                if message.payload == b"end":
                    break
                seen.append(message.topic.value)
            assert set(seen) == {"lifeline/v1/G1/D1/up"}
            await gateway.publish("lifeline/v1/G1/D1/up", b"again", qos=1)
            assert len(gateway.messages) == 0
