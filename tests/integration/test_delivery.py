"""From the outbox to a receiver that answers in every way that the specification knows."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook as Signer

from integration.store_groups import S, event_of, group_of, item_of, nothing_late, rows_of, settle_city, writer_of
from lifeline_stream.core.model import ConditionEvent, EventKind
from lifeline_stream.errors import ConfigError
from lifeline_stream.notify.deliver import Deliverer
from lifeline_stream.notify.message import Rule, Subject, alarm_body
from lifeline_stream.notify.webhook import Outcome, Webhook
from lifeline_stream.service.http import bind, serve
from lifeline_stream.settings import Http
from lifeline_stream.store.database import open_database
from lifeline_stream.store.outbox import OutboxStore

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
NOW_US = time.time_ns() // 1000


@dataclass
class Desk:
    """A receiver that answers each id with what it was told to, in turn, then 204; it keeps what it got."""

    answers: dict[str, list[Response]] = field(default_factory=dict)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    async def receive(self, request: Request) -> Response:
        self.got.append((dict(request.headers), await request.body()))
        answers = self.answers.get(request.headers.get("webhook-id", ""))
        return answers.pop(0) if answers else Response(status_code=204)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Desk]:
        app = FastAPI(openapi_url=None)
        app.add_api_route("/{path:path}", self.receive, methods=["POST", "GET"])
        sock, up = bind(Http(port=0)), asyncio.Event()
        self.port = sock.getsockname()[1]
        serving = asyncio.create_task(serve(app, sock, up.set))
        await up.wait()
        try:
            yield self
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@dataclass
class Post:
    """An outbox with its deliverer and receiver."""

    dsn: str
    desk: Desk
    outbox: OutboxStore
    deliverer: Deliverer
    results: list[str]

    async def states(self) -> dict[str, tuple[str, str]]:
        return {i: (s, r) for i, s, r in await rows_of(self.dsn, "SELECT id, state, result FROM outbox ORDER BY seq")}

    async def make_due(self) -> None:
        """As if the pause were over."""
        await rows_of(
            self.dsn, "UPDATE outbox SET due_at = now() - interval '1 second' WHERE state = 'due' RETURNING id"
        )


@contextlib.asynccontextmanager
async def post_of(
    dsn: str, events: list[ConditionEvent], answers: dict[str, list[Response]] | None = None, *, held: bool = False
) -> AsyncIterator[Post]:
    """Commit the events with an item each, named o0, o1, …, to be delivered to a receiver that runs."""
    await settle_city(dsn)
    writer = writer_of(dsn)
    await writer.open()
    items = [item_of(f"o{n}", e, held=held) for n, e in enumerate(events)]
    await writer.commit(group_of(1, [(0, 1, 1.0)], events=events, outbox=items, now_us=NOW_US - S), nothing_late)
    await writer.close()
    async with Desk(answers or {}).running() as desk, open_database(dsn) as database, hook(desk.url) as webhook:
        outbox, results = OutboxStore(database, "webhook"), []
        yield Post(dsn, desk, outbox, Deliverer(outbox, webhook, results.append), results)


@contextlib.asynccontextmanager
async def hook(url: str, **more: Any) -> AsyncIterator[Webhook]:
    webhook = Webhook(url, SECRET, **more)
    try:
        yield webhook
    finally:
        await webhook.close()


def now_event(kind: EventKind = EventKind.RAISED, **more: Any) -> ConditionEvent:
    """An event of just now, so that it is not given up."""
    return event_of(kind, 20, **{"at_us": NOW_US, **more})


async def test_a_delivery_that_failed_is_tried_again_under_the_same_id_and_signed_anew(store_dsn: str) -> None:
    async with post_of(store_dsn, [now_event()], {"o0": [Response("busy", 500)]}) as post:
        assert await post.deliverer.deliver_due() == 1
        assert await post.states() == {"o0": ("due", "500 busy")}
        assert await post.deliverer.deliver_due() == 0, "not before its pause is over"
        await post.make_due()
        assert await post.deliverer.deliver_due() == 1
        assert await post.states() == {"o0": ("delivered", "204")}
    assert post.results == [Outcome.RETRY, Outcome.DELIVERED]
    assert post.desk.ids == ["o0", "o0"]
    for headers, body in post.desk.got:
        Signer(SECRET).verify(body, headers)  # raises when it does not fit


async def test_a_redirect_is_a_failure_and_is_not_followed(store_dsn: str) -> None:
    away = Response(status_code=302, headers={"location": "/elsewhere"})
    async with post_of(store_dsn, [now_event()], {"o0": [away]}) as post:
        await post.deliverer.deliver_due()
        assert await post.states() == {"o0": ("due", "302")}
    assert len(post.desk.got) == 1


async def test_a_receiver_that_is_gone_is_disabled_until_it_is_enabled_again(store_dsn: str) -> None:
    gone = {"o0": [Response("gone", 410)], "o1": [Response("gone", 410)]}
    async with post_of(store_dsn, [now_event(), now_event(channel_ix=1)], gone) as post:
        assert await post.deliverer.deliver_due() == 2
        assert await post.outbox.why_disabled() == "410 gone"
        await post.make_due()
        assert await post.deliverer.deliver_due() == 0
        await post.outbox.enable_target()
        assert await post.deliverer.deliver_due() == 2
        assert {state for state, _ in (await post.states()).values()} == {"delivered"}


@pytest.mark.parametrize("in_date", [False, True])
async def test_a_busy_receiver_is_asked_again_when_it_says(store_dsn: str, *, in_date: bool) -> None:
    later = datetime.now(UTC) + timedelta(seconds=600)
    wait = format_datetime(later, usegmt=True) if in_date else "600"
    busy = Response("slow down", 429, headers={"retry-after": wait})
    async with post_of(store_dsn, [now_event()], {"o0": [busy]}) as post:
        await post.deliverer.deliver_due()
        ((due_at,),) = await rows_of(store_dsn, "SELECT due_at FROM outbox")
    assert abs((due_at - later).total_seconds()) < 60


async def test_the_events_of_an_alarm_are_delivered_in_order_and_those_of_others_do_not_wait(store_dsn: str) -> None:
    events = [now_event(), now_event(EventKind.ESCALATED, severity=3), now_event(channel_ix=1)]
    async with post_of(store_dsn, events, {"o0": [Response("", 500)]}) as post:
        assert await post.deliverer.deliver_due() == 2
        assert sorted(post.desk.ids) == ["o0", "o2"]
        assert [state for state, _ in (await post.states()).values()] == ["due", "due", "delivered"]
        await post.make_due()
        assert [await post.deliverer.deliver_due() for _ in range(3)] == [1, 1, 0]
    assert post.desk.ids[2:] == ["o0", "o1"]


async def test_what_can_not_be_delivered_for_a_day_is_given_up_and_counted(store_dsn: str) -> None:
    async with post_of(store_dsn, [now_event(at_us=NOW_US - 25 * 3600 * S)], {"o0": [Response("", 500)]}) as post:
        await post.deliverer.deliver_due()
        assert await post.states() == {"o0": ("failed", "500")}
    assert post.results == [Outcome.RETRY, "failed"]


async def test_an_old_alarm_is_told_only_once_its_channel_is_current(store_dsn: str) -> None:
    async with post_of(store_dsn, [now_event()], held=True) as post:
        assert await post.deliverer.deliver_due() == 0
        await rows_of(store_dsn, "UPDATE reading SET ts = now() RETURNING channel")
        assert await post.deliverer.deliver_due() == 1
        assert (await post.states())["o0"][0] == "delivered"


async def test_an_old_alarm_that_has_ended_is_never_told(store_dsn: str) -> None:
    async with post_of(store_dsn, [now_event(), now_event(EventKind.CLEARED)], held=True) as post:
        await rows_of(store_dsn, "UPDATE reading SET ts = now() RETURNING channel")
        assert await post.deliverer.deliver_due() == 0
        assert {state for state, _ in (await post.states()).values()} == {"skipped"}
    assert post.desk.got == []


async def test_a_name_that_leads_to_a_private_address_is_refused_unless_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lookup(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]

    async with Desk().running() as desk:
        url = desk.url.replace("127.0.0.1", "hooks.example")
        async with hook(url) as strict, hook(url, allow_private=True) as lenient:
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
            refused = await strict.send("o1", b"{}")
            assert (refused.outcome, desk.got) == (Outcome.RETRY, [])
            assert "allow_private" in refused.detail
            assert (await lenient.send("o1", b"{}")).outcome is Outcome.DELIVERED
        assert desk.got[0][0]["host"] == f"hooks.example:{desk.port}"


async def test_nobody_there_is_a_failure_to_be_tried_again() -> None:
    with bind(Http(port=0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
    async with hook(url) as webhook:
        assert (await webhook.send("o1", b"{}")).outcome is Outcome.RETRY


@pytest.mark.parametrize(("url", "secret"), [("ftp://h/", SECRET), ("http:///x", SECRET), ("http://h/", "whsec_!")])
def test_an_address_or_a_secret_that_can_not_be_used_is_named(url: str, secret: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Webhook(url, secret)
    assert [problem.id for problem in raised.value.problems] == ["webhook"]


def test_the_body_is_a_cloudevent_with_all_that_a_person_needs() -> None:
    event = event_of(EventKind.ESCALATED, 20, 4, value=float("inf"))
    rule = Rule("hazard", "why it matters", "a standard", "what to do")
    subject = Subject("c0", "A1", "一号阀室", "north", "toy", "m")
    body = msgspec.json.decode(alarm_body(event, subject, rule))
    assert body == msgspec.json.decode(alarm_body(event, subject, rule))
    assert {"specversion": "1.0", "id": event.event_id, "type": "city.lifeline.alarm.escalated"}.items() <= body.items()
    assert (body["subject"], body["time"]) == (event.alarm_id, "2025-10-09T08:53:40.000+00:00")
    told = {
        "severity": 4,
        "severity_name": "red",
        "colour": "红",
        "asset_name": "一号阀室",
        "value": None,
        "action": "what to do",
    }
    assert told.items() <= body["data"].items()
    assert event.alarm_id.startswith(body["data"]["short_id"])
