"""Connections to PostgreSQL, and what its errors ask of us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, Protocol, TypeAlias

import asyncpg

from lifeline_stream.errors import FatalError, LifelineError, TransientError

Connection: TypeAlias = Any
"""An `asyncpg.Connection`."""

CONNECT_S = 10.0
QUERY_S = 30.0
"""Budget of a read for a person."""

# A server must notice within seconds that a holder of a lock has gone, whatever happened to the network between.
_SESSION = {
    "timezone": "UTC",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "60s",
}
FOREIGN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Every way in which a piece of work with the database can fail."""


class Fault(Enum):
    """What a failure of the database asks of the caller."""

    TRANSIENT = "try again on a new connection"
    DATA = "the values are at fault: leave them out"
    FATAL = "nothing will help but a person"


_BY_CLASS = {
    **dict.fromkeys(("08", "40", "53", "55", "57", "58", "XX"), Fault.TRANSIENT),
    **dict.fromkeys(("22", "23", "54", "P0"), Fault.DATA),
}
_BY_STATE = {
    "25006": Fault.TRANSIENT,  # read-only: a primary that has just been demoted
    "25P03": Fault.TRANSIENT,  # idle in transaction for too long: this process was frozen
}
_BY_TYPE = (
    (asyncpg.InvalidCachedStatementError, Fault.TRANSIENT),  # the schema changed under an open connection
    (asyncpg.DataError, Fault.DATA),  # a value that the client can't even encode
    (asyncpg.InterfaceError, Fault.TRANSIENT),
    (asyncpg.InternalClientError, Fault.TRANSIENT),
    (OSError, Fault.TRANSIENT),  # TimeoutError too
)


def fault_of(error: BaseException) -> Fault:
    """Judge by type and SQLSTATE, never by the text.

    >>> fault_of(asyncpg.UniqueViolationError("x")).name, fault_of(ConnectionResetError()).name
    ('DATA', 'TRANSIENT')
    """
    for kind, fault in _BY_TYPE:
        if isinstance(error, kind):
            return fault
    state = getattr(error, "sqlstate", None) or ""
    return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], Fault.FATAL)


def translated(error: BaseException, doing: str) -> LifelineError:
    """The same failure as one of ours."""
    text = f"{doing}: {error or type(error).__name__}"
    return TransientError(text) if fault_of(error) is Fault.TRANSIENT else FatalError(text)


def storable(text: str) -> str:
    """The same text without what PostgreSQL's text can't hold: NUL and lone surrogates.

    >>> storable("a" + chr(0) + "b")
    'a�b'
    """
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


@asynccontextmanager
async def budget(seconds: float, doing: str) -> AsyncIterator[None]:
    """Bound a piece of work with the database and translate its failures.

    Raises:
        TransientError: try again.
        FatalError: don't.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except FOREIGN as error:
        raise translated(error, doing) from error


async def connect(dsn: str, name: str = "lifeline") -> Connection:
    """Open one connection; `name` shows in `pg_stat_activity`.

    Raises:
        TransientError: the server is away.
        FatalError: it refuses us.
    """
    async with budget(CONNECT_S, "connect to the database"):
        return await asyncpg.connect(dsn, server_settings=_SESSION | {"application_name": name})


@asynccontextmanager
async def connected(dsn: str, name: str = "lifeline") -> AsyncIterator[Connection]:
    """A connection for one piece of work."""
    connection = await connect(dsn, name)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction, or a savepoint in one, that does no more with a connection whose state is unknown.

    It rolls back when the server has refused something. After any other failure the caller drops the connection;
    asyncpg's own context manager would wait for a ROLLBACK to cross a network that is gone.
    """
    step = connection.transaction()
    await step.start()
    try:
        yield
    except FOREIGN as error:
        if fault_of(error) is not Fault.TRANSIENT:
            await step.rollback()
        raise
    await step.commit()


class Queryable(Protocol):
    """Runs single statements: a connection, or a `Database`."""

    async def execute(self, query: str, *arguments: Any) -> Any:  # noqa: ANN401 - as asyncpg has it
        """Run a statement."""

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:  # noqa: ANN401
        """All rows."""

    async def fetchrow(self, query: str, *arguments: Any) -> Any:  # noqa: ANN401
        """The first row, or None."""

    async def fetchval(self, query: str, *arguments: Any) -> Any:  # noqa: ANN401
        """The first value of the first row, or None."""


class Database:
    """A few connections for single statements; one that failed is not used again."""

    def __init__(self, pool: Any) -> None:  # noqa: ANN401 - an asyncpg.Pool
        """Use `open_database`."""
        self._pool = pool

    async def execute(self, query: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Run a statement."""
        async with self._lent() as connection:
            return await connection.execute(query, *arguments)

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:  # noqa: ANN401
        """All rows."""
        async with self._lent() as connection:
            rows: list[Any] = await connection.fetch(query, *arguments)
            return rows

    async def fetchrow(self, query: str, *arguments: Any) -> Any:  # noqa: ANN401
        """The first row, or None."""
        async with self._lent() as connection:
            return await connection.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> Any:  # noqa: ANN401
        """The first value of the first row, or None."""
        async with self._lent() as connection:
            return await connection.fetchval(query, *arguments)

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        connection = await self._pool.acquire(timeout=CONNECT_S)
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        finally:
            await self._pool.release(connection)


@asynccontextmanager
async def open_database(dsn: str, name: str = "lifeline", most: int = 4) -> AsyncIterator[Database]:
    """At most `most` connections, for readers and for the outbox.

    Raises:
        TransientError: the server is away.
        FatalError: it refuses us.
    """
    async with budget(CONNECT_S, "connect to the database"):
        # none is kept open by force: asyncpg would log a traceback for each attempt while the server is away
        pool = await asyncpg.create_pool(
            dsn, min_size=0, max_size=most, server_settings=_SESSION | {"application_name": name}
        )  # fmt: skip
    database = Database(pool)
    try:
        async with budget(CONNECT_S, "connect to the database"):
            await database.fetchval("SELECT 1")
        yield database
    finally:
        pool.terminate()
