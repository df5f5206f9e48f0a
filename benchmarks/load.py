"""A city of any size and a publisher of its messages, for the benchmarks."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho

from lifeline_stream.city.registry import COLUMNS
from lifeline_stream.core.packs import Pack, Sensor
from lifeline_stream.declarations import load_packs
from lifeline_stream.resources import find

PER_MESSAGE = 100
"""Readings in a message, all of one gateway."""
IN_FLIGHT = 4000
TOPOLOGY = """shard = "bench"
registry = "{folder}"
clock = "received"

[source]
kind = "mqtt"
format = "json.v1"
"""


def quiet_sensors() -> list[tuple[str, float]]:
    """Sensor types that report single readings, with a value that lies well within every limit."""
    packs = load_packs(find("detectors"))
    return [(f"{p.domain.id}.{s.id}", _quiet(p, s)) for p in packs for s in p.sensor if not s.high_rate]


def _quiet(pack: Pack, sensor: Sensor) -> float:
    low, high = sensor.plausible
    for detector in pack.detector:
        if detector.kind == "threshold" and sensor in pack.sensors_of(detector):
            low = max([low, *detector.below.given()])
            high = min([high, *detector.above.given()])
    return (low + high) / 2


def write_city(folder: Path, n_channels: int) -> Path:
    """Registry and topology of `n_channels`, ten to a device, `PER_MESSAGE` to a gateway; the topology's path."""
    folder.mkdir(parents=True, exist_ok=True)
    sensors = quiet_sensors()
    devices = range(n_channels // 10)
    domain = sensors[0][0].partition(".")[0]
    rows = {
        "districts": [("north", "北县", "county", "")],
        "assets": [("A", "基准", domain, "main", "north", "owner", "117", "31", "low")],
        "devices": [(f"D{d}", f"G{d * 10 // PER_MESSAGE}", "A", "m") for d in devices],
        "channels": [
            (f"D{c // 10}/c{c}", f"D{c // 10}", sensors[c % len(sensors)][0], f"c{c}", "", "1")
            for c in range(n_channels)
        ],
        "adjacency": [],
    }
    for table, lines in rows.items():
        with (folder / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS[table], *lines])
    topology = folder / "bench.toml"
    topology.write_text(TOPOLOGY.format(folder=folder), encoding="utf-8")
    return topology


def messages(n_channels: int, n: int, start_ms: int) -> Iterator[tuple[str, bytes]]:
    """Topic and columnar payload of `n` messages; each gateway's next message is one second later."""
    sensors = quiet_sensors()
    n_gateways = n_channels // PER_MESSAGE
    bodies = []
    for g in range(n_gateways):
        mine = range(g * PER_MESSAGE, (g + 1) * PER_MESSAGE)
        names = ",".join(f'"D{c // 10}/c{c}"' for c in mine)
        values = ",".join(f"{sensors[c % len(sensors)][1] + 0.001 * (c % 7):.4f}" for c in mine)
        bodies.append((f"lifeline/v1/G{g}/G{g}/up", f'{{"channels":[{names}],"values":[{values}],"ts":'.encode()))
    for k in range(n):
        topic, body = bodies[k % n_gateways]
        yield topic, body + b"%d}" % (start_ms + 1000 * (k // n_gateways))


def publish(port: int, n_channels: int, n: int) -> None:
    """Publish with QoS 1 as fast as the broker acknowledges."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="bench-publisher", protocol=paho.MQTTv5)
    client.max_inflight_messages_set(IN_FLIGHT)
    client.connect("127.0.0.1", port)
    client.loop_start()
    start_ms = time.time_ns() // 1_000_000 - 1000 * (1 + n // (n_channels // PER_MESSAGE))
    last = None
    for sent, (topic, payload) in enumerate(messages(n_channels, n, start_ms)):
        last = client.publish(topic, payload, qos=1)
        if sent % IN_FLIGHT == IN_FLIGHT - 1:
            last.wait_for_publish(60)
    if last is not None:
        last.wait_for_publish(60)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    publish(*map(int, sys.argv[1:4]))
