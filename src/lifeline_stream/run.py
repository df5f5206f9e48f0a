"""The pipeline as a process of its own: what `lifeline run` is."""

from __future__ import annotations

import asyncio

import structlog

from lifeline_stream.declarations import Topology
from lifeline_stream.observe import Health, Metrics
from lifeline_stream.service.http import bind, observing_app, serve
from lifeline_stream.settings import Settings
from lifeline_stream.shard import run_shard

log = structlog.get_logger(__name__)


async def run_service(topology: Topology, settings: Settings, stop: asyncio.Event) -> None:
    """Run one shard's pipeline until `stop`, with its metrics and health beside it."""
    metrics = Metrics()
    health = Health(metrics)
    sock = bind(settings.http)
    log.info("serving", host=settings.http.host, port=sock.getsockname()[1])
    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve(observing_app(metrics, health), sock), name="http")
        await run_shard(topology, settings, stop, metrics, health)
        server.cancel()
