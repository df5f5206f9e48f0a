"""The MQTT source against a real broker: what is not acknowledged comes again, whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from conftest import free_port
from e2e.service import Sent, publisher, seeded
from integration.faultproxy import FaultProxy
from lifeline_stream.errors import FatalError
from lifeline_stream.sources import Message, mqtt
from lifeline_stream.sources import broker as demo_broker
from lifeline_stream.sources.mqtt import OVERHEAD_BYTES, SESSION_TAKEN_OVER, MqttSource
from mosquitto import Broker

DEADLINE_S = 30.0
CLIENT_ID = "lifeline-test"
CONNECT, SUBSCRIBE = 0x10, 0x82


async def until(holds: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)
    assert holds(), what


@contextlib.asynccontextmanager
async def running(port: int, **more: Any) -> AsyncIterator[MqttSource]:
    """A source that is connected; at the end it says farewell."""
    source = MqttSource("127.0.0.1", port, client_id=CLIENT_ID, rng=seeded(1), **more)
    task = asyncio.create_task(source.run())
    try:
        await until(lambda: source.connected or task.done(), "connected")
        yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def numbered(n: int, first: int = 0, size: int = 0) -> list[Sent]:
    return [Sent("lifeline/v1/G1/D1/up", b"%d" % i + b" " * size) for i in range(first, first + n)]


async def publish(broker: Broker, messages: list[Sent], qos: int = 1) -> None:
    async with publisher(broker) as gateways:
        await gateways.publish(messages, qos)


async def taken(source: MqttSource, n: int) -> list[Message]:
    """The next n messages; none comes after them for a moment."""
    found: list[Message] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < n:
            found += await source.take(1.0)
    return found + await source.take(0.3)


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.payload) for message in messages]


async def settled(source: MqttSource) -> None:
    """Wait until the broker has read what was sent: a ping follows it, and is answered."""
    assert source._client is not None
    paho = source._client._client
    paho._send_pingreq()
    await until(lambda: paho._ping_t == 0, "the ping is answered")


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(broker.host, broker.port).running() as found:
        yield found


async def test_a_cut_brings_again_exactly_what_was_not_acknowledged(broker: Broker, proxy: FaultProxy) -> None:
    async with running(proxy.port) as source:
        await publish(broker, numbered(2500))
        first = await taken(source, 2500)
        assert numbers(first) == list(range(2500))
        rng = seeded(3)
        safe = [message for message in first if rng.random() < 0.4]
        for i in range(0, len(safe), 70):
            source.acknowledge(safe[i : i + 70])
        await settled(source)
        proxy.cut()
        again = await taken(source, len(first) - len(safe))
        assert numbers(again) == sorted(set(range(2500)) - set(numbers(safe)))
        assert source.in_flight == len(again)
        source.acknowledge(again)
        await settled(source)
        proxy.cut()
        await until(lambda: source.connected and source._connection == 3, "connected again")
        assert await source.take(0.3) == []


async def test_what_a_broker_holds_while_we_are_away_comes_and_is_acknowledged(broker: Broker) -> None:
    stale: list[int] = []
    async with running(broker.port):
        pass
    await publish(broker, numbered(5000))
    source = MqttSource("127.0.0.1", broker.port, client_id=CLIENT_ID, on_stale_ack=stale.append)
    task = asyncio.create_task(source.run())
    found: list[Message] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < 5000:
            found += (some := await source.take(1.0))
            source.acknowledge(some)  # also what comes before the subscription is answered
    assert numbers(found) == list(range(5000))
    assert (source.in_flight, stale) == (0, [])
    await until(lambda: source.connected, "connected")
    await settled(source)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with running(broker.port) as back:
        assert await back.take(0.5) == []


async def test_after_the_broker_restarts_we_are_back_and_what_was_not_acknowledged_too(broker: Broker) -> None:
    async with running(broker.port) as source:
        await publish(broker, numbered(200))
        first = await taken(source, 200)
        source.acknowledge(first[:50])
        await settled(source)
        await asyncio.to_thread(broker.stop)
        await until(lambda: not source.connected, "gone")
        await asyncio.to_thread(broker.start)
        again = await taken(source, 150)
        assert numbers(again) == list(range(50, 200))


async def test_a_broker_that_was_killed_brings_again_all_that_it_had_saved(broker: Broker, tmp_path: Path) -> None:
    saved = tmp_path / "mosquitto" / "persistence" / "mosquitto.db"
    async with running(broker.port) as source:
        await publish(broker, numbered(100))
        first = await taken(source, 100)
        await publish(broker, [Sent("lifeline/v1/G1/last/up", b"100")])
        last = await taken(source, 1)
        async with asyncio.timeout(DEADLINE_S):
            while b"G1/last/up" not in (await asyncio.to_thread(saved.read_bytes) if saved.exists() else b""):
                await asyncio.sleep(0.1)
        source.acknowledge(first[:50])
        await settled(source)
        await asyncio.to_thread(broker.kill)
        await until(lambda: not source.connected, "gone")
        await asyncio.to_thread(broker.start)
        again = numbers(await taken(source, 51))
        assert set(numbers(first[50:] + last)) <= set(again)
        assert len(again) == len(set(again))


async def test_an_acknowledgement_is_never_sent_on_another_connection(broker: Broker, proxy: FaultProxy) -> None:
    stale: list[int] = []
    async with running(proxy.port, on_stale_ack=stale.append) as source:
        await publish(broker, numbered(100))
        first = await taken(source, 100)
        proxy.cut()
        second = await taken(source, 100)
        assert numbers(second) == numbers(first)
        source.acknowledge(first)
        assert stale == [100]
        assert source.in_flight == 100
        await settled(source)
        proxy.cut()
        assert numbers(await taken(source, 100)) == numbers(first)


async def test_an_acknowledgement_is_sent_once(broker: Broker) -> None:
    async with running(broker.port) as source:
        await publish(broker, numbered(2))
        first = await taken(source, 2)
        source.acknowledge(first[:1])
        source.acknowledge(first[:1])
        assert source.in_flight == 1
        await settled(source)
        assert source.connected


async def test_a_broker_that_speaks_no_mqtt_5_is_spoken_to_in_3_1_1() -> None:
    async with demo_broker._amqtt() as old, running(old.port) as source:
        assert source.protocol == "3.1.1"
        async with aiomqtt.Client("127.0.0.1", old.port) as gateway:
            for message in numbered(20):
                await gateway.publish(message.topic, message.payload, qos=1)
        found = await taken(source, 20)
        assert numbers(found) == list(range(20))
        source.acknowledge(found)
        await settled(source)
        assert source.in_flight == 0


async def test_a_session_that_another_process_took_is_left_to_it(broker: Broker) -> None:
    asked = asyncio.Event()

    async def ask() -> bool:
        asked.set()
        raise FatalError("another process owns the shard")

    source = MqttSource("127.0.0.1", broker.port, client_id=CLIENT_ID, is_ours=ask)
    task = asyncio.create_task(source.run())
    await until(lambda: source.connected, "connected")
    async with aiomqtt.Client(
        broker.host, broker.port, identifier=CLIENT_ID, protocol=aiomqtt.ProtocolVersion.V5
    ) as other:
        await asyncio.wait([task], timeout=DEADLINE_S)
        assert asked.is_set()
        assert isinstance(task.exception(), FatalError)
        await other.publish("still/here", b"", qos=1)


async def test_a_session_that_a_stranger_took_is_taken_back(broker: Broker) -> None:
    n_asked = 0

    async def ask() -> bool:
        nonlocal n_asked
        n_asked += 1
        return True

    async with running(broker.port, is_ours=ask) as source:
        with contextlib.suppress(aiomqtt.MqttError):
            stranger = aiomqtt.Client(
                broker.host, broker.port, identifier=CLIENT_ID, protocol=aiomqtt.ProtocolVersion.V5
            )
            async with stranger:
                await until(lambda: n_asked == 1, "asked")
                await asyncio.wait_for(stranger._disconnected, DEADLINE_S)
        await until(lambda: source.connected, "connected again")
        assert n_asked == 1


async def test_a_client_that_was_told_of_the_takeover_comes_back_only_when_the_session_is_known_to_be_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "DOUBT_PAUSE_S", 0.05)
    answers, log = [False, False, True], []

    async def ask() -> bool:
        log.append("asked")
        return answers.pop(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A broker that speaks just enough: the first connection is told that its session was taken over."""
        log.append("connected")
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, length = await reader.readexactly(2)
                packet = await reader.readexactly(length)
                if kind == CONNECT:
                    writer.write(b"\x20\x03\x00\x00\x00")
                if kind == SUBSCRIBE:
                    writer.write(b"\x90\x04" + packet[:2] + b"\x00\x01")
                    if log.count("connected") == 1:
                        writer.write(bytes([0xE0, 1, SESSION_TAKEN_OVER]))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        async with running(server.sockets[0].getsockname()[1], is_ours=ask) as source:
            await until(lambda: log.count("connected") == 2 and source.connected, "connected again")
        assert log == ["connected", "asked", "asked", "asked", "connected"]


async def test_under_pressure_qos_0_is_shed_and_counted_and_qos_1_is_not(broker: Broker) -> None:
    n_shed = 0

    def shed() -> None:
        nonlocal n_shed
        n_shed += 1

    async with running(broker.port, max_waiting_bytes=200 * OVERHEAD_BYTES, on_shed=shed) as source:
        await publish(broker, numbered(500), qos=0)
        await publish(broker, numbered(50, first=500))
        await until(lambda: source.in_flight == 50, "all of QoS 1 has come")
        found = numbers(await source.take(1.0))
        assert found[-50:] == list(range(500, 550))
        assert len(found) + n_shed == 550
        assert n_shed > 300


async def test_what_waits_is_bounded_and_nothing_of_it_is_lost(broker: Broker) -> None:
    size, n = 2000, 3000
    most = 100 * (size + OVERHEAD_BYTES)
    async with running(broker.port, max_waiting_bytes=most) as source:
        await publish(broker, numbered(n, size=size))
        await until(lambda: source.paused, "the socket is left unread")
        assert most < source._waiting_bytes <= most + 2 * (size + OVERHEAD_BYTES)
        found = await taken(source, n)
        assert numbers(found) == list(range(n))
        source.acknowledge(found)
        await settled(source)


async def test_an_encrypted_connection_is_checked_against_the_ca(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    await asyncio.to_thread(subprocess.run, [*command, *subject], check=True, capture_output=True)
    extra = f"allow_anonymous true\ncertfile {certificate}\nkeyfile {key}"
    broker = Broker(tmp_path / "mosquitto", free_port(), extra)
    try:
        broker.start()
        async with running(broker.port, tls_ca_file=certificate) as source:
            async with aiomqtt.Client("127.0.0.1", broker.port, tls_context=source._tls) as gateway:
                for message in numbered(300, size=500):
                    await gateway.publish(message.topic, message.payload, qos=1)
            found = await taken(source, 300)
            assert numbers(found) == list(range(300))
            source.acknowledge(found)
            await settled(source)
            assert source.in_flight == 0
    finally:
        broker.kill()
