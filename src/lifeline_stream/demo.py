"""The demo: a broker, a database, the simulated city, the pipeline, the API and a webhook receiver in one process."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import typer
from rich.console import Console
from rich.live import Live

from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.packs import Pack
from lifeline_stream.declarations import Topology, load_packs, load_topology
from lifeline_stream.errors import TransientError
from lifeline_stream.fleet.gateways import Gateways
from lifeline_stream.notify.receiver import Receiver
from lifeline_stream.observe import Health, Metrics, configure_logging
from lifeline_stream.screen import AlarmLine, DomainLine, Snapshot, draw
from lifeline_stream.service.api.app import api_app
from lifeline_stream.service.http import bind, serve
from lifeline_stream.settings import Http, Settings
from lifeline_stream.shard import run_shard
from lifeline_stream.sources import names_of
from lifeline_stream.sources.broker import LocalBroker, local_broker
from lifeline_stream.store import migrations, queries
from lifeline_stream.store.database import Database, connected, open_database
from lifeline_stream.store.embedded import embedded_postgres

log = structlog.get_logger(__name__)

REFRESH_S = 1.0
DRAIN_S = 8.0
"""How long the end waits for what was published to be stored."""
SHOWN = 8
COUNTS = ("published", "stored", "rejected", "alarms_raised", "alarms_open", "webhooks_verified")


@dataclass(slots=True)
class Told:
    """What the receiver has verified."""

    n_by_domain: Counter[str] = field(default_factory=Counter)
    newest: list[str] = field(default_factory=list)

    def verified(self, body: dict[str, Any]) -> None:
        """One message, whose signature fits, for the first time."""
        data = body["data"]
        self.n_by_domain[data["domain"]] += 1
        value = "–" if data["value"] is None else f"{data['value']:.3g}"
        what = f"{data['colour']} {data['event']}  {data['detector']}  {data['asset_name']}"
        at = datetime.fromisoformat(data["at"]).astimezone()
        text = f"{at:%H:%M:%S}  {what}  {value}{_unit(data['unit'])}"
        self.newest = [text, *self.newest[: SHOWN // 2 - 1]]
        log.info("webhook verified", what=text)


class Look(NamedTuple):
    """The metrics at one moment.

    Attributes:
        at_s: the monotonic clock.
        totals: samples by name, summed over their labels.
        taken: readings by domain.
    """

    at_s: float
    totals: Mapping[str, float]
    taken: Mapping[str, float]

    def mean(self, histogram: str, before: Look) -> float:
        """Mean of what a histogram took in since an earlier look."""
        total, n = (
            self.totals[name] - before.totals.get(name, 0.0) for name in (f"{histogram}_sum", f"{histogram}_count")
        )
        return total / max(1.0, n)


async def run_demo(settings: Settings, seconds: float | None, stop: asyncio.Event) -> None:
    """Run until `stop`, or for so many seconds; the last line on stdout is a JSON summary.

    Raises:
        ConfigError: a declaration is wrong, or what the demo needs is not installed.
        FatalError: a part does not start.
    """
    folder = settings.data_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    screen = sys.stderr.isatty()
    configure_logging(settings.log.level, json=False, file=folder / "demo.log" if screen else None)
    topology = load_topology("demo")
    packs = load_packs(topology.packs_path())
    catalog = load_registry(topology.registry_path(), packs)
    async with AsyncExitStack() as stack:
        dsn = settings.store.dsn or await stack.enter_async_context(embedded_postgres(folder / "postgres"))
        broker = await stack.enter_async_context(local_broker(folder / "broker"))
        told = Told()
        url, secret_file = await stack.enter_async_context(_receiver(folder, told))
        webhook = settings.webhook.model_copy(update={"url": url, "secret_file": secret_file, "allow_private": True})
        inner = settings.model_copy(
            update={
                "data_dir": folder,
                "store": settings.store.model_copy(update={"dsn": dsn}),
                "mqtt": settings.mqtt.model_copy(update={"host": "127.0.0.1", "port": broker.port}),
                "webhook": webhook,
            }
        )
        async with connected(dsn) as connection:
            await migrations.upgrade(connection)
        database = await stack.enter_async_context(open_database(dsn, "lifeline demo"))
        since_seq = await database.fetchval("SELECT coalesce(max(group_seq), 0) FROM commit_group")
        n_runs = await database.fetchval("SELECT coalesce(sum(epoch), 0)::int FROM shard_state")
        # alarms of the runs before may still hold, so incidents happen elsewhere in each run
        options = topology.fleet.model_copy(update={"seed": topology.fleet.seed + n_runs})
        topology = topology.model_copy(update={"fleet": options})
        demo = Demo(inner, topology, packs, catalog, database, broker, told, int(since_seq))
        await demo.run(seconds, stop, screen=screen)
        summary = await demo.summary()
    typer.echo(json.dumps(summary, ensure_ascii=False))


@asynccontextmanager
async def _receiver(folder: Path, told: Told) -> AsyncIterator[tuple[str, Path]]:
    """The webhook's other end, in this process, and the file with the secret that both know."""
    file = folder / "webhook.secret"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n", encoding="utf-8")
    sock = bind(Http(port=0))
    receiver = Receiver(file.read_text(encoding="utf-8").strip(), told.verified)
    serving = asyncio.create_task(serve(receiver.app(), sock))
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/alarms", file
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


class Demo:
    """The parts that run together, and what they say."""

    def __init__(  # noqa: PLR0913, PLR0917 - what was prepared before they run
        self,
        settings: Settings,
        topology: Topology,
        packs: list[Pack],
        catalog: Catalog,
        database: Database,
        broker: LocalBroker,
        told: Told,
        since_seq: int,
    ) -> None:
        """Nothing runs yet; `since_seq` is the last group of the runs before."""
        self._settings, self._topology = settings, topology
        self._database, self._told, self._since_seq = database, told, since_seq
        self._domain_names = {pack.domain.id: f"{pack.domain.id} {pack.domain.name}" for pack in packs}
        self._device_domain = {channel.device: channel.domain for channel in catalog.channels}
        self._broker_name = broker.name
        self._metrics = Metrics()
        self._health = Health(self._metrics)
        self._gateways = Gateways(catalog, packs, topology.fleet, settings.mqtt)
        self._started_s = time.monotonic()
        self._before = Look(self._started_s, {}, dict.fromkeys(self._domain_names, 0.0))
        self._address = ""

    async def run(self, seconds: float | None, stop: asyncio.Event, *, screen: bool) -> None:
        """Run everything; at the end the city falls silent first, and what it has said is stored."""
        sock = bind(self._settings.http)
        self._address = f"http://{self._settings.http.host}:{sock.getsockname()[1]}"
        log.info(
            "demo",
            metrics=f"{self._address}/metrics",
            alarms=f"{self._address}/api/v1/alarms",
            broker=self._broker_name,
        )
        silent, drained = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(serve(api_app(self._metrics, self._health, self._database), sock), name="http")
            ]
            shard = run_shard(self._topology, self._settings, drained, self._metrics, self._health)
            shard_task = tasks.create_task(shard, name="shard")
            fleet = tasks.create_task(self._speak(silent), name="fleet")
            background.append(tasks.create_task(self._show(screen=screen), name="screen"))
            await self._until_end(seconds, stop)
            silent.set()
            await fleet
            await self._drain()
            drained.set()
            await shard_task
            for task in background:
                task.cancel()

    async def _speak(self, silent: asyncio.Event) -> None:
        """Let the city speak once somebody listens: before the first session a broker keeps nothing."""
        while not self._health.ready and not silent.is_set():
            await asyncio.sleep(0.05)
        await self._gateways.run(silent, self._settings.data_dir / "truth.jsonl")

    async def _until_end(self, seconds: float | None, stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(seconds):
                await stop.wait()
        except TimeoutError:
            stop.set()

    async def _drain(self) -> None:
        """Wait until everything that was published is stored or refused."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while self._n_settled() < sum(self._gateways.published.values()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log.warning("not everything that was published came back", settled=self._n_settled())

    def _n_settled(self) -> float:
        totals = self._totals()
        return totals["lifeline_stored_readings_total"] + totals["lifeline_rejected_readings_total"]

    def _totals(self) -> dict[str, float]:
        """Every sample, summed over its labels."""
        totals: defaultdict[str, float] = defaultdict(float)
        for metric in self._metrics.registry.collect():
            for sample in metric.samples:
                totals[sample.name] += sample.value
        return totals

    def _by_domain(self, sample: str) -> dict[str, float]:
        values = {d: self._metrics.registry.get_sample_value(sample, {"domain": d}) for d in self._domain_names}
        return {domain: value or 0.0 for domain, value in values.items()}

    # ── screen ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _show(self, *, screen: bool) -> None:
        if not screen:
            await self._log_progress()
            return
        with Live(console=Console(stderr=True), screen=True, auto_refresh=False) as live:
            while True:
                live.update(draw(await self._snapshot()), refresh=True)
                await asyncio.sleep(REFRESH_S)

    async def _log_progress(self) -> None:
        while True:
            await asyncio.sleep(5 * REFRESH_S)
            s = await self._snapshot()
            rate, opened = round(s.readings_per_s), sum(s.open_by_severity.values())
            log.info("running", s=round(s.running_s), readings_per_s=rate, stored=s.n_stored, open_alarms=opened)

    async def _snapshot(self) -> Snapshot:
        before, now = self._before, Look(time.monotonic(), self._totals(), self._by_domain("lifeline_readings_total"))
        self._before = now
        elapsed_s = max(1e-3, now.at_s - before.at_s)
        rate_of = {domain: (n - before.taken[domain]) / elapsed_s for domain, n in now.taken.items()}
        newest, opened, open_in = await self._book()
        channels, reporting = self._by_domain("lifeline_channels"), self._by_domain("lifeline_reporting_channels")
        return Snapshot(
            running_s=now.at_s - self._started_s,
            broker=self._broker_name,
            database="PostgreSQL",
            address=self._address,
            readings_per_s=sum(rate_of.values()),
            n_stored=int(now.totals["lifeline_stored_readings_total"]),
            n_rejected=int(now.totals["lifeline_rejected_readings_total"]),
            lag_s=now.mean("lifeline_event_lag_seconds", before),
            commit_ms=1000 * now.mean("lifeline_commit_seconds", before),
            uncommitted=int(now.totals["lifeline_uncommitted_rows"]),
            n_webhooks=sum(self._told.n_by_domain.values()),
            domains=[
                DomainLine(name, int(channels[d]), int(reporting[d]), rate_of[d], open_in.get(d, 0))
                for d, name in self._domain_names.items()
            ],
            open_by_severity=opened,
            alarms=newest,
            webhooks=self._told.newest,
        )

    async def _book(self) -> tuple[list[AlarmLine], Mapping[int, int], Mapping[str, int]]:
        try:
            rows = await queries.newest_alarms(self._database, SHOWN)
            opened = await queries.open_by_severity(self._database)
            open_in = await queries.open_by_domain(self._database)
        except TransientError:
            return [], {}, {}
        return [_line(row) for row in rows], opened, open_in

    # ── summary ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def summary(self) -> dict[str, Any]:
        """What this run did, in all and by domain."""
        found: dict[str, Counter[str]] = {
            "published": Counter(self._gateways.published),
            "stored": Counter({d: int(n) for d, n in self._by_domain("lifeline_stored_readings_total").items()}),
            "rejected": await self._rejected(),
            "alarms_raised": Counter(await queries.raised_by_domain(self._database, self._since_seq)),
            "alarms_open": Counter(await queries.open_by_domain(self._database)),
            "webhooks_verified": self._told.n_by_domain,
        }
        by_domain = {domain: {name: found[name][domain] for name in COUNTS} for domain in self._domain_names}
        totals = {name: sum(found[name].values()) for name in COUNTS}
        return {"seconds": round(time.monotonic() - self._started_s, 1), **totals, "by_domain": by_domain}

    async def _rejected(self) -> Counter[str]:
        """By the domain of the device whose topic it was; one that the registry does not know has none."""
        found: Counter[str] = Counter()
        for source, n in (await queries.rejected_by_source(self._database, self._since_seq)).items():
            _, device = names_of(source)
            found[self._device_domain.get(device, "")] += n
        return found


def _unit(unit: str) -> str:
    """A unit behind a number; a state has none."""
    return "" if unit in ("", "1") else f" {unit}"


def _line(row: queries.AlarmRow) -> AlarmLine:
    what = f"{row.detector}  {row.value:.3g}{_unit(row.unit)}, limit {row.limit_value:.3g}"
    return AlarmLine(
        row.raised_at.astimezone(), row.severity, row.domain, row.asset_name, row.channel, what, row.active
    )
