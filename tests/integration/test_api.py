"""The API over a real database, and what it says while that is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from integration.faultproxy import faulty
from integration.store_groups import event_of, group_of, nothing_late, settle_city, writer_of
from lifeline_stream.core.model import EventKind
from lifeline_stream.observe import Health, Metrics
from lifeline_stream.service.api.app import api_app
from lifeline_stream.store.database import open_database


@asynccontextmanager
async def api(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    metrics = Metrics()
    async with open_database(dsn) as database:
        transport = httpx.ASGITransport(app=api_app(metrics, Health(metrics), database))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            yield client


async def book_three(dsn: str) -> None:
    """A yellow alarm that ended, an orange one that holds on another channel, and a red one on a third."""
    await settle_city(dsn)
    writer = writer_of(dsn)
    await writer.open()
    events = [
        event_of(EventKind.RAISED, 20, 2),
        event_of(EventKind.CLEARED, 30, 2),
        event_of(EventKind.RAISED, 40, 3, channel_ix=1),
        event_of(EventKind.RAISED, 50, 4, channel_ix=2, value=float("nan")),
    ]
    await writer.commit(group_of(1, events=events), nothing_late)
    await writer.close()


async def test_alarms_are_listed_newest_first_and_filtered(store_dsn: str) -> None:
    await book_three(store_dsn)
    async with api(store_dsn) as client:
        everything = (await client.get("/api/v1/alarms")).json()
        open_ones = (await client.get("/api/v1/alarms", params={"active": True})).json()
        severe = (await client.get("/api/v1/alarms", params={"severity": 4})).json()
        second = (await client.get("/api/v1/alarms", params={"limit": 1, "offset": 1})).json()
        elsewhere = (await client.get("/api/v1/alarms", params={"county": "south"})).json()
    assert [a["channel"] for a in everything["alarms"]] == ["c2", "c1", "c0"]
    assert [a["severity_name"] for a in everything["alarms"]] == ["red", "orange", "yellow"]
    assert everything["total"] == 3
    assert [a["channel"] for a in open_ones["alarms"]] == ["c2", "c1"]
    assert [a["value"] for a in severe["alarms"]] == [None]
    assert ([a["channel"] for a in second["alarms"]], second["total"]) == (["c1"], 3)
    assert elsewhere == {"total": 0, "alarms": []}


async def test_an_alarm_carries_its_rule_and_its_asset(store_dsn: str) -> None:
    await book_three(store_dsn)
    async with api(store_dsn) as client:
        (alarm,) = (await client.get("/api/v1/alarms", params={"active": False})).json()["alarms"]
    rule = {"class": "hazard", "why": "why it matters", "action": "what to do"}
    expected = {"asset_name": "一号阀室", "county": "north", **rule}
    assert expected.items() <= alarm.items()


async def test_a_wrong_parameter_is_named(store_dsn: str) -> None:
    async with api(store_dsn) as client:
        answer = await client.get("/api/v1/alarms", params={"severity": 5})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "severity"]


async def test_while_the_database_is_away_the_api_says_so_and_when_to_come_back(store_dsn: str) -> None:
    async with faulty(store_dsn) as (dsn, proxy), api(dsn) as client:
        assert (await client.get("/api/v1/alarms")).status_code == 200
        proxy.refuse()
        away = await client.get("/api/v1/alarms")
        proxy.resume()
        back = await client.get("/api/v1/alarms")
    assert (away.status_code, away.headers["content-type"]) == (503, "application/problem+json")
    assert int(away.headers["retry-after"]) > 0
    assert back.status_code == 200


async def test_a_database_without_the_schema_is_a_clear_error(postgres_dsn: str) -> None:
    async with api(postgres_dsn) as client:
        answer = await client.get("/api/v1/alarms")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "alarm_v" in answer.json()["detail"]
