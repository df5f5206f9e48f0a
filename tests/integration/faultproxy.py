"""A TCP proxy that fails on demand: refuses, stalls, cuts, orphans sessions, or loses the server's answer to COMMIT."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

_CHUNK = 1 << 16
_COMMIT = b"COMMIT;\0"


class FaultProxy:
    """Forwards connections to one host and port until it is told not to."""

    def __init__(self, host: str, port: int) -> None:
        """Nothing listens yet."""
        self._target = (host, port)
        self._links: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._lose_answer = False
        self._keeping = False
        self._orphans: list[asyncio.StreamWriter] = []
        self.refusing = False
        self.answers_lost = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultProxy]:
        """Listen on a free port of the loopback interface while the block runs."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._keeping = False
            self.cut()
            for orphan in self._orphans:
                orphan.transport.abort()
            await asyncio.gather(*self._links, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection that is open."""
        for writers in self._links.values():
            for writer in writers:
                writer.transport.abort()
        self._open.set()

    def orphan(self) -> None:
        """Break the clients' side only: the server goes on believing in its sessions."""
        self._keeping = True
        for client, _ in self._links.values():
            client.transport.abort()

    def stall(self) -> None:
        """Forward nothing until `resume`; connections stay open."""
        self._open.clear()

    def resume(self) -> None:
        """Forward again, and accept again."""
        self._open.set()
        self.refusing = False

    def refuse(self) -> None:
        """Cut everything, and close every new connection at once."""
        self.refusing = True
        self.cut()

    def lose_next_commit_answer(self) -> None:
        """Let the next COMMIT reach the server, then cut the connection before its answer gets through."""
        self._lose_answer = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._links[task] = (writer, server_writer)
        commits = asyncio.Event()
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                up = self._forward(reader, server_writer, commits, from_client=True)
                down = self._forward(server_reader, writer, commits, from_client=False)
                await asyncio.gather(up, down)
        finally:
            del self._links[task]
            writer.transport.abort()
            if self._keeping:
                self._orphans.append(server_writer)
            else:
                server_writer.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commits: asyncio.Event, *, from_client: bool
    ) -> None:
        while data := await reader.read(_CHUNK):
            await self._open.wait()
            if from_client and self._lose_answer and data.endswith(_COMMIT):
                self._lose_answer = False
                commits.set()
            if not from_client and commits.is_set():
                self.answers_lost += 1
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError


@contextlib.asynccontextmanager
async def faulty(dsn: str) -> AsyncIterator[tuple[str, FaultProxy]]:
    """A DSN that leads to the same database through a proxy of its own."""
    parts = urlsplit(dsn)
    async with FaultProxy(parts.hostname or "127.0.0.1", parts.port or 5432).running() as proxy:
        through = parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}")
        yield urlunsplit(through), proxy
