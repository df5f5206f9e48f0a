"""`lifeline doctor` finds what is wrong outside, and says what to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from conftest import free_port
from integration.brokers import broker_with, with_users
from integration.store_groups import group_of
from lifeline_stream.service.doctor import Finding, examine
from lifeline_stream.settings import Settings
from lifeline_stream.sources.probe import AWAY_RECEIVE_MAXIMUM, N_MESSAGES, BrokerProbe
from lifeline_stream.store import migrations
from lifeline_stream.store.database import connected
from lifeline_stream.store.spool import Spool
from mosquitto import Broker

SECRET = "whsec_" + "bGlmZWxpbmU=" * 4


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of an installation that has nothing."""
    nothing = free_port()
    return Settings(data_dir=tmp_path / "data", mqtt={"port": nothing}, ingest={"spool_bytes": 1 << 20})


async def found(settings: Settings, **sections: dict[str, Any]) -> dict[str, Finding]:
    sections = {name: {**getattr(settings, name).model_dump(), **section} for name, section in sections.items()}
    findings = await examine(Settings.model_validate({**settings.model_dump(), **sections}))
    return {finding.what: finding for finding in findings}


# ── the broker ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_shipped_broker_speaks_5_and_keeps_everything(broker: Broker, settings: Settings) -> None:
    findings = await found(settings, mqtt={"host": broker.host, "port": broker.port})
    assert findings["broker"] == ("broker", True, f"127.0.0.1:{broker.port} speaks MQTT 5")
    assert findings["broker keeps"].ok
    assert f"{N_MESSAGES:,} of {N_MESSAGES:,}" in findings["broker keeps"].text


@pytest.mark.parametrize(
    ("config", "kept"), [("max_queued_messages 100", 100), ("", 1000)], ids=["a bound", "defaults"]
)
async def test_a_broker_that_drops_is_found_and_the_remedy_named(
    tmp_path: Path, settings: Settings, config: str, kept: int
) -> None:
    with broker_with(tmp_path, config) as dropping:
        findings = await found(settings, mqtt={"port": dropping.port})
    assert findings["broker"].ok
    finding = findings["broker keeps"]
    assert not finding.ok
    n_back = int(finding.text.split(" of ")[0].replace(",", ""))
    assert kept <= n_back <= kept + AWAY_RECEIVE_MAXIMUM
    assert "deploy/mosquitto.conf" in finding.text
    assert "max_queued_messages 0" in finding.text


async def test_the_probe_leaves_no_session_behind(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "known")
    probe = BrokerProbe(broker.host, broker.port)
    async with probe._session("lifeline-doctor-other", "5"):
        pass
    probed = await probe.run()
    assert probed.n_back == probed.n_sent == N_MESSAGES
    names = ("other", "known", "known-ask", "known-publish")
    assert [await has_session(broker, f"lifeline-doctor-{name}") for name in names] == [True, False, False, False]


async def has_session(broker: Broker, identifier: str) -> bool:
    """What the broker says of a session when its client comes back."""
    present = []
    client = aiomqtt.Client(
        broker.host, broker.port, identifier=identifier, protocol=aiomqtt.ProtocolVersion.V5, clean_start=False
    )
    connected_to = client._client.on_connect

    def on_connect(*arguments: Any) -> None:
        present.append(arguments[2].session_present)
        connected_to(*arguments)

    client._client.on_connect = on_connect
    async with asyncio.timeout(30), client:
        return bool(present.pop())


async def test_a_user_without_the_right_is_told_which(tmp_path: Path, settings: Settings) -> None:
    extra, password_file = with_users(tmp_path, "lifeline", "G1")
    with broker_with(tmp_path, "", extra) as guarded:
        findings = await found(
            settings, mqtt={"port": guarded.port, "username": "G1", "password_file": password_file}
        )  # fmt: skip
        assert "lifeline/doctor/#" in findings["broker keeps"].text
        anonymous = await found(settings, mqtt={"port": guarded.port})
        assert not anonymous["broker"].ok
        assert "rights" in anonymous["broker"].text


async def test_no_broker_is_a_finding_and_not_a_failure(settings: Settings) -> None:
    findings = await found(settings)
    assert not findings["broker"].ok
    assert "mqtt.host" in findings["broker"].text


async def test_a_broker_that_never_answers_is_a_finding(settings: Settings) -> None:
    async with listening(silent=True) as port:
        findings = await found(settings, mqtt={"port": port})
    assert not findings["broker"].ok


@contextlib.asynccontextmanager
async def listening(*, silent: bool = False) -> AsyncIterator[int]:
    """A port that takes connections, and closes them at once unless it is silent."""
    taken: list[asyncio.StreamWriter] = []

    def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        if not silent:
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for writer in taken:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_database_without_the_schema_is_told_what_is_pending(postgres_dsn: str, settings: Settings) -> None:
    findings = await found(settings, store={"dsn": postgres_dsn})
    assert findings["database"].ok
    assert "PostgreSQL" in findings["database"].text
    assert "plain/0001_tables" in findings["schema"].text
    async with connected(postgres_dsn) as connection:
        await migrations.upgrade(connection)
    findings = await found(settings, store={"dsn": postgres_dsn})
    assert findings["schema"] == ("schema", True, "up to date")


async def test_a_server_that_forgets_on_a_power_cut_is_found(postgres_dsn: str, settings: Settings) -> None:
    async with connected(postgres_dsn) as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    findings = await found(settings, store={"dsn": postgres_dsn})
    assert not findings["durability"].ok
    assert "synchronous_commit = off" in findings["durability"].text


async def test_a_schema_of_another_line_is_a_finding(store_dsn: str, settings: Settings) -> None:
    async with connected(store_dsn) as connection:
        await connection.execute("UPDATE schema_migration SET checksum = 'other'")
    findings = await found(settings, store={"dsn": store_dsn})
    assert not findings["database"].ok
    assert "changed after it was applied" in findings["database"].text


async def test_no_database_is_a_finding(settings: Settings) -> None:
    findings = await found(settings, store={"dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/none"})
    assert not findings["database"].ok


async def test_a_webhook_is_reached_and_nothing_is_sent(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "hook").write_text(SECRET)
    hook = {"secret_file": tmp_path / "hook"}
    async with listening() as port:
        findings = await found(settings, webhook={**hook, "url": f"http://127.0.0.1:{port}/alarms"})
        assert findings["webhook"].ok
        over_tls = await found(settings, webhook={**hook, "url": f"https://127.0.0.1:{port}/alarms"})
        assert not over_tls["webhook"].ok
    gone = await found(settings, webhook={**hook, "url": f"http://127.0.0.1:{free_port()}/alarms"})
    assert not gone["webhook"].ok
    assert "out of reach" in gone["webhook"].text
    unsigned = await found(settings, webhook={"url": "http://127.0.0.1/alarms"})
    assert "whsec_" in unsigned["webhook"].text


async def test_a_data_folder_without_room_or_that_is_none_is_found(tmp_path: Path, settings: Settings) -> None:
    assert (await found(settings))["data_dir"].ok
    small = await found(settings, ingest={"spool_bytes": 1 << 60})
    assert "spool_bytes" in small["data_dir"].text
    assert not small["data_dir"].ok
    (tmp_path / "file").touch()
    none = await found(settings.model_copy(update={"data_dir": tmp_path / "file"}))
    assert not none["data_dir"].ok


async def test_what_waits_in_a_spool_is_told(settings: Settings) -> None:
    assert (await found(settings))["spool"].text == "empty"
    spool = Spool(settings.data_dir / "spool" / "city", 1 << 20)
    spool.append(group_of(1, [(0, 1, 1.0)]))
    assert (await found(settings))["spool city"].text == "a pipeline has it open"
    spool.close()
    waiting = (await found(settings))["spool city"]
    assert waiting.ok
    assert "bytes wait" in waiting.text
