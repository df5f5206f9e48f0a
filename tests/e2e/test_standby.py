"""Two processes for one shard: the second waits, warm, and takes over; the first yields."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiomqtt

from e2e.service import (
    READINGS,
    Device,
    Sent,
    Service,
    columns,
    count,
    now_ms,
    publisher,
    rows_of,
    until,
    until_stored,
    write_city,
)
from integration.faultproxy import faulty
from mosquitto import Broker

TAKEN_OVER_WITHIN_S = 30
REFUSED = 3
CHAMBER = Device("C1", "G1", "gas", ("methane", "water_level"))


class Readings:
    """Readings of one chamber, 10 ms apart."""

    def __init__(self) -> None:
        self._start_ms = now_ms() - 100_000
        self.sent: set[tuple[str, int, float]] = set()

    def messages(self, first: int, last: int, methane: float) -> list[Sent]:
        return [self._message(k, methane) for k in range(first, last)]

    def _message(self, k: int, methane: float) -> Sent:
        at_ms = self._start_ms + 10 * k
        rows = [("methane", at_ms, methane), ("water_level", at_ms, 10.0)]
        self.sent.update((f"C1/{sensor}", ts_ms, value) for sensor, ts_ms, value in rows)
        return columns(CHAMBER, rows)

    async def all_stored_once(self, dsn: str) -> None:
        await until_stored(dsn, len(self.sent))
        stored = await rows_of(dsn, READINGS)
        assert len(stored) == len(self.sent)
        assert set(stored) == self.sent


def says(service: Service, what: str) -> Callable[[], Awaitable[bool]]:
    async def has_said() -> bool:
        return what in service.log

    return has_said


async def test_a_standby_takes_over_after_a_kill_and_nothing_is_lost(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    city, readings = write_city(tmp_path, [CHAMBER]), Readings()
    first = Service(tmp_path / "first", city, store_dsn, broker)
    second = Service(tmp_path / "second", city, store_dsn, broker)
    async with first.running(), publisher(broker) as gateways:
        second.start()
        try:
            await until(says(second, "standing by"), "the second stands by")
            await gateways.publish([*readings.messages(0, 500, 0.1), *readings.messages(500, 501, 2.0)])
            await until_stored(store_dsn, 2)
            assert not await second.is_ready()
            first.kill()
            killed_s = time.monotonic()
            await gateways.publish(readings.messages(501, 1000, 2.0))
            await second.ready()
            assert time.monotonic() - killed_s < TAKEN_OVER_WITHIN_S
            await readings.all_stored_once(store_dsn)
            first.start()
            await until(says(first, "standing by"), "the first stands by")
            assert await second.is_ready()
        finally:
            second.kill()
    assert await rows_of(store_dsn, "SELECT channel, severity, active FROM alarm_v") == [("C1/methane", 2, True)]
    assert await count(store_dsn, "alarm_event") == 1
    assert await rows_of(store_dsn, "SELECT epoch FROM shard_state") == [(2,)]


async def test_what_one_process_had_spooled_is_not_lost_when_another_went_on_without_it(
    tmp_path: Path, broker: Broker, store_dsn: str
) -> None:
    city, readings = write_city(tmp_path, [CHAMBER]), Readings()
    async with faulty(store_dsn) as (dsn, proxy), publisher(broker) as gateways:
        first = Service(tmp_path / "first", city, dsn, broker, ingest__window_messages=100)
        second = Service(tmp_path / "second", city, store_dsn, broker)
        async with first.running():
            await gateways.publish(readings.messages(0, 10, 0.1))
            await until_stored(store_dsn, 20)
            proxy.refuse()
            await gateways.publish(readings.messages(10, 510, 2.0))

            async def is_spooled() -> bool:
                return await first.metric("lifeline_acknowledged_messages_total") >= 400

            await until(is_spooled, "most of 510 messages are acknowledged")
            first.kill()
            async with second.running():
                await gateways.publish(readings.messages(510, 600, 0.1))
                await until(second.is_idle, "everything acknowledged")
                assert await count(store_dsn, "reading") < 1000
                assert await second.terminate() < 10
            proxy.resume()
            first.start()
            await first.ready()
            await readings.all_stored_once(store_dsn)
            await gateways.publish(readings.messages(600, 610, 0.1))
            await readings.all_stored_once(store_dsn)


async def test_a_process_that_lost_shard_and_session_ends(tmp_path: Path, broker: Broker, store_dsn: str) -> None:
    service = Service(tmp_path, write_city(tmp_path, [CHAMBER]), store_dsn, broker)
    async with service.running():
        await rows_of(store_dsn, "UPDATE shard_state SET epoch = epoch + 1, holder = 'another' RETURNING epoch")
        async with aiomqtt.Client(broker.host, broker.port, identifier="lifeline-s1"):

            async def has_ended() -> bool:
                return service.exit_code is not None

            await until(has_ended, "the process has ended")
    assert service.exit_code == REFUSED
    assert "taken over by another" in service.log
