"""A recorded trace gives the same alarms whether it is replayed or published to the running pipeline."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from e2e.service import (
    City,
    Device,
    Sent,
    Service,
    publisher,
    rows_of,
    seeded,
    topic_of,
    until,
    until_stored,
    waveform,
    write_city,
)
from mosquitto import Broker

START = datetime(2025, 3, 1, tzinfo=UTC)
EVERY_S, N_STEPS = 300, 600
ROWS_AT_ONCE = 200

Row = tuple[datetime, str, float]
"""Time, channel, value."""
Event = tuple[str, str, datetime, str, str, int]
"""Alarm, what happened, when, channel, detector, severity."""


def replayed(city: City, tmp_path: Path, *arguments: str | Path) -> list[Event]:
    """What `lifeline replay` finds."""
    out = tmp_path / "alarms.jsonl"
    command = [
        Path(sys.executable).with_name("lifeline"),
        "replay",
        *arguments,
        "--registry",
        city.registry,
        "--out",
        out,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = map(json.loads, out.read_text("utf-8").splitlines())
    return sorted(
        (e["alarm_id"], e["event"], datetime.fromisoformat(e["at"]), e["channel"], e["detector"], e["severity"])
        for e in found
    )


async def live(
    city: City, tmp_path: Path, broker: Broker, dsn: str, messages: Iterable[Sent], n: int, table: str = "reading"
) -> list[Event]:
    """What the pipeline finds in messages that hold n rows."""
    service = Service(tmp_path / "service", city, dsn, broker)
    async with service.running(), publisher(broker) as gateways:
        await gateways.publish(messages)
        await until_stored(dsn, n, table)
        await until(service.is_idle, "everything acknowledged")
    assert await rows_of(dsn, "SELECT reason, detail FROM reject_v") == []
    query = "SELECT alarm_id, kind, at, channel, detector, severity FROM alarm_event_v"
    return sorted(await rows_of(dsn, query))  # type: ignore[arg-type]


def write_long(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("ts", "channel", "value"))
        lines.writerows((at.isoformat(), channel, value) for at, channel, value in rows)
    return path


def in_batches(gateway: str, rows: Sequence[Row]) -> Iterator[Sent]:
    """The rows of one gateway, in messages that hold several devices."""
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        names = list(dict.fromkeys(channel for _, channel, _ in part))
        message = {
            "channels": names,
            "ix": [names.index(channel) for _, channel, _ in part],
            "ts": [round(at.timestamp() * 1000) for at, _, _ in part],
            "values": [value for *_, value in part],
        }
        yield Sent(topic_of(gateway, "any"), json.dumps(message).encode())


# ── a made trace ─────────────────────────────────────────────────────────────────────────────────────────────────────

CITY = [
    Device("C1", "G1", "gas", ("methane", "water_level")),
    Device("C2", "G1", "gas", ("methane", "water_level")),
    Device("P1", "G1", "water", ("pressure", "tank_level", "ph")),
    Device("S1", "G1", "drainage", ("level", "ponding")),
    Device("T1", "G1", "tunnel", ("oxygen", "co", "temperature")),
]


def made(seed: int) -> list[Row]:
    """Two days with a leak, a chamber under water, a burst, a flood, bad air, and a device that is silent for hours."""
    rng = seeded(seed)

    def value(channel: str, step: int) -> float:
        at = {
            "C1/methane": 0.2 if not 100 <= step < 180 else 0.03 * (step - 100),
            "C1/water_level": 30.0,
            "C2/methane": 1.8 if 300 <= step < 340 else 0.1,
            "C2/water_level": 1200.0 if 320 <= step < 400 else 10.0,
            "P1/pressure": 0.3 if not 200 <= step < 230 else 0.08,
            "P1/tank_level": 3.0 - max(0.0, min(2.5, (step - 220) * 0.05)),
            "P1/ph": 7.2,
            "S1/level": 0.5 + (1.7 if 410 <= step < 420 else 2.9 if 420 <= step < 450 else 0.0),
            "S1/ponding": 30.0 if 415 <= step < 430 else 0.0,
            "T1/oxygen": 20.9 if not 500 <= step < 505 else 17.0,
            "T1/co": 2.0 if not 500 <= step < 520 else 70.0,
            "T1/temperature": 20.0,
        }[channel]
        return round(at + rng.uniform(0, 0.02), 4)

    return [
        (START + timedelta(seconds=EVERY_S * step), f"{device.id}/{sensor}", value(f"{device.id}/{sensor}", step))
        for step in range(N_STEPS)
        for device in CITY
        for sensor in device.sensors
        if not (device.id == "S1" and 150 <= step < 190)
    ]


async def test_a_made_trace_gives_the_same_alarms_live_as_replayed(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    rows = made(7)
    city = write_city(tmp_path, CITY, clock="event")
    expected = replayed(city, tmp_path, write_long(tmp_path / "trace.csv", rows))
    assert await live(city, tmp_path, broker, store_dsn, in_batches("G1", rows), len(rows)) == expected
    kinds = {(event, detector) for _, event, _, _, detector, _ in expected}
    assert {
        ("cleared", "gas.methane.high"),
        ("raised", "drainage.channel.silent"),
        ("escalated", "drainage.level.high"),
    } <= kinds
    assert len({detector for *_, detector, _ in expected}) > 8


# ── recorded traces ──────────────────────────────────────────────────────────────────────────────────────────────────


def recorded(name: str) -> Path:
    """A trace's folder; without it the test is skipped, for the traces are not part of the project."""
    path = Path(os.environ.get("LIFELINE_TEST_DATA", "/nowhere")) / name
    if not path.is_dir():
        pytest.skip(f"LIFELINE_TEST_DATA names no folder that holds {name}")
    return path


async def test_the_first_lowering_of_a_bridge_gives_the_same_alarms_live_as_replayed(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    (path,) = recorded("munich_bridge").glob("*support_01_lowering*.csv")
    strain = Device("DMS_CN", "G1", "bridge", ("strain",), every_s=0.01)
    city = write_city(tmp_path, [strain], clock="event", bare=True)
    expected = replayed(city, tmp_path, path, "--rate", "100")
    with path.open(encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    values = [float(value) for _, value in lines]
    first_ms = round(datetime.fromisoformat(f"{lines[0][0]}+00:00").timestamp() * 1000)
    at_once = 500
    blocks = [
        waveform(strain, "strain", first_ms + 10 * first, 10, values[first : first + at_once])
        for first in range(0, len(values), at_once)
    ]
    assert await live(city, tmp_path, broker, store_dsn, blocks, len(blocks), "waveform") == expected
    assert any(event == "raised" and detector == "bridge.strain.shift" for _, event, _, _, detector, _ in expected)


async def test_weeks_of_a_water_net_with_two_incidents_give_the_same_alarms_live_as_replayed(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415 - only this test needs it

    table = pq.read_table(recorded("ltown_2018") / "scada.parquet").slice(200 * 288, 14 * 288)
    columns = {name: table[name].to_pylist() for name in table.schema.names}
    times = [at.replace(tzinfo=UTC) for at in columns.pop("time")]
    columns["P_n1"][1000:1024] = [8.0] * 24  # below the orange limit
    columns["LEVEL_T1"][2000:2012] = [0.6] * 12
    sensor_of = {"P": ("pressure", "mH2O"), "L": ("tank_level", "m"), "F": ("flow", "m³/h")}
    devices = [Device(n, "G1", "water", (sensor_of[n[0]][0],), sensor_of[n[0]][1]) for n in columns]
    city = write_city(tmp_path, devices, clock="event", bare=True)
    rows = [(at, name, column[i]) for i, at in enumerate(times) for name, column in columns.items()]
    expected = replayed(city, tmp_path, write_long(tmp_path / "trace.csv", rows))
    named = [(at, f"{name}/{sensor_of[name[0]][0]}", value) for at, name, value in rows]
    assert await live(city, tmp_path, broker, store_dsn, in_batches("G1", named), len(rows)) == expected
    raised = {(channel, detector) for _, event, _, channel, detector, _ in expected if event == "raised"}
    assert {("P_n1", "water.pressure.abnormal"), ("LEVEL_T1", "water.tank_level.low")} <= raised
