"""The one path: take → decode → normalise → detect → commit → acknowledge → deliver.

Detection may run ahead of the commit; commits are in order; a message is acknowledged when its group is in the database
or, while that is away and the window is nearly full, in the fsynced spool.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import structlog

from lifeline_stream.core.detection import Detection, join_state, readings_of
from lifeline_stream.core.model import LATE, Block, ConditionEvent, Decoded, ReadingBatch, Reject, RejectReason
from lifeline_stream.errors import TransientError
from lifeline_stream.notify.deliver import Deliverer
from lifeline_stream.observe import Metrics
from lifeline_stream.settings import Ingest
from lifeline_stream.sources import Message, Source
from lifeline_stream.store.spool import Spool, SpoolFull
from lifeline_stream.store.writer import CommitGroup, OutboxItem, ShardWriter

log = structlog.get_logger(__name__)

Decoder = Callable[[bytes], Decoded]
Outbox = Callable[[ConditionEvent, int], OutboxItem | None]
"""What a webhook must be told of an event, at the clock of its group; None for nothing."""

TICK_S = 0.25
"""How often timers are looked at when nothing comes."""
RETRY_S = 0.5
"""Pause between attempts to commit while the database is away."""
CURRENT_US = 30_000_000
"""A source has drained what the broker held when it is quiet, or a group's newest reading is this near to now."""
NEARLY_FULL = 0.8
"""Share of the window at which groups go to the spool while commits fail."""


def wall_us() -> int:
    """Received time: µs since 1970 UTC."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Gathering:
    """Messages on their way into one commit group."""

    opened_s: float
    messages: list[Message] = field(default_factory=list)
    batches: list[ReadingBatch] = field(default_factory=list)
    lags_ms: list[npt.NDArray[np.int32]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    n_rows: int = 0
    n_bytes: int = 0


@dataclass(slots=True)
class Pending:
    """A group that detection has passed and the database has not."""

    group: CommitGroup
    messages: list[Message]
    live_state: bytes | None


@dataclass(slots=True)
class Untold:
    """Alarms of a group whose commit has not come yet."""

    seq: int
    items: list[OutboxItem]
    closed_s: float
    tried: bool = False


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
        outbox: Outbox,
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
        self._outbox = outbox
        self._deliverer = deliverer
        self._seq = next_seq
        self._limits = limits
        self._metrics = metrics
        self._gathering = Gathering(time.monotonic())
        self._pending: deque[Pending] = deque()
        self._untold: deque[Untold] = deque()
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
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
            direct = tasks.create_task(self._deliver_overdue(), name="direct")
            await self._take_until(stop)
            self._close()
            self._stopping.set()
            self._changed.set()
            await committing
            direct.cancel()
            source.cancel()
        log.info("pipeline stopped", group_seq=self._seq - 1, uncommitted=len(self._pending))

    # ── take, decode, normalise ──────────────────────────────────────────────────────────────────────────────────────

    async def _take_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            messages = await self._source.take(self._patience_s())
            received_us = wall_us()
            for message in messages:
                self._take(message, message.received_us or received_us)
            self._observe_drain(quiet=not messages)
            opened = self._gathering
            if opened.messages and time.monotonic() - opened.opened_s >= self._limits.group_within_ms / 1000:
                self._close()
            elif not opened.messages:
                self._tick()
            await self._wait_for_room(stop)

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
        if found.n_restarted:  # a group is fed in time order on recovery, so times may not step back within one
            self._metrics.clock_restarts.inc(found.n_restarted)
            self._close()
        group = self._gathering
        if not group.messages:
            group.opened_s = time.monotonic()
        group.messages.append(message)
        if len(found.batch):
            group.batches.append(found.batch)
            group.lags_ms.append(found.gateway_lag_ms)
        group.blocks += found.blocks
        group.rejects += [reject.located(message.payload, message.topic) for reject in found.rejects]
        group.n_rows += len(found.batch) + sum(len(block.samples) for block in found.blocks)
        group.n_bytes += len(message.payload)
        self._metrics.took(message, found)
        if group.n_rows >= self._limits.group_rows or group.n_bytes >= self._limits.group_bytes:
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
        batches = self._gathering.batches
        return bool(batches) and wall_us() - int(batches[-1].ts_us[-1]) < CURRENT_US

    # ── detect ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _close(self) -> None:
        """Pass the gathered messages through detection and queue them for the commit."""
        gathered, self._gathering = self._gathering, Gathering(time.monotonic())
        if gathered.messages:
            self._detect(gathered, must_log=True)

    def _tick(self) -> None:
        """Let timers fire; a group without readings is logged only when one did."""
        self._detect(Gathering(time.monotonic()), must_log=False)

    def _detect(self, gathered: Gathering, *, must_log: bool) -> None:
        batch = ReadingBatch.concat(gathered.batches)
        live = [block for block in gathered.blocks if not block.quality & LATE]
        readings = readings_of(batch, live)
        now_us = self._detection.now_us(wall_us(), readings)
        watch_from_us = self._watch_from_us if self._detection.watches else -1
        with self._metrics.engine_seconds.time():
            events, changed = self._detection.step(readings, now_us, watch_from_us)
        if not (must_log or changed):
            return
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
        self._pending.append(Pending(group, gathered.messages, self._snapshot()))
        if due := [item for item in group.outbox if not item.held]:
            self._untold.append(Untold(group.seq, due, time.monotonic()))
        self._metrics.closed(group)
        self._gauge()
        self._changed.set()

    def _snapshot(self) -> bytes | None:
        if time.monotonic() - self._saved_s < self._limits.state_every_s and not self._stopping.is_set():
            return None
        self._saved_s = time.monotonic()
        with self._metrics.state_seconds.time():
            return self._detection.save_live()

    def _tell(self, events: list[ConditionEvent], now_us: int) -> list[OutboxItem]:
        return [item for event in events if (item := self._outbox(event, now_us)) is not None]

    # ── commit, acknowledge ──────────────────────────────────────────────────────────────────────────────────────────

    async def _commit_all(self) -> None:
        while True:
            if not self._pending and self._spool.empty:
                if self._stopping.is_set():
                    return
                self._changed.clear()
                if not self._pending:
                    await self._changed.wait()
                continue
            try:
                await self._commit_next()
            except TransientError as error:
                log.warning("commit failed, will retry", error=str(error), uncommitted=len(self._pending))
                self._metrics.commit_failures.inc()
                if self._stopping.is_set():
                    return  # the broker keeps what is not acknowledged
                self._spill()
                await asyncio.sleep(error.retry_after_s or RETRY_S)

    async def _commit_next(self) -> None:
        """Commit the oldest group: those in the spool come before those in memory."""
        spooled = self._spool.first()
        if spooled is not None:
            await self._write(spooled, None)
            self._spool.drop(spooled.seq)
            return
        pending = self._pending[0]
        await self._write(pending.group, pending.live_state)
        self._pending.popleft()
        self._source.acknowledge(pending.messages)
        self._metrics.acknowledged.inc(len(pending.messages))
        self._gauge()

    async def _write(self, group: CommitGroup, live_state: bytes | None) -> None:
        def on_late(late: ReadingBatch) -> tuple[list[ConditionEvent], list[OutboxItem]]:
            events = self._detection.late(late, group.now_us) if len(late) else []
            if live_state is not None:
                group.state = join_state(live_state, self._detection.save_history())
            return events, self._tell(events, group.now_us)

        for item in group.outbox:
            item.delivered = item.id in self._spool.delivered
        started_s = time.monotonic()
        committed = await self._writer.commit(group, on_late)
        self._metrics.committed(group, committed, time.monotonic() - started_s)
        while self._untold and self._untold[0].seq <= group.seq:
            self._untold.popleft()
        if self._deliverer and (group.outbox or committed.events):
            self._deliverer.wake()

    def _spill(self) -> None:
        """With the database away and the window nearly full, let the spool stand in for the commit."""
        if not self._is_nearly_full():
            return
        try:
            while self._pending:
                self._spool.append(self._pending[0].group)
                self._source.acknowledge(self._pending[0].messages)
                self._pending.popleft()
        except SpoolFull:
            log.error("spool is full: taking no more until the database is back", bytes=self._spool.size_bytes)
        self._gauge()

    # ── bounds ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _held(self) -> tuple[int, int]:
        """Messages and rows taken and neither committed nor spooled."""
        messages = sum(len(p.messages) for p in self._pending)
        return messages, sum(len(p.group.batch) for p in self._pending)

    def _is_nearly_full(self) -> bool:
        messages, rows = self._held()
        full_messages = messages >= NEARLY_FULL * self._limits.window_messages
        return full_messages or rows >= NEARLY_FULL * self._limits.window_rows

    async def _wait_for_room(self, stop: asyncio.Event) -> None:
        """Take no more while the window is full: neither the commit nor the spool could take what is held."""
        while not stop.is_set():
            messages, rows = self._held()
            if messages < self._limits.window_messages and rows < self._limits.window_rows:
                return
            await asyncio.sleep(TICK_S)

    def _gauge(self) -> None:
        messages, rows = self._held()
        self._metrics.held(len(self._pending), messages, rows, self._spool.size_bytes)

    # ── the direct path ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _deliver_overdue(self) -> None:
        """While a commit is overdue, send its alarms straight from memory; the outbox row is then written as delivered."""
        while self._deliverer is not None:
            await asyncio.sleep(TICK_S)
            for untold in list(self._untold):
                overdue = time.monotonic() - untold.closed_s >= self._limits.direct_after_s
                if overdue and not untold.tried and self._writer.epoch_is_good:
                    untold.tried = True
                    for item in await self._deliverer.deliver_direct(untold.items):
                        self._spool.record_delivered(item.id)
