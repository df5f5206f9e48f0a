"""The schema: forward-only SQL files in two levels, and the ledger of those applied.

`schema/plain` is for any PostgreSQL from 15 on; `schema/timescale` follows where the TimescaleDB extension is installed
in the database; its Apache edition lacks what that needs and counts as plain. An applied file never changes; a change
is a new file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import structlog

from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.store import sql
from lifeline_stream.store.database import Connection, budget, transaction

SQL = sql.load(__file__)
SCHEMA = Path(__file__).parent / "schema"
LEVELS = ("plain", "timescale")

UPGRADE_S = 3600.0
"""Budget of one upgrade: a migration may rewrite a large table."""
_LOCK = 0x4C4C_5343
"""Advisory lock of an upgrade; any number that nothing else uses."""
_OLDEST_SERVER = 150_000
_OLDEST_TIMESCALE = (2, 19)

log = structlog.get_logger(__name__)


class Migration(NamedTuple):
    """One file of the schema."""

    name: str
    """`level/NNNN_title`."""
    text: str

    @property
    def checksum(self) -> str:
        """Of the text, so that an edit after the fact is noticed."""
        return sha256(self.text.encode()).hexdigest()[:16]


def migrations() -> list[Migration]:
    """All files, in the order in which they are applied."""
    return [
        Migration(f"{level}/{path.stem}", path.read_text(encoding="utf-8"))
        for level in LEVELS
        for path in sorted((SCHEMA / level).glob("*.sql"))
    ]


async def upgrade(connection: Connection) -> list[str]:
    """Apply what is missing, each file in its own transaction; two processes at once do it once.

    Returns:
        The names of the files applied, in order.

    Raises:
        ConfigError: the server is too old, or its schema is not of this program's line.
        TransientError: the database is away.
        FatalError: a file failed; those before it stay applied.
    """
    applied = []
    async with budget(UPGRADE_S, "upgrade the schema"):
        async with _turn(connection):
            await connection.execute(SQL["create_ledger"])
        for migration in await _missing(connection):
            async with _turn(connection):
                if not await connection.fetchval(SQL["is_applied"], migration.name):
                    await connection.execute(migration.text)
                    await connection.execute(SQL["enter"], migration.name, migration.checksum)
                    applied.append(migration.name)
                    log.info("migration applied", migration=migration.name)
    return applied


@asynccontextmanager
async def _turn(connection: Connection) -> AsyncIterator[None]:
    """A transaction that no other upgrade runs beside."""
    async with transaction(connection):
        await connection.execute(SQL["lock"], _LOCK)
        yield


async def pending(connection: Connection) -> list[str]:
    """Names of the files that `upgrade` would apply.

    Raises:
        ConfigError: as `upgrade`.
    """
    async with budget(UPGRADE_S, "read the schema's ledger"):
        return [migration.name for migration in await _missing(connection)]


async def _missing(connection: Connection) -> list[Migration]:
    if int(await connection.fetchval(SQL["server_version"])) < _OLDEST_SERVER:
        raise _wrong("server", "PostgreSQL 15 or later is needed")
    applied: dict[str, str] = {}
    if await connection.fetchval(SQL["ledger_exists"]):
        applied = dict(await connection.fetch(SQL["applied"]))
    level = "timescale" if await _has_timescale(connection) else "plain"
    known = migrations()
    _check(applied, known)
    return [m for m in known if m.name not in applied and (level == "timescale" or m.name.startswith("plain/"))]


async def _has_timescale(connection: Connection) -> bool:
    version = await connection.fetchval(SQL["timescale_version"])
    if version is None:
        return False
    if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < _OLDEST_TIMESCALE:
        raise _wrong(
            "timescaledb", f"version {version} is installed; 2.19 or later is needed: ALTER EXTENSION … UPDATE"
        )
    return True


def _check(applied: dict[str, str], known: list[Migration]) -> None:
    checksums = {migration.name: migration.checksum for migration in known}
    if strangers := [name for name in applied if name not in checksums]:
        raise _wrong(
            strangers[0], "is applied and not known to this program: it is older than the schema; upgrade the program"
        )
    if changed := [name for name in applied if applied[name] != checksums[name]]:
        raise _wrong(changed[0], "was changed after it was applied: put the file back and write a new one")


def _wrong(what: str, text: str) -> ConfigError:
    return ConfigError([Problem("database", what, "", text)])
