"""Owning a shard: schema, lock, registry, recovery; then the pipeline with its delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

import structlog

from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.model import AlarmClass, ConditionEvent
from lifeline_stream.core.packs import Pack
from lifeline_stream.core.plan import Plan, compile_plan, dump
from lifeline_stream.core.warm import compile_kernels
from lifeline_stream.declarations import Topology, load_packs
from lifeline_stream.errors import ConfigError, Problem, TransientError
from lifeline_stream.formats import FORMATS
from lifeline_stream.notify import message
from lifeline_stream.notify.deliver import Deliverer
from lifeline_stream.notify.webhook import Webhook
from lifeline_stream.observe import Health, Metrics
from lifeline_stream.pipeline import Pipeline, wall_us
from lifeline_stream.recover import Recovered, drain_spool, recover, settle
from lifeline_stream.settings import Settings, secret_of
from lifeline_stream.sources.mqtt import MqttSource
from lifeline_stream.store import migrations
from lifeline_stream.store.database import connected, open_database
from lifeline_stream.store.outbox import OutboxStore
from lifeline_stream.store.recovery import store_declaration
from lifeline_stream.store.registry import sync_registry
from lifeline_stream.store.spool import Spool
from lifeline_stream.store.writer import OutboxItem, Rule, ShardWriter

log = structlog.get_logger(__name__)
T = TypeVar("T")

TARGET = "webhook"
RETRY_S = 1.0
WATCH_S, WATCH_OUTBOX_S = 0.5, 5.0
CHECK_S = 3.0
"""Budget of asking whose the shard is."""
OWNED, CONNECTED, TAKING = "shard owned", "source connected", "readings can be stored"


class Rulebook:
    """What alarms take over from the declarations in force, and whom they are told to."""

    def __init__(self, packs: Sequence[Pack], told: Sequence[str], hold_after_s: float) -> None:
        """Index the detectors; events of the classes in `told` go to the outbox."""
        self._units = {f"{p.domain.id}.{s.id}": s.unit for p in packs for s in p.sensor}
        self._rules: dict[str, Rule] = {}
        self._catalog = Catalog(())
        self._told = told
        self._hold_after_us = hold_after_s * 1e6

    def use(self, plan: Plan) -> None:
        """Take the rules of the plan in force."""
        self._catalog = plan.catalog
        self._rules = {
            w.detector.id: Rule(
                w.detector.class_.value, w.detector.why, w.detector.source, w.detector.action, w.pack_hash
            )
            for stage in plan.stages.values()
            for w in stage.watches
        }

    @property
    def unit_of(self) -> dict[str, str]:
        """Canonical unit by sensor type."""
        return self._units

    def rule_of(self, _declaration_hash: str, detector: str) -> Rule:
        """The rule of a detector; the alarms of one that was removed keep the copy they were raised with."""
        return self._rules.get(detector, Rule(AlarmClass.HAZARD.value, "", "", "", ""))

    def class_of(self, detector: str) -> str:
        """`hazard` or `device`."""
        return self.rule_of("", detector).class_

    def tell(self, event: ConditionEvent, now_us: int) -> OutboxItem | None:
        """What the webhook must be told of an event, at the clock of its group."""
        rule = self.rule_of("", event.detector)
        if event.trial or rule.class_ not in self._told:
            return None
        body = message.alarm_body(event, self._subject(event.channel_ix), message.Rule(*rule[:4]))
        held = event.late or now_us - event.at_us > self._hold_after_us
        return OutboxItem(event.event_id, event.alarm_id, event.at_us, held, body)

    def _subject(self, channel_ix: int) -> message.Subject:
        channel = self._catalog.by_ix.get(channel_ix)
        if channel is None:
            return message.Subject("", "", "", "", "", "")
        asset = self._catalog.asset_of.get(channel.asset)
        name = asset.name if asset else ""
        unit = self._units.get(channel.sensor, "")
        return message.Subject(channel.id, channel.asset, name, channel.county, channel.domain, unit)


class ShardRun:
    """One process's turn at a shard."""

    def __init__(self, topology: Topology, settings: Settings, metrics: Metrics, health: Health) -> None:
        """Read the declarations.

        Raises:
            ConfigError: they or the settings are wrong.
        """
        self._dsn = settings.store.required_dsn()
        self._topology, self._settings = topology, settings
        self._metrics, self._health = metrics, health
        self._packs = load_packs(topology.packs_path())
        self._declared = load_registry(topology.registry_path(), self._packs)
        self._webhook = self._make_webhook()
        told = settings.webhook.classes if self._webhook else ()
        self._rules = Rulebook(self._packs, told, settings.ingest.deliver_within_s)
        self._password = secret_of(settings.mqtt.password_file, "mqtt.password_file")
        self._is_taking = False
        health.expect(OWNED, CONNECTED, TAKING)

    def _make_webhook(self) -> Webhook | None:
        hook = self._settings.webhook
        if not hook.url:
            return None
        if hook.secret_file is None:
            text = "a webhook is always signed: name a file that holds its secret"
            raise ConfigError([Problem("config", "webhook", "secret_file", text)])
        return Webhook(hook.url, secret_of(hook.secret_file, "webhook.secret_file"), allow_private=hook.allow_private)

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for the shard, recover, and run the pipeline until `stop`.

        Raises:
            FatalError: another process took the shard.
        """
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(self._run(stop), name="shard")
            waiting = tasks.create_task(stop.wait(), name="stop")
            await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if not work.done() and not self._is_taking:
                work.cancel()  # still a standby or recovering: nothing is held

    async def _run(self, stop: asyncio.Event) -> None:
        dsn, limits = self._dsn, self._settings.ingest
        await asyncio.to_thread(compile_kernels)  # not while readings wait
        await _retrying(self._upgrade)
        shard_name = self._topology.shard
        writer = ShardWriter(dsn, shard_name, self._rules.rule_of, commit_timeout_s=limits.commit_timeout_s)
        async with AsyncExitStack() as opened:
            opened.push_async_callback(writer.close)
            await _retrying(writer.open)
            self._health.state(OWNED, holds=True)
            spool = await _retrying(self._open_spool)
            opened.callback(spool.close)
            recovered = await _retrying(lambda: self._recover(writer, spool))
            log.info("recovered", groups=recovered.n_groups, next_seq=recovered.next_seq)
            self._metrics.replayed.set(recovered.n_groups)
            name = f"lifeline {shard_name} outbox"
            pool = await _retrying(lambda: opened.enter_async_context(open_database(dsn, name)))
            outbox = OutboxStore(pool, TARGET)
            await _retrying(lambda: _reconcile(outbox, spool))
            deliverer = Deliverer(outbox, self._webhook, self._delivered) if self._webhook else None
            await self._pipeline(stop, recovered, writer, spool, outbox, deliverer)

    async def _open_spool(self) -> Spool:
        folder = self._settings.data_dir / "spool" / self._topology.shard
        return Spool(folder, self._settings.ingest.spool_bytes)

    async def _upgrade(self) -> None:
        async with connected(self._dsn) as connection:
            for name in await migrations.upgrade(connection):
                log.info("schema upgraded", migration=name)

    async def _recover(self, writer: ShardWriter, spool: Spool) -> Recovered:
        shard, clock = self._topology.shard, self._topology.clock
        async with connected(self._dsn, f"lifeline {shard} recovery") as connection:
            numbers = await sync_registry(connection, self._declared, self._rules.unit_of)
            catalog = self._declared.renumbered(numbers)
            plan = compile_plan(catalog, self._packs, event_time=clock == "event")
            self._rules.use(plan)
            await store_declaration(connection, plan.hash, dump(catalog, self._packs))
            found = await recover(connection, shard, plan, clock)
            await drain_spool(connection, found, spool, writer, self._rules.tell)
            await settle(connection, found, shard, plan, clock, wall_us())
        return found

    async def _pipeline(  # noqa: PLR0913, PLR0917 - the parts of a shard that are open
        self,
        stop: asyncio.Event,
        recovered: Recovered,
        writer: ShardWriter,
        spool: Spool,
        outbox: OutboxStore,
        deliverer: Deliverer | None,
    ) -> None:
        source = self._make_source(writer)
        pipeline = Pipeline(
            source=source,
            decode=FORMATS[self._topology.source.format],
            detection=recovered.detection,
            writer=writer,
            spool=spool,
            tell=self._rules.tell,
            class_of=self._rules.class_of,
            deliverer=deliverer,
            next_seq=recovered.next_seq,
            limits=self._settings.ingest,
            metrics=self._metrics,
        )
        pipeline.withdraw(recovered.withdrawn)
        self._is_taking = True
        self._health.state(TAKING, holds=True)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self._watch(pipeline, source), name="health")]
            if deliverer:
                background.append(tasks.create_task(deliverer.run(), name="deliver"))
                background.append(tasks.create_task(self._watch_outbox(outbox), name="outbox"))
            await pipeline.run(stop)
            for task in background:
                task.cancel()

    def _make_source(self, writer: ShardWriter) -> MqttSource:
        mqtt = self._settings.mqtt
        return MqttSource(
            mqtt.host,
            mqtt.port,
            client_id=f"{mqtt.client_id}-{self._topology.shard}",
            topics=self._topology.source.topics,
            username=mqtt.username,
            password=self._password,
            tls_ca_file=mqtt.tls_ca_file,
            on_reconnect=lambda: self._metrics.reconnects.labels("mqtt").inc(),
            on_shed=self._metrics.shed.inc,
            on_stale_ack=self._metrics.stale_acks.inc,
            is_ours=lambda: _is_ours(writer),
        )

    def _delivered(self, result: str) -> None:
        self._metrics.deliveries.labels(result).inc()

    async def _watch(self, pipeline: Pipeline, source: MqttSource) -> None:
        """Keep the health conditions and gauges true to what is."""
        while True:
            pipeline.look()
            self._health.state(CONNECTED, holds=source.connected, detail=f"mqtt {source.protocol}")
            self._health.state(TAKING, holds=pipeline.has_room)
            self._health.state(OWNED, holds=pipeline.owns_shard)
            await asyncio.sleep(WATCH_S)

    async def _watch_outbox(self, outbox: OutboxStore) -> None:
        while True:
            with suppress(TransientError):  # the deliverer says so
                waiting = await outbox.backlog()
                self._metrics.outbox_due.set(waiting.due)
                self._metrics.outbox_held.set(waiting.held)
                oldest_us = wall_us() if waiting.oldest_us is None else waiting.oldest_us
                self._metrics.outbox_oldest.set((wall_us() - oldest_us) / 1e6)
            await asyncio.sleep(WATCH_OUTBOX_S)


async def _retrying(attempt: Callable[[], Awaitable[T]]) -> T:
    """Until the other side is there; what it refuses for good is raised."""
    told = ""
    while True:
        try:
            return await attempt()
        except TransientError as error:
            if str(error) != told:
                log.warning("waiting for the database", error=str(error))
            told = str(error)
            await asyncio.sleep(error.retry_after_s or RETRY_S)


async def _is_ours(writer: ShardWriter) -> bool:
    """Whether the shard is known to be ours.

    Raises:
        FatalError: another process took it.
    """
    try:
        async with asyncio.timeout(CHECK_S):
            await writer.check()
    except (TransientError, TimeoutError):
        return False
    return True


async def _reconcile(outbox: OutboxStore, spool: Spool) -> None:
    """Tell the outbox what a former life delivered straight from memory."""
    if spool.delivered:
        spool.forget_delivered(await outbox.reconcile(sorted(spool.delivered), wall_us()))


async def run_shard(
    topology: Topology, settings: Settings, stop: asyncio.Event, metrics: Metrics, health: Health
) -> None:
    """Run one shard until `stop`; see `ShardRun`."""
    with suppress(asyncio.CancelledError):
        await ShardRun(topology, settings, metrics, health).run(stop)
