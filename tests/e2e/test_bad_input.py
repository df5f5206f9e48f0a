"""What no gateway should send: each is refused with a reason, and the stream goes on."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from e2e.service import (
    READINGS,
    Device,
    Sent,
    Service,
    columns,
    now_ms,
    publisher,
    rows_of,
    topic_of,
    until,
    until_stored,
    write_city,
)
from lifeline_stream.store.writer import PAYLOAD_BYTES
from mosquitto import Broker

CHAMBER = Device("C1", "G1", "gas", ("methane", "water_level"))
NEIGHBOUR = Device("C2", "G2", "gas", ("methane",))
TOPIC = topic_of("G1", "C1")
YEAR_1970_MS, YEAR_2100_MS = 3_600_000, 4_102_444_800_000


class Bad(NamedTuple):
    """A message, the reason of its reject, and words that its detail must hold."""

    payload: bytes
    reason: str
    says: str
    topic: str = TOPIC
    n_readings: int = 1


def _json(message: object) -> bytes:
    return json.dumps(message).encode()


def _single(value: str, ts: str = "") -> bytes:
    return f'{{"ts": {ts or now_ms()}, "values": {{"methane": {value}}}}}'.encode()


def _named(name: str, **more: object) -> bytes:
    return _json({"ts": now_ms(), "values": {name: 0.1}, **more})


def bad_messages() -> list[Bad]:
    now = now_ms()
    return [
        Bad(b"", "malformed", "not JSON"),
        Bad(b"methane is fine today", "malformed", "not JSON"),
        Bad(b'{"ts": 1', "malformed", "not JSON"),
        Bad(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "malformed", "not UTF-8"),
        Bad(b'{"ts": 1, "values": {"methane": "\xff\xfe"}}', "malformed", "not UTF-8"),
        Bad(b'{"ts": 1, "values": {"\xc0\x80": 1}}', "malformed", "not UTF-8"),
        Bad(b"42", "malformed", "expected an object"),
        Bad(b"null", "malformed", "expected an object"),
        Bad(b'{"reading": 1}', "malformed", "none of"),
        Bad(_single('"high"'), "malformed", "expected a number, found a text"),
        Bad(_single('{"value": 1}'), "malformed", "expected a number, found an object"),
        Bad(_single("0.1", '"yesterday"'), "malformed", "RFC 3339"),
        Bad(_single("0.1", "1e30"), "malformed", "no time"),
        Bad(_json({"ts": now, "values": [0.1]}), "malformed", "expected an object"),
        Bad(_json([[{"ts": now, "values": {"methane": 0.1}}]]), "malformed", "found a list"),
        Bad(_single("NaN"), "not_finite", "no finite number"),
        Bad(_single("-Infinity"), "not_finite", "no finite number"),
        Bad(_single("1e400"), "not_finite", "no finite number"),
        Bad(_single("1" + "0" * 400), "not_finite", "no finite number"),
        Bad(b"[" * 10_000_000, "too_large", "10000000 bytes"),
        Bad(b"[" * 500_000 + b"]" * 500_000, "malformed", "nested deeper"),
        Bad(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "malformed", "nested deeper"),
        Bad(_named("radiation"), "unknown_channel", "'radiation'"),
        Bad(_named("methane"), "unknown_channel", "no device 'C9'", topic_of("G1", "C9")),
        Bad(b'{"ts": %d, "values": {"\\ud800": 1}}' % now, "unknown_channel", "no channel"),
        Bad(_named("methane", unit="kPa"), "foreign_unit", "%VOL"),
        Bad(_named("methane", unit="furlong"), "foreign_unit", "furlong"),
        Bad(_named("methane"), "foreign_device", "another gateway", topic_of("G2", "C1")),
        Bad(_named("methane"), "foreign_device", "another gateway", topic_of("G 1 网关", "C1")),
        Bad(_named("C2/methane"), "foreign_device", "another gateway"),
        Bad(_named("methane"), "malformed", "is not lifeline/v1/GATEWAY/DEVICE/up", "lifeline/v1//C1/up"),
        Bad(_single("0.1", str(YEAR_1970_MS)), "clock_past", "before the year 2000"),
        Bad(_single("0.1", str(YEAR_2100_MS)), "clock_future", "ahead of received time"),
        Bad(_json({"channels": [], "ts": [], "values": []}), "empty", "no reading"),
        Bad(_json({"channels": ["methane"], "ts": [], "values": [], "ix": []}), "empty", "no reading"),
        Bad(_json({"ts": now, "values": {}}), "empty", "no reading"),
        Bad(_json([]), "empty", "no reading"),
        Bad(_json({"channel": "methane", "t0": now, "period": 10, "values": []}), "empty", "no sample"),
        Bad(
            _json({"channels": ["methane"], "ix": [0, 0], "ts": [now, now - 1, now - 2], "values": [1, 2, 3]}),
            "length_mismatch", "ix 2", n_readings=3,
        ),
        Bad(_json({"channels": ["methane"], "ix": [7], "ts": [now], "values": [1]}), "malformed", "no index"),
        Bad(_named("meth\0ane"), "malformed", "no channel name"),
        Bad(_named("methane", unit="k\0Pa"), "foreign_unit", "Pa"),
        Bad(_json({"channel": "methane", "t0": now, "period": 0, "values": [1.0]}), "malformed", "period"),
    ]  # fmt: skip


async def test_bad_input_is_refused_with_a_reason_and_the_stream_goes_on(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    service = Service(tmp_path, write_city(tmp_path, [CHAMBER, NEIGHBOUR]), store_dsn, broker)
    bad = bad_messages()
    good_ms = now_ms() - 1000 * (len(bad) + 1)
    async with service.running(), publisher(broker) as gateways:
        for k, message in enumerate(bad):
            await gateways.publish(
                [
                    Sent(message.topic, message.payload),
                    columns(CHAMBER, [("water_level", good_ms + 1000 * k, float(k))]),
                ]
            )
        await until_stored(store_dsn, len(bad))
        await until(service.is_idle, "everything acknowledged")
        assert await service.metric("lifeline_rejected_readings_total") == sum(b.n_readings for b in bad)
        assert await service.is_ready()
    stored = await rows_of(store_dsn, f"{READINGS} ORDER BY 2")
    assert stored == [("C1/water_level", good_ms + 1000 * k, float(k)) for k in range(len(bad))]

    rejects = await rows_of(store_dsn, "SELECT source, payload, reason, n_readings, detail FROM reject_v ORDER BY id")
    found = [(source, payload, reason, n) for source, payload, reason, n, _ in rejects]
    assert found == [(b.topic, b.payload[:PAYLOAD_BYTES], b.reason, b.n_readings) for b in bad]
    details = [detail for *_, detail in rejects]
    assert [(b.says, detail) for b, detail in zip(bad, details, strict=True) if b.says not in detail] == []
    assert max(map(len, details)) < 2000


async def test_a_message_of_very_many_bad_values_fills_neither_the_store_nor_the_memory(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    n = 100_000
    service = Service(tmp_path, write_city(tmp_path, [CHAMBER]), store_dsn, broker)
    good_ms = now_ms() - 1000
    values = ["x"] * (n - 1) + [0.5]
    message = {"channels": ["water_level"], "ix": [0] * n, "ts": good_ms, "values": values}
    async with service.running(), publisher(broker) as gateways:
        await gateways.publish([Sent(TOPIC, _json(message))])
        await until_stored(store_dsn, 1)
    assert await rows_of(store_dsn, "SELECT sum(n_readings), count(*) < 50 FROM reject_v") == [(n - 1, True)]
    assert await rows_of(store_dsn, READINGS) == [("C1/water_level", good_ms, 0.5)]


async def test_a_topic_that_is_not_utf_8_ends_with_the_broker_and_the_stream_goes_on(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    service = Service(tmp_path, write_city(tmp_path, [CHAMBER]), store_dsn, broker)
    async with service.running(), publisher(broker) as gateways:
        assert _publish_raw(broker, b"lifeline/v1/\xff\xfe/C1/up") == b""
        assert _publish_raw(broker, b"lifeline/v1/G1\x00/C1/up") == b""
        await gateways.publish([columns(CHAMBER, [("methane", now_ms(), 0.1)])])
        await until_stored(store_dsn, 1)
        assert await service.is_ready()


def _publish_raw(broker: Broker, topic: bytes) -> bytes:
    """Publish with QoS 1 by hand, as no client library sends such a topic; what the broker answers."""
    connect = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack("!H", 3) + b"raw"
    publish = struct.pack("!H", len(topic)) + topic + struct.pack("!H", 1) + b"{}"
    with socket.create_connection((broker.host, broker.port), timeout=10) as wire:
        wire.sendall(bytes([0x10, len(connect)]) + connect)
        assert wire.recv(4) == b"\x20\x02\x00\x00"
        wire.sendall(bytes([0x32, len(publish)]) + publish)
        return wire.recv(4)
