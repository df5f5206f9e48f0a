"""The one writer of a shard: a commit group is one transaction, stored once whatever fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import structlog

from lifeline_stream.core.model import LATE, Block, Int32s, Int64s, ReadingBatch, Reject
from lifeline_stream.errors import FatalError
from lifeline_stream.store import book, late, pgcopy, refuse, sql
from lifeline_stream.store.database import FOREIGN, Connection, Fault, budget, fault_of, storable, transaction
from lifeline_stream.store.group import SHARD_SPAN, CommitGroup, Committed, OnLate, OutboxItem, Rule, RuleOf
from lifeline_stream.store.lease import Lease, Shard

__all__ = ["CommitGroup", "Committed", "OutboxItem", "Rule", "Shard", "ShardWriter"]

SQL = sql.load(__file__)
PAYLOAD_BYTES = 64 << 10
"""Where the payload of a reject is cut."""
_KEPT_GROUPS = 1_000_000
"""Rows of `commit_group` kept behind the newest saved state; recovery needs none of them."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class ShardWriter:
    """Owns a shard and writes its groups in order."""

    def __init__(  # noqa: PLR0913 - the parts of a writer
        self,
        dsn: str,
        shard: str,
        rule_of: RuleOf,
        *,
        commit_timeout_s: float = 30.0,
        standby_wait_s: float = 5.0,
        poll_s: float = 1.0,
    ) -> None:
        """Nothing is opened yet.

        Args:
            dsn: of the database, with its schema up to date.
            shard: name of the shard.
            rule_of: what an alarm takes over from its detector.
            commit_timeout_s: budget of one attempt to commit.
            standby_wait_s: how long a standby leaves a free shard to a holder that may be reconnecting.
            poll_s: how often a standby looks.
        """
        self._lease = Lease(dsn, shard, standby_wait_s=standby_wait_s, poll_s=poll_s)
        self._rule_of = rule_of
        self._timeout_s = commit_timeout_s
        self._prepared: Connection | None = None

    async def open(self) -> Shard:
        """Take the shard, waiting as a warm standby while another holds it.

        Raises:
            TransientError: the database is away; call again.
        """
        return await self._lease.acquire()

    async def close(self) -> None:
        """Let the shard go."""
        await self._lease.release()

    @property
    def epoch_is_good(self) -> bool:
        """The last that we heard, the shard was ours."""
        return self._lease.held is not None

    async def check(self) -> None:
        """Make sure that the shard is still ours, on a connection of its own.

        Raises:
            TransientError: the database is away.
            FatalError: another process owns the shard.
        """
        await self._lease.check()

    async def commit(self, group: CommitGroup, on_late: OnLate) -> Committed:
        """Write a group, or find that an earlier attempt did.

        Args:
            group: n one above the last.
            on_late: called once per group, after the late readings are compared with the store, also when none is new.

        Returns:
            The outcome of the attempt that was stored; an empty one where that was another process's.

        Raises:
            TransientError: the outcome is unknown or nothing was written; call again with the same group.
            FatalError: another process owns the shard, or the group is not the next.
        """
        async with self._using_connection(f"commit group {group.seq}") as connection:
            return await self._attempt(connection, group, on_late)

    async def is_committed(self, group: CommitGroup) -> bool:
        """Whether the database has this very group; another content under its number is not it.

        Raises:
            TransientError: the database is away.
            FatalError: another process owns the shard.
        """
        async with self._using_connection(f"look for group {group.seq}") as connection:
            return bool(await connection.fetchval(SQL["token"], self._stored_seq(group.seq)) == group.token)

    @asynccontextmanager
    async def _using_connection(self, doing: str) -> AsyncIterator[Connection]:
        """The connection that holds the lock; whatever goes wrong, its state is unknown and it is not used again."""
        try:
            async with budget(self._timeout_s, doing):
                yield await self._lease.connection()
        except BaseException:
            self._lease.drop()
            raise

    def _stored_seq(self, n: int) -> int:
        if self._lease.held is None:
            raise FatalError("the shard is not open")
        return self._lease.held.shard_no * SHARD_SPAN + n

    async def _attempt(self, connection: Connection, group: CommitGroup, on_late: OnLate) -> Committed:
        if connection is not self._prepared:
            await late.prepare(connection)
            self._prepared = connection
        try:
            return await self._transaction(connection, group, on_late, careful=False)
        except FOREIGN as error:
            if fault_of(error) is not Fault.DATA or connection.is_closed():
                raise
            log.warning("the database refused a value, looking for it", group=group.seq, error=str(error))
        return await self._transaction(connection, group, on_late, careful=True)

    async def _transaction(
        self, connection: Connection, group: CommitGroup, on_late: OnLate, *, careful: bool
    ) -> Committed:  # fmt: skip
        shard = self._lease.held
        if shard is None:
            raise FatalError("the shard is not open")
        async with transaction(connection):
            if await connection.fetchval(SQL["guard"], shard.shard, shard.epoch, group.seq):
                write = _Transaction(connection, group, shard, refuse.Sieve(connection, careful))
                group.outcome = await write.all(on_late, self._rule_of)
                return group.outcome
        return await self._settle(connection, group)

    async def _settle(self, connection: Connection, group: CommitGroup) -> Committed:
        """The guard let nothing through: written already, or not ours to write."""
        n = await self._lease.check_epoch(connection)
        token = await connection.fetchval(SQL["token"], self._stored_seq(group.seq))
        if token == group.token:
            log.info("group was committed already", group=group.seq)
            return group.outcome or Committed()
        raise FatalError(f"group {group.seq} can't follow group {n} of this shard")


@dataclass(slots=True)
class _Transaction:
    """What one transaction writes, in order."""

    connection: Connection
    group: CommitGroup
    shard: Shard
    sieve: refuse.Sieve
    done: Committed = field(default_factory=Committed)
    n_readings: int = 0
    n_samples: int = 0
    channels: list[Int32s] = field(default_factory=list)
    """Of each reading and sample that was stored."""
    times: list[Int64s] = field(default_factory=list)
    """Event times of the rows that were stored, µs."""
    surviving: list[ReadingBatch] = field(default_factory=list)
    """Of these the late ones."""

    @property
    def group_seq(self) -> int:
        return self.shard.shard_no * SHARD_SPAN + self.group.seq

    async def all(self, on_late: OnLate, rule_of: RuleOf) -> Committed:
        group = self.group
        await self._readings()
        await self._blocks()
        late_events, late_outbox = group.look_back(on_late, self._survivors())
        self.done.events = [*group.events, *late_events]
        await self._events(rule_of)
        await self._outbox([*group.outbox, *late_outbox])
        self.done.refused = list(self.sieve.rejects)
        await self._rejects([*group.rejects, *self.done.conflicts, *self.done.refused])
        if group.state is not None:
            await self._state(group.state)
        await self._close()
        self.done.n_stored = self.n_readings + self.n_samples
        if self.channels:
            self.done.by_channel = np.bincount(np.concatenate(self.channels))
        return self.done

    # ── readings and blocks ──────────────────────────────────────────────────────────────────────────────────────────

    async def _readings(self) -> None:
        group = self.group
        compared = (group.batch.quality & late.MAYBE_STORED) != 0
        await self._write_readings(group.batch.take(~compared), group.gateway_lag_ms[~compared])
        await self._compare_readings(group.batch.take(compared), group.gateway_lag_ms[compared])

    async def _write_readings(self, batch: ReadingBatch, lag_ms: Int32s) -> None:
        order = pgcopy.by_channel_and_time(batch)
        batch = batch.take(order)
        rows = pgcopy.encode_readings(batch, lag_ms[order], self.group_seq)

        async def write(first: int, last: int) -> None:
            await self._copy("reading", pgcopy.stream(rows[first:last]), pgcopy.READING.columns)
            self._note(batch.take(slice(first, last)))

        await self.sieve.write(len(batch), write, lambda a, b: refuse.readings_as_json(batch.take(slice(a, b))))

    async def _compare_readings(self, batch: ReadingBatch, lag_ms: Int32s) -> None:
        async def write(first: int, last: int) -> None:
            part = batch.take(slice(first, last))
            sifted = await late.sift_readings(self.connection, part)
            new = np.flatnonzero(sifted.new)
            new = new[pgcopy.by_channel_and_time(part.take(new))]
            rows = pgcopy.encode_readings(part.take(new), lag_ms[first:last][new], self.group_seq)
            await self._copy("reading", pgcopy.stream(rows), pgcopy.READING.columns)
            self._note(part.take(new))
            self._count(sifted)

        await self.sieve.write(len(batch), write, lambda a, b: refuse.readings_as_json(batch.take(slice(a, b))))

    def _note(self, batch: ReadingBatch) -> None:
        self.n_readings += len(batch)
        self.channels.append(batch.channel_ix)
        self.times.append(batch.ts_us)
        self.surviving.append(batch.take(batch.late))

    async def _blocks(self) -> None:
        await self._write_blocks([b for b in self.group.blocks if not b.quality & late.MAYBE_STORED])
        await self._write_blocks([b for b in self.group.blocks if b.quality & late.MAYBE_STORED], compare=True)

    async def _write_blocks(self, blocks: Sequence[Block], *, compare: bool = False) -> None:
        async def write(first: int, last: int) -> None:
            part = list(blocks[first:last])
            if compare:
                sifted = await late.sift_blocks(self.connection, part)
                part = [part[i] for i in np.flatnonzero(sifted.new)]
            part.sort(key=lambda block: (block.channel_ix, block.t0_us))
            await self._copy("waveform", pgcopy.encode_blocks(part, self.group_seq), pgcopy.WAVEFORM_COLUMNS)
            self.n_samples += sum(len(block.samples) for block in part)
            self.channels += [np.full(len(block.samples), block.channel_ix, np.int32) for block in part]
            self.times.append(np.array([block.t0_us for block in part], np.int64))
            self.surviving += [block.as_readings() for block in part if block.quality & LATE]
            if compare:
                self._count(sifted)

        await self.sieve.write(len(blocks), write, lambda a, b: refuse.blocks_as_json(blocks[a:b]))

    async def _copy(self, table: str, copied: bytearray, columns: Sequence[str]) -> None:
        await self.connection.copy_to_table(table, source=copied, format="binary", columns=columns)

    def _count(self, sifted: late.Sifted) -> None:
        self.done.n_duplicates += sifted.n_duplicates
        self.done.conflicts += sifted.conflicts

    def _survivors(self) -> ReadingBatch:
        """Late readings that were new, in the order in which recovery reads them back."""
        batch = ReadingBatch.concat(self.surviving)
        return batch.take(pgcopy.by_channel_and_time(batch))

    # ── alarms, outbox, rejects, state ───────────────────────────────────────────────────────────────────────────────

    async def _events(self, rule_of: RuleOf) -> None:
        place = book.Place(self.shard.shard, self.group_seq)
        events = [event for event in self.done.events if not event.trial]
        rules = [rule_of(self.group.declaration_hash, event.detector) for event in events]
        trial = [event for event in self.done.events if event.trial]

        async def write(first: int, last: int) -> None:
            await book.record(self.connection, events[first:last], rules[first:last], place)

        async def write_trial(first: int, last: int) -> None:
            await book.record_trial(self.connection, trial[first:last], place)

        await self.sieve.write(len(events), write, _describe(events, refuse.events_as_json))
        await self.sieve.write(len(trial), write_trial, _describe(trial, refuse.events_as_json))

    async def _outbox(self, items: Sequence[OutboxItem]) -> None:
        async def write(first: int, last: int) -> None:
            rows = ((i.id, i.alarm_id, i.at_us, i.body, _state_of(i)) for i in items[first:last])
            columns = [list(column) for column in zip(*rows, strict=True)]
            await self.connection.execute(SQL["add_outbox"], *columns, self.group.now_us)

        await self.sieve.write(len(items), write, _describe(items, refuse.outbox_as_json))

    async def _rejects(self, rejects: Sequence[Reject]) -> None:
        if rejects:
            rows = (
                (r.reason, storable(r.detail), storable(r.source), r.payload[:PAYLOAD_BYTES], r.n_readings)
                for r in rejects
            )  # fmt: skip
            columns = [list(column) for column in zip(*rows, strict=True)]
            place = (self.group.now_us, self.shard.shard, self.group_seq)
            await self.connection.execute(SQL["add_rejects"], *columns, *place)

    async def _state(self, state: bytes) -> None:
        shard, hash_ = self.shard.shard, self.group.declaration_hash
        await self.connection.execute(SQL["save_state"], self.group_seq, shard, hash_, state)
        await self.connection.execute(SQL["forget_states"], shard)
        oldest = self.shard.shard_no * SHARD_SPAN
        await self.connection.execute(SQL["forget_groups"], oldest, self.group_seq - _KEPT_GROUPS)

    async def _close(self) -> None:
        group = self.group
        times = np.concatenate(self.times) if self.times else np.empty(0, np.int64)
        span = (int(times.min()), int(times.max())) if len(times) else (group.now_us, group.now_us)
        await self.connection.execute(
            SQL["add_group"],
            self.group_seq,
            self.shard.shard,
            group.token,
            group.now_us,
            group.watch_from_us,
            group.declaration_hash,
            self.n_readings,
            self.n_samples,
            *span,
        )


def _describe(items: Sequence[T], as_json: Callable[[Sequence[T]], str]) -> refuse.Describe:
    return lambda first, last: as_json(items[first:last])


def _state_of(item: OutboxItem) -> str:
    if item.delivered:
        return "delivered"
    return "held" if item.held else "due"
