"""The demo's broker: a `mosquitto` where there is one, else amqtt in this process, which keeps nothing over a cut."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from lifeline_stream.errors import ConfigError, FatalError, Problem
from lifeline_stream.resources import find

UP_S = 10.0
STOP_S = 10.0
_SBIN = "/usr/sbin:/usr/local/sbin"
"""Where Debian puts it, outside an ordinary user's PATH."""


class LocalBroker(NamedTuple):
    """A broker on the loopback interface."""

    name: str
    port: int
    process: asyncio.subprocess.Process | None = None


@asynccontextmanager
async def local_broker(folder: Path) -> AsyncIterator[LocalBroker]:
    """Run a broker while the block runs.

    Args:
        folder: keeps its sessions between runs.

    Raises:
        ConfigError: there is neither a mosquitto nor amqtt.
        FatalError: it does not start.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)
    running = _mosquitto(program, folder) if program else _amqtt()
    async with running as broker:
        yield broker


@asynccontextmanager
async def _mosquitto(program: str, folder: Path) -> AsyncIterator[LocalBroker]:
    """The installed broker with the shipped configuration, open to this machine only."""
    port = _free_port()
    config = _configure(folder, port)
    if orphan := _orphan(folder / "pid", config):
        await _end(orphan, config)
    with (folder / "log").open("wb") as out:
        # a session of its own, so that Ctrl-C reaches it only after the pipeline has drained
        process = await asyncio.create_subprocess_exec(
            program, "-c", str(config), stdout=out, stderr=out, start_new_session=True
        )  # fmt: skip
    (folder / "pid").write_text(f"{os.getpid()} {process.pid}", encoding="utf-8")
    try:
        await _until_up(port, process, folder / "log")
        yield LocalBroker("mosquitto", port, process)
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(STOP_S):
                await process.wait()


def _configure(folder: Path, port: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    own = (
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        f"persistence_location {folder}/",
        "user root",  # as root it would become a user that may not write here; as anybody else it ignores this
    )
    shipped = find("deploy", "mosquitto.conf").read_text(encoding="utf-8")
    config = folder / "mosquitto.conf"
    config.write_text("\n".join((shipped, *own, "")), encoding="utf-8")
    return config


def _orphan(file: Path, config: Path) -> int:
    """The broker of a process that was killed, or 0: two of them must not share what they keep.

    Raises:
        FatalError: that process is alive.
    """
    try:
        owner, pid = map(int, file.read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return 0
    if not _runs_on(pid, config):
        return 0
    if Path(f"/proc/{owner}").exists():
        raise FatalError(f"process {owner} runs a broker on {config.parent}; end it, or use another --data-dir")
    return pid


async def _end(pid: int, config: Path) -> None:
    os.kill(pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            while _runs_on(pid, config):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise FatalError(f"the broker of an earlier run does not end: process {pid}") from None


def _runs_on(pid: int, config: Path) -> bool:
    """Whether a process was started with this configuration file."""
    try:
        return str(config).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


async def _until_up(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    try:
        async with asyncio.timeout(UP_S):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    except TimeoutError:
        pass
    raise FatalError(f"mosquitto does not start, see {log}")


@asynccontextmanager
async def _amqtt() -> AsyncIterator[LocalBroker]:
    try:
        from amqtt.broker import Broker  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        text = "there is no broker: install mosquitto, or pip install 'lifeline-stream[demo]'"
        raise ConfigError([Problem("", "", "mqtt.host", text)]) from None
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_not_of_amqtt)
    port = _free_port()
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}, "plugins": plugins})
    await broker.start()
    try:
        yield LocalBroker("amqtt, which keeps nothing over a cut: for a trial only", port)
    finally:
        async with asyncio.timeout(STOP_S):
            await broker.shutdown()


def _is_not_of_amqtt(record: logging.LogRecord) -> bool:
    """It raises when a client that speaks MQTT 5 goes away, which is how we find out that it speaks 3.1.1 only."""
    return "client_connected_cb" not in record.getMessage()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
