"""The database away: what people must know still reaches them, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from e2e.service import (
    READINGS,
    City,
    Desk,
    Device,
    Publisher,
    Sent,
    Service,
    columns,
    count,
    desk,
    now_ms,
    publisher,
    rows_of,
    seeded,
    until,
    until_stored,
    write_city,
)
from integration.faultproxy import faulty
from mosquitto import Broker
from postgres import Postgres

OUTAGE_S, CRASH_S, INCIDENT_S = 60, 30, 20
WITHIN_S = 5
STOP_WITHIN_S = 10

CHAMBERS = [Device(f"C{i}", "G1", "gas", ("methane", "water_level")) for i in range(10)]
TUNNEL = Device("T1", "G1", "tunnel", ("h2s",))


class Readings:
    """Readings of the chambers, each with a time of its own."""

    def __init__(self, seed: int = 1) -> None:
        self._rng = seeded(seed)
        self._last_ms = now_ms() - 120_000
        self.sent: set[tuple[str, int, float]] = set()

    def message(self, device: Device, methane: float | None = None) -> Sent:
        """The present of one chamber."""
        self._last_ms = max(now_ms(), self._last_ms + 1)
        gas = round(self._rng.uniform(0, 0.5), 3) if methane is None else methane
        return self._columns(device, [("methane", self._last_ms, gas), ("water_level", self._last_ms, 20.0)])

    def backlog(self, n: int) -> list[Sent]:
        """So many messages of the last two minutes."""
        messages = []
        for k in range(n):
            self._last_ms += 5
            rows = [("methane", self._last_ms, 0.1), ("water_level", self._last_ms, 20.0)]
            messages.append(self._columns(CHAMBERS[k % len(CHAMBERS)], rows))
        return messages

    def out_of_order(self, first_ms: int) -> list[Sent]:
        """Newer ones first; the one that is late is high."""
        return [
            self._columns(TUNNEL, [("h2s", first_ms + 10_000, 1.0)]),
            self._columns(TUNNEL, [("h2s", first_ms + 5_000, 80.0)]),
            self._columns(TUNNEL, [("h2s", first_ms + 11_000, 1.0)]),
        ]

    def _columns(self, device: Device, rows: list[tuple[str, int, float]]) -> Sent:
        self.sent.update((f"{device.id}/{sensor}", ts_ms, value) for sensor, ts_ms, value in rows)
        return columns(device, rows)

    async def all_stored_once(self, dsn: str) -> None:
        await until_stored(dsn, len(self.sent))
        stored = await rows_of(dsn, READINGS)
        assert len(stored) == len(self.sent)
        assert set(stored) == self.sent


@pytest.fixture
def city(tmp_path: Path) -> City:
    return write_city(tmp_path, [*CHAMBERS, TUNNEL])


@pytest_asyncio.fixture
async def told(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path) as found:
        yield found


@pytest_asyncio.fixture
async def gateways(broker: Broker) -> AsyncIterator[Publisher]:
    async with publisher(broker) as found:
        yield found


async def _told_once(told: Desk, dsn: str, channel: str) -> float:
    """When the receiver was told that the alarm of a channel began; it was told once, and the outbox knows."""
    messages = told.about(channel)
    assert [message.body["data"]["event"] for message in messages] == ["raised"]

    async def is_known() -> bool:
        return await rows_of(dsn, "SELECT state FROM outbox WHERE id = $1", messages[0].id) == [("delivered",)]

    await until(is_known, "the outbox knows that it was delivered")
    assert told.receiver.n_repeated == 0
    return messages[0].at_s


@pytest.mark.parametrize("at_once", [False, True], ids=["stopped", "crashed"])
async def test_an_incident_in_an_outage_of_a_minute_is_told_within_seconds_and_once(
    tmp_path: Path,
    broker: Broker,
    own_postgres: Postgres,
    city: City,
    told: Desk,
    gateways: Publisher,
    *,
    at_once: bool,
) -> None:
    readings = Readings()
    await own_postgres.start()
    service = Service(tmp_path, city, own_postgres.dsn, broker, **told.settings)
    async with service.running():
        await gateways.publish([readings.message(device) for device in CHAMBERS])
        await until_stored(own_postgres.dsn, len(readings.sent))
        own_postgres.stop(at_once=at_once)
        away_s, incident_s = time.time(), 0.0
        while time.time() < away_s + (CRASH_S if at_once else OUTAGE_S):
            if not incident_s and time.time() >= away_s + INCIDENT_S:
                incident_s = time.time()
            high = {"C3": 3.0} if incident_s else {}
            await gateways.publish([readings.message(device, high.get(device.id)) for device in CHAMBERS])
            await asyncio.sleep(0.1)  # the pace of the load, nothing is waited for
        messages = told.about("C3/methane")
        assert messages, service.log
        assert messages[0].at_s - incident_s <= WITHIN_S
        assert await service.is_ready(), "it takes readings all the same"
        await own_postgres.start()
        await readings.all_stored_once(own_postgres.dsn)
        assert await _told_once(told, own_postgres.dsn, "C3/methane") == messages[0].at_s


async def test_when_the_answer_to_a_commit_is_lost_and_the_database_goes_away_nothing_is_doubled(
    tmp_path: Path, broker: Broker, store_dsn: str, city: City, told: Desk, gateways: Publisher
) -> None:
    readings = Readings()
    async with faulty(store_dsn) as (dsn, proxy):
        service = Service(tmp_path, city, dsn, broker, **told.settings)
        async with service.running():
            await gateways.publish([readings.message(device) for device in CHAMBERS])
            await until_stored(store_dsn, len(readings.sent))
            proxy.lose_next_commit_answer()
            incident_s = time.time()
            await gateways.publish([readings.message(CHAMBERS[3], 3.0)])
            await until(lambda: _is(proxy.answers_lost == 1), "the answer is lost")
            proxy.refuse()
            assert await count(store_dsn, "alarm") == 1, "the commit was to be there without its answer"
            await until(lambda: _is(told.told), "told")
            assert told.told[0].at_s - incident_s <= WITHIN_S
            await gateways.publish([readings.message(device) for device in CHAMBERS[4:]])
            proxy.resume()
            await readings.all_stored_once(store_dsn)
            await _told_once(told, store_dsn, "C3/methane")
            assert "group was committed already" in service.log


async def _is(holds: object) -> bool:
    return bool(holds)


@pytest.mark.parametrize("end", ["resume", "kill"])
@pytest.mark.parametrize("fault", ["refuse", "stall"])
async def test_a_nearly_full_window_goes_to_the_spool_and_the_spool_to_the_database(
    tmp_path: Path, broker: Broker, store_dsn: str, city: City, gateways: Publisher, fault: str, end: str
) -> None:
    readings = Readings()
    async with faulty(store_dsn) as (dsn, proxy):
        service = Service(tmp_path, city, dsn, broker, ingest__window_messages=400)
        async with service.running():
            late_from_ms = now_ms() - 60_000
            await gateways.publish(readings.backlog(50))
            await until_stored(store_dsn, len(readings.sent))
            getattr(proxy, fault)()
            await gateways.publish([*readings.out_of_order(late_from_ms), *readings.backlog(1000)])

            async def is_spooled() -> bool:
                return await service.metric("lifeline_acknowledged_messages_total") >= 700

            await until(is_spooled, "all of 1053 messages but what the window holds are acknowledged")
            assert await service.metric("lifeline_spool_bytes") > 0
            assert await count(store_dsn, "reading") == 100, "the database was to be away"
            if end == "kill":
                service.kill()
                service.start()
            proxy.resume()
            await readings.all_stored_once(store_dsn)
            await service.ready()
            await until(service.is_idle, "everything acknowledged")
            assert await service.metric("lifeline_spool_bytes") == 0
            found = await rows_of(store_dsn, "SELECT channel, found_late, severity FROM alarm_v")
            assert found == [("T1/h2s", True, 4)]
            assert await count(store_dsn, "reject") == 0


@pytest.mark.parametrize("fault", ["refuse", "stall"])
async def test_a_stop_without_a_database_is_quick_and_leaves_the_rest_with_the_broker(
    tmp_path: Path, broker: Broker, store_dsn: str, city: City, gateways: Publisher, fault: str
) -> None:
    readings = Readings()
    async with faulty(store_dsn) as (dsn, proxy):
        service = Service(tmp_path, city, dsn, broker)
        async with service.running():
            getattr(proxy, fault)()
            await gateways.publish(readings.backlog(300))

            async def has_taken() -> bool:
                return await service.metric("lifeline_messages_total") == 300

            await until(has_taken, "taken")
            assert await service.terminate() <= STOP_WITHIN_S
            assert service.exit_code == 0, service.log
            assert await count(store_dsn, "reading") == 0
            proxy.resume()
            service.start()
            await readings.all_stored_once(store_dsn)


async def test_a_full_spool_stops_the_taking_and_says_so(
    tmp_path: Path, broker: Broker, store_dsn: str, city: City, gateways: Publisher
) -> None:
    readings = Readings()
    async with faulty(store_dsn) as (dsn, proxy):
        small = {"ingest__window_messages": 100, "ingest__spool_bytes": 20_000}
        service = Service(tmp_path, city, dsn, broker, **small)
        async with service.running():
            proxy.refuse()
            await gateways.publish(readings.backlog(2000))

            async def is_full() -> bool:
                return not (await service.conditions())["readings can be stored"]

            await until(is_full, "not ready")
            assert await service.metric("lifeline_messages_total") < 2000
            proxy.resume()
            await readings.all_stored_once(store_dsn)
            await service.ready()
