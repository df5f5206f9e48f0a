"""Recovery: the newest saved state, fed with the stored groups since, then with those in the spool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from lifeline_stream.core.detection import Clock, Condition, Detection, readings_of, withdrawn
from lifeline_stream.core.model import ConditionEvent, ReadingBatch
from lifeline_stream.core.plan import Plan, compile_plan, load
from lifeline_stream.store import recovery
from lifeline_stream.store.database import Connection
from lifeline_stream.store.recovery import StoredGroup
from lifeline_stream.store.spool import Spool
from lifeline_stream.store.writer import CommitGroup, OutboxItem, ShardWriter

log = structlog.get_logger(__name__)

PROGRESS_GROUPS = 5_000


@dataclass(slots=True)
class Recovered:
    """A shard as it goes on.

    Attributes:
        detection: as after the last group that was committed or spooled.
        next_seq: number of the next group.
        withdrawn: ends of alarms whose detector or channel is no more, or that the book holds and the engine does not.
        n_groups: how many groups were fed again.
    """

    detection: Detection
    next_seq: int
    withdrawn: list[ConditionEvent] = field(default_factory=list)
    n_groups: int = 0


async def recover(connection: Connection, shard: str, plan: Plan, clock: Clock) -> Recovered:
    """Bring detection to where the database is.

    Groups are fed with the declarations they ran with; where those in force differ, every unchanged detector then keeps
    its state and the alarms of the others are withdrawn.

    Args:
        connection: of the shard's holder.
        shard: its name.
        plan: declarations in force, with the store's channel numbers.
        clock: of the topology.

    Raises:
        TransientError: the database went away; call again.
    """
    saved = await recovery.latest_state(connection, shard)
    detection = Detection(plan, clock)
    after = 0
    if saved is not None:
        detection = Detection(_plan_of(saved.declaration, plan, clock), clock)
        detection.restore(saved.state)
        after = saved.group_seq
    found = Recovered(detection, after + 1)
    async for group in recovery.replay(connection, shard, after):
        if group.declaration_hash != found.detection.plan.hash:
            body = await recovery.load_declaration(connection, group.declaration_hash)
            _go_on(found, _plan_of(body, plan, clock), clock, group.now_us)
        _relive(found.detection, group)
        found.next_seq = group.n + 1
        found.n_groups += 1
        if found.n_groups % PROGRESS_GROUPS == 0:
            log.info("recovering", groups=found.n_groups, group_seq=group.n)
    return found


def _plan_of(declaration: bytes, plan: Plan, clock: Clock) -> Plan:
    catalog, packs = load(declaration)
    stored = compile_plan(catalog, packs, event_time=clock == "event")
    return plan if stored.hash == plan.hash else stored


def _relive(detection: Detection, group: StoredGroup | CommitGroup, *, with_late: bool = True) -> None:
    """Feed one group again; its events are known."""
    readings = readings_of(group.batch, group.blocks)
    detection.relive(readings, group.now_us, group.watch_from_us, with_late=with_late)


def _go_on(found: Recovered, plan: Plan, clock: Clock, now_us: int) -> None:
    """Change to other declarations."""
    old, found.detection = found.detection, Detection(plan, clock)
    lost = {(w.channel.ix, w.detector.id): w for w in found.detection.adopt(old)}
    for condition in old.conditions():
        watch = lost.get((condition.channel_ix, condition.detector))
        if watch is not None:
            found.withdrawn.append(withdrawn(condition, now_us, trial=watch.detector.status == "trial"))


async def drain_spool(
    connection: Connection,
    found: Recovered,
    spool: Spool,
    writer: ShardWriter,
    tell: Callable[[ConditionEvent, int], OutboxItem | None],
) -> None:
    """Commit what a crash left in the spool, and feed it.

    Raises:
        TransientError: the database went away; recover and call again, committed groups are dropped.
        FatalError: the spool is damaged, or another process took the shard.
    """
    while (spooled := spool.first()) is not None:
        if spooled.seq < found.next_seq and await writer.is_committed(spooled):
            spool.drop(spooled.seq)
            continue
        group = spooled
        if group.seq != found.next_seq:
            log.warning("the database went on without a spooled group", was=group.seq, group_seq=found.next_seq)
            group = group.renumbered(found.next_seq)
        await _commit_spooled(connection, found, group, writer, spool, tell)
        spool.drop(spooled.seq)
        log.info("spooled group committed", group_seq=group.seq)


async def _commit_spooled(  # noqa: PLR0913, PLR0917 - what it needs, and where it goes
    connection: Connection,
    found: Recovered,
    group: CommitGroup,
    writer: ShardWriter,
    spool: Spool,
    tell: Callable[[ConditionEvent, int], OutboxItem | None],
) -> None:
    clock: Clock = "received" if found.detection.watches else "event"
    if group.declaration_hash != found.detection.plan.hash:
        body = await recovery.load_declaration(connection, group.declaration_hash)
        _go_on(found, _plan_of(body, found.detection.plan, clock), clock, group.now_us)

    def on_late(late: ReadingBatch) -> tuple[list[ConditionEvent], list[OutboxItem]]:
        events = found.detection.late(late, group.now_us) if len(late) else []
        return events, [item for event in events if (item := tell(event, group.now_us)) is not None]

    group.start_over()
    for item in group.outbox:
        item.delivered = item.id in spool.delivered
    await writer.commit(group, on_late)
    _relive(found.detection, group, with_late=False)
    found.next_seq = group.seq + 1


async def settle(  # noqa: PLR0913, PLR0917 - what it needs to know of a shard
    connection: Connection, found: Recovered, shard: str, plan: Plan, clock: Clock, now_us: int
) -> None:
    """Change to the declarations in force, and withdraw what the book holds active and the engine does not."""
    if found.detection.plan.hash != plan.hash:
        _go_on(found, plan, clock, now_us)
    ended = {event.alarm_id for event in found.withdrawn}
    active = {condition.alarm_id for condition in found.detection.conditions()} | ended
    for alarm in await recovery.active_alarms(connection, shard):
        if alarm.alarm_id not in active and not alarm.found_late:
            condition = Condition(alarm.alarm_id, alarm.channel_ix, alarm.detector, alarm.onset_us, alarm.severity)
            found.withdrawn.append(withdrawn(condition, now_us))
