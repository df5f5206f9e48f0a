"""The API as a process of its own: what `lifeline serve` is."""

from __future__ import annotations

import asyncio

import structlog
from fastapi import FastAPI

from lifeline_stream.errors import FatalError, TransientError
from lifeline_stream.observe import Health, Metrics
from lifeline_stream.service.api import alarms
from lifeline_stream.service.http import bind, observing_app, serve
from lifeline_stream.settings import Settings
from lifeline_stream.store.database import Queryable, budget, open_database

log = structlog.get_logger(__name__)

REACHABLE = "database reachable"
LOOK_S = 2.0


async def serve_api(settings: Settings, stop: asyncio.Event) -> None:
    """Serve the API until `stop`.

    Raises:
        ConfigError: no database is named.
        TransientError: the database is away.
    """
    dsn = settings.store.required_dsn()
    metrics = Metrics()
    health = Health(metrics)
    health.expect(REACHABLE)
    sock = bind(settings.http)
    async with open_database(dsn, "lifeline serve") as database, asyncio.TaskGroup() as tasks:
        background = [
            tasks.create_task(serve(api_app(metrics, health, database), sock), name="http"),
            tasks.create_task(_watch(database, health), name="health"),
        ]
        log.info("serving", host=settings.http.host, port=sock.getsockname()[1])
        await stop.wait()
        for task in background:
            task.cancel()


def api_app(metrics: Metrics, health: Health, database: Queryable) -> FastAPI:
    """The API, and how the process is."""
    app = observing_app(metrics, health)
    app.include_router(alarms.router(database))
    for kind, handler in alarms.PROBLEMS.items():
        app.add_exception_handler(kind, handler)
    return app


async def _watch(database: Queryable, health: Health) -> None:
    """Keep the health condition true to what is."""
    while True:
        try:
            async with budget(LOOK_S, "reach the database"):
                await database.fetchval("SELECT 1")
            health.state(REACHABLE, holds=True)
        except (TransientError, FatalError) as error:
            health.state(REACHABLE, holds=False, detail=str(error))
        await asyncio.sleep(LOOK_S)
