"""Readings/s from a publisher through Mosquitto and `lifeline run` into PostgreSQL, on this machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from lifeline_stream.service.http import bind
from lifeline_stream.settings import Http
from lifeline_stream.sources.broker import local_broker
from lifeline_stream.store import migrations
from lifeline_stream.store.database import connected
from lifeline_stream.store.embedded import embedded_postgres
from load import PER_MESSAGE, write_city

N_CHANNELS = 10_000
UP_S, DONE_S = 60.0, 300.0
HERE = Path(__file__).resolve().parent
PYTHON = Path(sys.executable)


class Place(NamedTuple):
    """Where one measurement runs."""

    folder: Path
    topology: Path
    dsn: str
    broker_port: int
    n_messages: int


async def measure(n_messages: int, *, twin: bool = False) -> float:
    """Readings/s of `n_messages` published at once; the time runs from the first message to the last stored reading."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifeline-bench-")))
        topology = write_city(folder / "city", N_CHANNELS)
        dsn = await stack.enter_async_context(embedded_postgres(folder / "postgres"))
        broker = await stack.enter_async_context(local_broker(folder / "broker"))
        place = Place(folder, topology, dsn, broker.port, n_messages)
        async with connected(dsn) as connection:
            await migrations.upgrade(connection)
        await stack.enter_async_context(_twin(place) if twin else _ours(place))
        started = time.monotonic()
        arguments = map(str, (HERE / "load.py", broker.port, N_CHANNELS, n_messages))
        publisher = await asyncio.create_subprocess_exec(PYTHON, *arguments)
        elapsed_s = await _until_stored(dsn, n_messages * PER_MESSAGE, started)
        await publisher.wait()
        return n_messages * PER_MESSAGE / elapsed_s


@asynccontextmanager
async def _ours(place: Place) -> AsyncIterator[None]:
    with bind(Http(port=0)) as sock:
        port = sock.getsockname()[1]
    settings = {
        "STORE__DSN": place.dsn,
        "MQTT__PORT": str(place.broker_port),
        "HTTP__PORT": str(port),
        "DATA_DIR": str(place.folder / "data"),
    }
    environment = os.environ | {f"LIFELINE__{key}": value for key, value in settings.items()}
    command = [PYTHON.with_name("lifeline"), "run", place.topology]
    with (place.folder / "service.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*map(str, command), env=environment, stdout=log, stderr=log)
    try:
        await _until_ready(f"http://127.0.0.1:{port}/readyz")
        yield
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _twin(place: Place) -> AsyncIterator[None]:
    arguments = (
        HERE / "twin_service.py",
        place.dsn,
        place.broker_port,
        place.topology.parent,
        place.n_messages * PER_MESSAGE,
    )
    process = await asyncio.create_subprocess_exec(PYTHON, *map(str, arguments), stdout=subprocess.PIPE)
    try:
        async with asyncio.timeout(UP_S):
            await process.stdout.readline()  # type: ignore[union-attr] - it is a pipe
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(UP_S), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(url)).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


async def _until_stored(dsn: str, n_readings: int, started: float) -> float:
    """How long it took; the twin too notes its groups in their table, because counting rows takes long."""
    async with connected(dsn) as connection, asyncio.timeout(DONE_S):
        while await connection.fetchval("SELECT coalesce(sum(n_readings), 0) FROM commit_group") < n_readings:
            await asyncio.sleep(0.1)
        elapsed_s = time.monotonic() - started
        if await connection.fetchval("SELECT count(*) FROM reading") != n_readings:
            raise RuntimeError("what is stored is not what was published")
        return elapsed_s
