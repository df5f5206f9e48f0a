"""A real broker with the shipped configuration, on a port and in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "deploy" / "mosquitto.conf"
UP_S = 20.0
STOP_S = 30.0


def program() -> str | None:
    """Where mosquitto is; Debian puts it where an ordinary user's PATH does not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Broker:
    """Mosquitto with `deploy/mosquitto.conf`; `start` after `kill` or `stop` takes up the same port and persistence."""

    def __init__(
        self, folder: Path, port: int, extra: str = "allow_anonymous true", shipped: str | None = None
    ) -> None:
        """Write the configuration.

        Args:
            folder: for configuration, log and persistence.
            port: on 127.0.0.1.
            extra: further lines; by default anybody may connect.
            shipped: in the place of the shipped configuration.
        """
        self.host, self.port = "127.0.0.1", port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "persistence").mkdir(parents=True)
        own = (
            f"listener {port} {self.host}",
            f"persistence_location {folder / 'persistence'}/",
            "user root",  # as root it would become a user that can't reach the folder; as anybody else it ignores this
            extra,
        )
        text = SHIPPED.read_text(encoding="utf-8") if shipped is None else shipped
        (folder / "mosquitto.conf").write_text("\n".join((text, *own, "")), encoding="utf-8")

    @property
    def log(self) -> str:
        """What it has said."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        command = program()
        assert command, "mosquitto is not installed"
        with (self._folder / "log").open("ab") as out:
            self._process = subprocess.Popen([command, "-c", self._folder / "mosquitto.conf"], stdout=out, stderr=out)
        deadline = time.monotonic() + UP_S
        while not self._takes_connections():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, f"not up within {UP_S} s\n{self.log}"
            time.sleep(0.02)

    def _takes_connections(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((self.host, self.port)) == 0

    def kill(self) -> None:
        """As a crash: SIGKILL."""
        self._end("kill")

    def stop(self) -> None:
        """In order: it saves what it holds."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(STOP_S)
            self._process = None
