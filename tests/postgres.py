"""A PostgreSQL server process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import asyncpg

UP_S, STOP_S = 30.0, 30.0


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest version first."""
    found = [Path(p).parent for p in (shutil.which("initdb"),) if p]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "postgres").exists()), None)


class Postgres:
    """Durable against its own end, not against a power cut; `start` after `stop` takes up the same port and data."""

    def __init__(self, folder: Path, port: int) -> None:
        """Make the cluster; nothing runs yet.

        Args:
            folder: for data, log and socket. Run as root, the server is another user, who must get there.
            port: on 127.0.0.1.
        """
        found = programs()
        assert found, "PostgreSQL is not installed"
        self.dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._programs, self._folder, self._port = found, folder, port
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        options = ("-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
        command = [found / "initdb", "-D", folder / "data", *options]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **self._user)
        self._server: subprocess.Popen[bytes] | None = None

    def _launch(self) -> None:
        options = {
            "port": self._port,
            "unix_socket_directories": self._folder,
            "listen_addresses": "127.0.0.1",
            "fsync": "off",
        }
        command = [self._programs / "postgres", "-D", self._folder / "data"]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (self._folder / "log").open("ab") as out:
            self._server = subprocess.Popen(command, cwd=self._folder, stderr=out, **self._user)

    async def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._launch()
        async with asyncio.timeout(UP_S):
            while True:
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    await (await asyncpg.connect(self.dsn)).close()
                    return
                await asyncio.sleep(0.05)

    def stop(self, *, at_once: bool = False) -> None:
        """End it: its clients are cut off; `at_once` is as a crash."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            self._server.wait(STOP_S)
            self._server = None
