"""Holding a shard: the advisory lock says who may start, the epoch says who may write."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import NamedTuple

import structlog

from lifeline_stream.errors import FatalError, TransientError
from lifeline_stream.store import sql
from lifeline_stream.store.database import Connection, budget, connect, connected

SQL = sql.load(__file__)
_NAMESPACE = 0x4C4C_5348
"""First key of the shards' advisory locks; the second is shard_no."""
_STEP_S = 10.0
"""Budget of one small statement."""
_CLOSE_S = 2.0

log = structlog.get_logger(__name__)


class Shard(NamedTuple):
    """A shard as its holder found it."""

    shard: str
    shard_no: int
    epoch: int
    group_seq: int
    """n of the last group."""


class Lease:
    """One process's hold on a shard, over however many connections."""

    def __init__(self, dsn: str, shard: str, *, standby_wait_s: float = 5.0, poll_s: float = 1.0) -> None:
        """Nothing is opened yet.

        Args:
            dsn: of a server, not of a pooler in transaction mode: the lock belongs to the session.
            shard: name of the shard.
            standby_wait_s: how long a standby leaves a free lock to the holder that may be reconnecting.
            poll_s: how often it looks.
        """
        self._dsn = dsn
        self._name = shard
        self._standby_wait_s = standby_wait_s
        self._poll_s = poll_s
        self._is_standby = False
        self._connection: Connection | None = None
        self._pid = 0
        self.held: Shard | None = None

    async def acquire(self) -> Shard:
        """Take the shard and raise its epoch; while another holds it, wait as a warm standby.

        Raises:
            TransientError: the database is away.
        """
        self.drop()
        connection = self._connection = await connect(self._dsn, f"lifeline {self._name}")
        shard_no = await self._number(connection)
        if self._is_standby or not await self._try_lock(connection, shard_no):
            await self._stand_by(connection, shard_no)
        async with budget(_STEP_S, "raise the epoch"):
            row = await connection.fetchrow(SQL["raise_epoch"], self._name, f"{socket.gethostname()}:{os.getpid()}")
        self._pid = connection.get_server_pid()
        self._is_standby = False
        self.held = Shard(self._name, shard_no, row["epoch"], row["group_seq"])
        log.info("shard taken", shard=self._name, epoch=row["epoch"], group_seq=row["group_seq"])
        return self.held

    async def connection(self) -> Connection:
        """The connection that holds the lock; a new one, locked again at once, when the last was lost.

        Raises:
            TransientError: the database is away.
            FatalError: another process took the shard.
        """
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self.held is None:
            raise FatalError(f"shard {self._name!r} is not open")
        connection = self._connection = await connect(self._dsn, f"lifeline {self._name}")
        while not await self._try_lock(connection, self.held.shard_no):
            await self.check_epoch(connection)
            await self._end_own_session(connection)
            await asyncio.sleep(0.05)
        await self.check_epoch(connection)
        self._pid = connection.get_server_pid()
        log.info("shard held again", shard=self._name, epoch=self.held.epoch)
        return connection

    async def check_epoch(self, connection: Connection) -> int:
        """Number of the last group, if the shard is still ours.

        Raises:
            FatalError: another process took it.
        """
        async with budget(_STEP_S, "read the epoch"):
            row = await connection.fetchrow(SQL["read_shard"], self._name)
        if row is None or self.held is None or row["epoch"] != self.held.epoch:
            self.held = None
            holder = row["holder"] if row else "nobody"
            raise FatalError(f"shard {self._name!r} was taken over by {holder}")
        return int(row["group_seq"])

    async def check(self) -> None:
        """The same on a connection of its own, as the one that holds the lock may be at work."""
        async with connected(self._dsn, f"lifeline {self._name} check") as connection:
            await self.check_epoch(connection)

    def drop(self) -> None:
        """Give up the connection: its state is unknown, so it is never used again."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def release(self) -> None:
        """Let the next one have the shard."""
        self.held = None
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                async with budget(_CLOSE_S, "close the connection"):
                    await connection.close()
            except TransientError:
                connection.terminate()

    async def _number(self, connection: Connection) -> int:
        async with budget(_STEP_S, "register the shard"):
            await connection.execute(SQL["register"], self._name)
            row = await connection.fetchrow(SQL["read_shard"], self._name)
        return int(row["shard_no"])

    async def _try_lock(self, connection: Connection, shard_no: int) -> bool:
        async with budget(_STEP_S, "lock the shard"):
            return bool(await connection.fetchval(SQL["try_lock"], _NAMESPACE, shard_no))

    async def _stand_by(self, connection: Connection, shard_no: int) -> None:
        self._is_standby = True
        log.info("standing by", shard=self._name)
        while True:
            async with budget(_STEP_S, "watch the shard"):
                is_held = await connection.fetchval(SQL["is_locked"], _NAMESPACE, shard_no)
            if is_held:
                await asyncio.sleep(self._poll_s)
                continue
            await asyncio.sleep(self._standby_wait_s)
            if await self._try_lock(connection, shard_no):
                return

    async def _end_own_session(self, connection: Connection) -> None:
        """End the session that we lost and that the server still believes in; its lock is what we wait for."""
        async with budget(_STEP_S, "end the lost session"):
            await connection.execute(SQL["end_session"], _NAMESPACE, self.held.shard_no if self.held else 0, self._pid)
