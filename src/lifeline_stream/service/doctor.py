"""`lifeline doctor` 体检: reach and versions of everything outside, each with what to do about it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from lifeline_stream.errors import FatalError, LifelineError, TransientError
from lifeline_stream.notify.webhook import Webhook
from lifeline_stream.settings import Settings, secret_of
from lifeline_stream.sources.mqtt import tls_context
from lifeline_stream.sources.probe import TOPIC, BrokerProbe, Probed
from lifeline_stream.store import migrations, sql
from lifeline_stream.store.database import connected
from lifeline_stream.store.spool import Spool

SQL = sql.load(__file__)
PACKAGES = ("lifeline-stream", "numpy", "numba", "asyncpg", "aiomqtt", "msgspec", "pydantic", "httpx")
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
"""Settings of the server without which a commit is none."""
EXAMINE_S = 120.0
"""Longest time of one examination."""


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        what: short name.
        ok: nothing has to be done.
        text: what was found, and what to do when it is not right.
    """

    what: str
    ok: bool
    text: str


def _ok(what: str, text: str) -> Finding:
    return Finding(what, ok=True, text=text)


def _wrong(what: str, text: str) -> Finding:
    return Finding(what, ok=False, text=text)


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything that the settings name, side by side; nothing is changed and no alarm is sent."""
    checks = {"database": _database, "broker": _broker, "webhook": _webhook, "data_dir": _data_dir, "spool": _spool}
    found = await asyncio.gather(*(_bounded(what, check, settings) for what, check in checks.items()))
    return [_program(), *(finding for findings in found for finding in findings)]


async def _bounded(
    what: str, check: Callable[[Settings], Awaitable[Iterable[Finding]]], settings: Settings
) -> list[Finding]:
    try:
        async with asyncio.timeout(EXAMINE_S):
            return list(await check(settings))
    except TimeoutError as error:
        return [_wrong(what, str(error) or f"no answer within {EXAMINE_S:.0f} s")]
    except (LifelineError, OSError) as error:
        return [_wrong(what, str(error) or type(error).__name__)]


def _program() -> Finding:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return _ok("program", f"Python {platform.python_version()}, {packages}")


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _database(settings: Settings) -> list[Finding]:
    """Version, level of the schema, what is pending, and whether a commit is a commit."""
    dsn = settings.store.dsn
    if not dsn:
        return [_ok("database", "none is named: `lifeline demo` brings its own, the other commands need one")]
    async with connected(dsn, "lifeline doctor") as connection:
        server = await connection.fetchrow(SQL["server"])
        level = _level(server["timescale"], server["license"])
        findings = [_ok("database", f"PostgreSQL {server['version']}, {level}")]
        if off := [f"{name} = off" for name in DURABLE if server[name] == "off"]:
            text = f"{', '.join(off)}: a power cut loses what was acknowledged to the gateways; set it on"
            findings.append(_wrong("durability", text))
        pending = await migrations.pending(connection)
    if not pending:
        return [*findings, _ok("schema", "up to date")]
    text = f"pending: {', '.join(pending)}; `lifeline db upgrade` or `lifeline run` applies them"
    if not server["may_create"]:
        text += f"; but {server['user']} may not create in schema {server['schema']}: GRANT CREATE ON SCHEMA … TO …"
    return [*findings, Finding("schema", ok=bool(server["may_create"]), text=text)]


def _level(timescale: str | None, license_: str | None) -> str:
    if timescale is None:
        return "no TimescaleDB: the plain schema"
    return f"TimescaleDB {timescale}" + (", Apache edition: the plain schema" if license_ == "apache" else "")


# ── the broker ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _broker(settings: Settings) -> list[Finding]:
    """What it speaks, and whether it drops what it has acknowledged."""
    mqtt = settings.mqtt
    tls = tls_context(mqtt.tls_ca_file) if mqtt.tls_ca_file else None
    password = secret_of(mqtt.password_file, "mqtt.password_file")
    probed = await BrokerProbe(mqtt.host, mqtt.port, mqtt.username, password, tls).run()
    text = f"{mqtt.host}:{mqtt.port} speaks MQTT {probed.protocol}"
    if probed.protocol != "5":
        text += ": how long a session lasts is then the broker's setting, not ours"
    return [_ok("broker", text), _kept(probed)]


def _kept(probed: Probed) -> Finding:
    if probed.n_refused:
        text = f"the broker takes nothing on {TOPIC}/#: let our user publish and read there, see deploy/mosquitto.acl"
        return _wrong("broker keeps", text)
    counted = f"{probed.n_back:,} of {probed.n_sent:,} messages for a session that was away came back"
    if probed.n_back == probed.n_sent:
        return _ok("broker keeps", counted)
    text = (
        f"{counted}: the broker drops readings that it has acknowledged to their gateway. Run mosquitto with "
        "deploy/mosquitto.conf (max_queued_messages 0, max_inflight_messages 0, a bound in bytes); on another broker "
        "set the same: no limit by number of what is queued for a session"
    )
    if not probed.n_back:
        text += f"; or our user may not read {TOPIC}/#, see deploy/mosquitto.acl"
    return _wrong("broker keeps", text)


# ── people, and the disk ─────────────────────────────────────────────────────────────────────────────────────────────


async def _webhook(settings: Settings) -> list[Finding]:
    """The name resolves, and the address takes a connection."""
    hook = settings.webhook
    if not hook.url:
        return [_ok("webhook", "none is named: nobody is told of alarms")]
    webhook = Webhook(hook.url, secret_of(hook.secret_file, "webhook.secret_file"), allow_private=hook.allow_private)
    try:
        return [_ok("webhook", f"{await webhook.reach()} takes connections; no alarm was sent")]
    except OSError as error:
        return [_wrong("webhook", f"{hook.url} is out of reach: {error or type(error).__name__}")]
    finally:
        await webhook.close()


async def _data_dir(settings: Settings) -> list[Finding]:
    """It can be written, and there is room for a spool."""
    folder = settings.data_dir.absolute()
    try:
        free = await asyncio.to_thread(_try_writing, folder)
    except OSError as error:
        text = f"{folder} can't be written: {error.strerror}; see data_dir"
        return [_wrong("data_dir", text)]
    bound = settings.ingest.spool_bytes
    if free < bound:
        text = f"{folder} has {_gib(free)} free and the spool may take {_gib(bound)}: make room, or lower spool_bytes"
        return [_wrong("data_dir", text)]
    return [_ok("data_dir", f"{folder} can be written, {_gib(free)} free")]


def _try_writing(folder: Path) -> int:
    """Write and sync a file; return the bytes that are free."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"lifeline doctor")
        file.flush()
        os.fsync(file.fileno())
    return shutil.disk_usage(folder).free


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


async def _spool(settings: Settings) -> list[Finding]:
    """What a crash left for the database; a pipeline that runs has its spool for itself."""
    folder = settings.data_dir / "spool"
    return await asyncio.to_thread(_look_into_spools, folder, settings.ingest.spool_bytes)


def _look_into_spools(folder: Path, max_bytes: int) -> list[Finding]:
    findings = []
    for path in sorted(p for p in folder.glob("*") if p.is_dir()):
        what = f"spool {path.name}"
        try:
            spool = Spool(path, max_bytes)
        except TransientError:
            findings.append(_ok(what, "a pipeline has it open"))
        except FatalError as error:
            findings.append(_wrong(what, f"{error}: keep a copy of the folder, and ask"))
        else:
            waits = f"{spool.size_bytes:,} bytes wait: the next start of the pipeline commits them first"
            findings.append(_ok(what, "empty" if spool.empty else waits))
            spool.close()
    return findings or [_ok("spool", "empty")]
