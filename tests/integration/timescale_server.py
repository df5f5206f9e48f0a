"""TimescaleDB for the tests: in WebAssembly under Node, or a native server named by LIFELINE_TEST_DSN."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from conftest import missing
from lifeline_stream.store.database import connected

FOLDER = Path(__file__).parents[1] / "timescale"
NATIVE = os.environ.get("LIFELINE_TEST_DSN")
STOP_S = 20.0


def is_installed() -> bool:
    """Whether npm has put the pinned package there."""
    ((name, version),) = json.loads((FOLDER / "package.json").read_text())["dependencies"].items()
    package = FOLDER / "node_modules" / name / "package.json"
    return package.exists() and json.loads(package.read_text())["version"] == version


@contextlib.contextmanager
def in_webassembly() -> Iterator[str]:
    """DSN of a server of its own. It has one session, so one connection at a time, and no COPY."""
    if shutil.which("node") is None or not is_installed():
        missing("TimescaleDB in WebAssembly (node, and npm install in tests/timescale)")
    command = ("node", FOLDER / "run.mjs")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin
        assert server.stdout
        try:
            port = server.stdout.readline().strip()
            assert port, "the server ended before it said its port"
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
        finally:
            server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(STOP_S)
            server.kill()


@contextlib.contextmanager
def natively() -> Iterator[str]:
    """DSN of a database of its own on the server of LIFELINE_TEST_DSN, where that has the extension."""
    assert NATIVE
    name = f"t{uuid4().hex[:12]}"
    if not asyncio.run(_ask(NATIVE, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')")):
        pytest.skip("the server of LIFELINE_TEST_DSN has no TimescaleDB")
    asyncio.run(_ask(NATIVE, f"CREATE DATABASE {name} TEMPLATE template0"))
    try:
        yield urlunsplit(urlsplit(NATIVE)._replace(path=f"/{name}"))
    finally:
        asyncio.run(_ask(NATIVE, f"DROP DATABASE {name} WITH (FORCE)"))


async def _ask(dsn: str, query: str) -> object:
    async with connected(dsn) as connection:
        return await connection.fetchval(query)


SERVERS = {"wasm": in_webassembly, "native": natively}
PRESENT = ["wasm", "native"] if NATIVE else ["wasm"]
