"""The one path: take → decode → normalise → detect → commit → acknowledge → deliver.

Detection may run ahead of the commit; commits are in order; a message is acknowledged when its group is in the database
or, while that is away and the window is nearly full, in the fsynced spool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog

from lifeline_stream.core.detection import Detection, join_state, readings_of
from lifeline_stream.core.model import LATE, ConditionEvent, Decoded, ReadingBatch, RejectReason
from lifeline_stream.errors import TransientError
from lifeline_stream.notify.deliver import Deliverer
from lifeline_stream.observe import Metrics
from lifeline_stream.settings import Ingest
from lifeline_stream.sources import Message, Source
from lifeline_stream.store.spool import Spool, SpoolFull
from lifeline_stream.store.writer import CommitGroup, Committed, OutboxItem, ShardWriter
from lifeline_stream.tally import Tally
from lifeline_stream.window import Gathering, Pending, Window

log = structlog.get_logger(__name__)

Decoder = Callable[[bytes], Decoded]
Tell = Callable[[ConditionEvent, int], OutboxItem | None]
"""What a webhook must be told of an event, at the clock of its group; None for nothing."""

TICK_S = 0.25
"""How often timers are looked at when nothing comes."""
RETRY_S = 0.5
"""Pause between attempts to commit while the database is away."""
CURRENT_US = 30_000_000
"""A source has drained what the broker held when it is quiet, or a group's newest reading is this near to now."""
STOP_S = 4.0
"""After a stop so long is left for committing what is held; the broker keeps the rest."""
AGAIN_S = 10.0
"""Pause before an alarm that did not get through straight from memory is sent so again."""


def wall_us() -> int:
    """Received time: µs since 1970 UTC."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Untold:
    """Alarms of a group whose commit has not come yet, and when they are sent without it."""

    seq: int
    items: list[OutboxItem]
    due_s: float


class Pipeline:
    """Runs one shard that is owned and recovered; see `shard.run_shard`."""

    def __init__(  # noqa: PLR0913 - the parts of the path, in its order
        self,
        *,
        source: Source,
        decode: Decoder,
        detection: Detection,
        writer: ShardWriter,
        spool: Spool,
        tell: Tell,
        class_of: Callable[[str], str],
        deliverer: Deliverer | None,
        next_seq: int,
        limits: Ingest,
        metrics: Metrics,
    ) -> None:
        """Join the parts; `next_seq` numbers the next group."""
        self._source = source
        self._decode = decode
        self._detection = detection
        self._writer = writer
        self._spool = spool
        self._tell_one = tell
        self._tally = Tally(metrics, detection.plan.catalog, class_of)
        self._deliverer = deliverer
        self._seq = next_seq
        self._limits = limits
        self._metrics = metrics
        self._gathering = Gathering(time.monotonic())
        self._window = Window(limits)
        self._untold: list[Untold] = []
        self._attempt = asyncio.timeout(None)
        self._attempt_s: float | None = None
        self._is_failing = self._spool_is_full = False
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._withdrawn: list[ConditionEvent] = []
        metrics.watch_oldest(self._oldest_s)
        self._drained = False
        self._watch_from_us = wall_us()
        self._saved_s = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, then commit and acknowledge what is held.

        Raises:
            FatalError: another process took the shard.
        """
        async with asyncio.TaskGroup() as tasks:
            source = tasks.create_task(self._source.run(), name="source")
            committing = tasks.create_task(self._commit_all(), name="commit")
            overdue = tasks.create_task(self._watch_overdue(), name="overdue")
            await self._take_until(stop)
            self._stopping.set()
            self._close()
            self._changed.set()
            await asyncio.wait([committing], timeout=STOP_S)
            for task in (committing, overdue, source):
                task.cancel()
        log.info("pipeline stopped", group_seq=self._seq - 1, uncommitted=len(self._window))

    # ── take, decode, normalise ──────────────────────────────────────────────────────────────────────────────────────

    async def _take_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            messages = await self._source.take(self._patience_s())
            received_us = wall_us()
            for message in messages:
                self._take(message, message.received_us or received_us)
                if not self._gathering.messages:  # a group has closed
                    await self._wait_for_room(stop)
                if stop.is_set():
                    return  # the broker keeps what is not acknowledged
            self._observe_drain(quiet=not messages)
            opened = self._gathering
            if opened.messages and time.monotonic() - opened.opened_s >= self._limits.group_within_ms / 1000:
                self._close()
            elif not opened.messages:
                self._tick()

    def _patience_s(self) -> float:
        """How long to wait for messages: until the open group is due, or a tick."""
        if not self._gathering.messages:
            return TICK_S
        due_s = self._gathering.opened_s + self._limits.group_within_ms / 1000
        return max(0.0, min(TICK_S, due_s - time.monotonic()))

    def _take(self, message: Message, received_us: int) -> None:
        decoded = self._decode(message.payload)
        if not message.gateway:
            detail = f"topic {message.topic!r} is not lifeline/v1/GATEWAY/DEVICE/up"
            decoded = Decoded.refused(RejectReason.MALFORMED, detail)
        found = self._detection.normalizer.normalize(decoded, message.gateway, message.device, received_us)
        if found.in_doubt:  # a group is fed in time order on recovery, so times may not step back within one
            self._close(ahead=True)
        group = self._gathering
        if not group.messages:
            group.opened_s = time.monotonic()
        group.add(message, found)
        self._tally.took(message, found)
        if group.is_full(self._limits):
            self._close()

    def _observe_drain(self, *, quiet: bool) -> None:
        """A silence counts only from when the source was connected and had handed over what it held."""
        source = self._source
        if not source.connected or source.resumed_us > self._watch_from_us:
            self._drained = False
        elif quiet or self._is_current():
            self._drained = True
        if not self._drained:
            self._watch_from_us = wall_us()

    def _is_current(self) -> bool:
        return wall_us() - self._gathering.newest_us < CURRENT_US

    def look(self) -> None:
        """Bring the gauges by domain up to date."""
        self._tally.look(self._detection, wall_us())

    # ── detect ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _close(self, *, ahead: bool = False) -> None:
        """Pass the gathered messages through detection and queue them for the commit.

        Args:
            ahead: the normaliser has seen more than the group holds, so its state is not the group's.
        """
        gathered, self._gathering = self._gathering, Gathering(time.monotonic())
        if gathered.messages:
            self._detect(gathered, must_log=True, may_save=not ahead)

    def _tick(self) -> None:
        """Let timers fire; a group without readings is logged only when one did."""
        self._detect(Gathering(time.monotonic()), must_log=False, may_save=True)

    def _detect(self, gathered: Gathering, *, must_log: bool, may_save: bool) -> None:
        batch = ReadingBatch.concat(gathered.batches)
        live = [block for block in gathered.blocks if not block.quality & LATE]
        readings = readings_of(batch, live)
        now_us = self._detection.now_us(wall_us(), readings)
        watch_from_us = self._watch_from_us if self._detection.watches else -1
        with self._metrics.engine.time():
            events, changed = self._detection.step(readings, now_us, watch_from_us)
        if not (must_log or changed or self._withdrawn):
            return
        events, self._withdrawn = self._withdrawn + events, []
        group = CommitGroup(
            seq=self._seq,
            now_us=now_us,
            watch_from_us=watch_from_us,
            declaration_hash=self._detection.plan.hash,
            batch=batch,
            gateway_lag_ms=np.concatenate(gathered.lags_ms) if gathered.lags_ms else np.zeros(0, np.int32),
            blocks=gathered.blocks,
            rejects=gathered.rejects,
            events=events,
            outbox=self._tell(events, now_us),
        )
        self._seq += 1
        state = self._snapshot() if may_save else None
        sizes = (gathered.opened_s, gathered.n_rows, gathered.n_bytes)
        self._window.append(Pending(group, gathered.messages, state, *sizes))
        if due := [item for item in group.outbox if not item.held]:
            self._untold.append(Untold(group.seq, due, time.monotonic() + self._limits.direct_after_s))
        self._tally.closed(events)
        self._gauge()
        self._changed.set()

    def _snapshot(self) -> bytes | None:
        if time.monotonic() - self._saved_s < self._limits.state_every_s and not self._stopping.is_set():
            return None
        self._saved_s = time.monotonic()
        with self._metrics.state_seconds.time():
            return self._detection.save_live()

    def _tell(self, events: list[ConditionEvent], now_us: int) -> list[OutboxItem]:
        return [item for event in events if (item := self._tell_one(event, now_us)) is not None]

    # ── commit, acknowledge ──────────────────────────────────────────────────────────────────────────────────────────

    async def _commit_all(self) -> None:
        while True:
            if not self._window and self._spool.empty:
                if self._stopping.is_set():
                    return
                self._changed.clear()
                if not self._window:
                    await self._changed.wait()
                continue
            try:
                await self._try_next()
            except TransientError as error:
                self._failed(error)
                if self._stopping.is_set():
                    return  # the broker keeps what is not acknowledged
                self._spill()
                await asyncio.sleep(error.retry_after_s or RETRY_S)

    async def _try_next(self) -> None:
        """One attempt, which ends early when it is overdue and the window nearly full: then it is the spool's turn."""
        self._attempt_s = time.monotonic()
        try:
            async with asyncio.timeout(None) as self._attempt:
                await self._commit_next()
        except TimeoutError:
            raise TransientError("the commit is overdue and the window nearly full") from None
        finally:
            self._attempt_s = None
        if self._is_failing:
            log.info("commits go on", uncommitted=len(self._window))
        self._is_failing = self._spool_is_full = False

    def _failed(self, error: TransientError) -> None:
        self._metrics.commit_failures.inc()
        if not self._is_failing:
            log.warning("commit failed, will retry", error=str(error), uncommitted=len(self._window))
        self._is_failing = True

    def _hurry(self) -> None:
        """End an attempt that stands between a nearly full window and the spool."""
        if self._attempt_s is None or self._spool_is_full or not self._window.is_nearly_full:
            return
        if time.monotonic() - self._attempt_s >= self._limits.direct_after_s:
            self._attempt_s = None
            self._attempt.reschedule(asyncio.get_running_loop().time())

    async def _commit_next(self) -> None:
        """Commit the oldest group: those in the spool come before those in memory."""
        spooled = self._spool.first()
        if spooled is not None:
            await self._write(spooled, None)
            self._spool.drop(spooled.seq)
        else:
            await self._write(self._window.first.group, self._window.first.live_state)
            self._let_go()
        self._gauge()

    def _let_go(self) -> None:
        """The oldest group is safe: acknowledge its messages."""
        messages = self._window.pop().messages
        self._source.acknowledge(messages)
        self._metrics.acknowledged.inc(len(messages))

    async def _write(self, group: CommitGroup, live_state: bytes | None) -> None:
        def on_late(late: ReadingBatch) -> tuple[list[ConditionEvent], list[OutboxItem]]:
            events = self._detection.late(late, group.now_us) if len(late) else []
            if live_state is not None:
                group.state = join_state(live_state, self._detection.save_history())
            return events, self._tell(events, group.now_us)

        for item in group.outbox:
            item.delivered = item.id in self._spool.delivered
        with self._metrics.commit.time():
            committed = await self._writer.commit(group, on_late)
        self._note(group, committed)
        self._untold = [untold for untold in self._untold if untold.seq > group.seq]
        if self._deliverer and (group.outbox or committed.events):
            self._deliverer.wake()

    def _note(self, group: CommitGroup, committed: Committed) -> None:
        self._tally.committed(group, committed)
        told = [item.id for item in group.outbox if item.delivered]
        if told:
            self._spool.forget_delivered(told)

    def _spill(self) -> None:
        """With the database away and the window nearly full, let the spool stand in for the commit."""
        if not self._window.is_nearly_full:
            return
        try:
            while self._window:
                self._spool.append(self._window.first.group)
                self._let_go()
        except SpoolFull as error:
            if not self._spool_is_full:
                log.error("taking no more until the database is back", reason=str(error))
            self._spool_is_full = True
        self._gauge()

    # ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def has_room(self) -> bool:
        """Whether what comes can be kept: in the database, in the window, or in the spool."""
        return self._window.has_room

    @property
    def owns_shard(self) -> bool:
        """As far as we last heard."""
        return self._writer.epoch_is_good

    def withdraw(self, events: list[ConditionEvent]) -> None:
        """Put the ends of alarms that recovery found into the next group."""
        self._withdrawn += events

    def _oldest_s(self) -> float | None:
        """Since when, by the monotonic clock, the oldest message waits for its acknowledgement."""
        if self._window.oldest_s is not None:
            return self._window.oldest_s
        return self._gathering.opened_s if self._gathering.messages else None

    async def _wait_for_room(self, stop: asyncio.Event) -> None:
        """Take no more while the window is full: neither the commit nor the spool could take what is held."""
        await asyncio.sleep(0)  # the rest of the process has a turn after each group
        while not stop.is_set() and not self.has_room:
            await asyncio.sleep(TICK_S)

    def _gauge(self) -> None:
        self._metrics.groups.set(len(self._window))
        self._metrics.held_messages.set(self._window.n_messages)
        self._metrics.held_rows.set(self._window.n_rows)
        self._metrics.spool_bytes.set(self._spool.size_bytes)

    # ── the direct path ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch_overdue(self) -> None:
        """While a commit is overdue, tell of its alarms, and let a nearly full window go to the spool."""
        async with asyncio.TaskGroup() as telling:
            while True:
                await asyncio.sleep(TICK_S)
                self._hurry()
                for untold in self._untold:
                    if untold.due_s <= time.monotonic():
                        untold.due_s = float("inf")
                        telling.create_task(self._tell_directly(untold))

    async def _tell_directly(self, untold: Untold) -> None:
        """Send straight from memory; the outbox row is then written as delivered."""
        if self._deliverer is None or not self._writer.epoch_is_good:
            return
        for item in await self._deliverer.deliver_direct(untold.items):
            self._spool.record_delivered(item.id)
            untold.items.remove(item)
        if untold.items:
            untold.due_s = time.monotonic() + AGAIN_S
