"""Connections that break at the worst moment, and two processes that want the same shard."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from integration.faultproxy import FaultProxy, faulty
from integration.store_groups import (
    event_of,
    group_of,
    item_of,
    nothing_late,
    rows_of,
    settle_city,
    stored,
    writer_of,
)
from lifeline_stream.core.model import LATE, EventKind, ReadingBatch
from lifeline_stream.errors import FatalError, TransientError
from lifeline_stream.store.database import connected
from lifeline_stream.store.writer import CommitGroup, Committed, ShardWriter

DEADLINE_S = 20.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def persist(writer: ShardWriter, group: CommitGroup, proxy: FaultProxy | None = None) -> tuple[Committed, int]:
    """Commit as the pipeline does, again and again; return the outcome and the number of failures."""
    failures = 0
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await writer.commit(group, nothing_late), failures
            except TransientError:
                failures += 1
                if proxy:
                    proxy.resume()
                await asyncio.sleep(0.02)


async def test_a_commit_whose_answer_is_lost_is_not_stored_twice(store_dsn: str) -> None:
    await settle_city(store_dsn)
    raised = event_of(EventKind.RAISED, 20)
    group = group_of(
        2, [(0, 2, 2.0), (1, 2, 2.0), (0, 0, 0.5, LATE), (0, 1, 1.0, LATE)],
        events=[raised], outbox=[item_of("o1", raised)], state=b"s",
    )  # fmt: skip
    calls: list[ReadingBatch] = []

    def on_late(late: ReadingBatch) -> tuple[list, list]:
        calls.append(late)
        return [], []

    async with faulty(store_dsn) as (dsn, proxy):
        writer = writer_of(dsn)
        await writer.open()
        await writer.commit(group_of(1, [(0, 1, 1.0)]), nothing_late)
        proxy.lose_next_commit_answer()
        with pytest.raises(TransientError):
            await writer.commit(group, on_late)
        assert proxy.answers_lost == 1
        outcome = await writer.commit(group, on_late)
        await writer.close()
    assert (outcome.n_stored, outcome.n_duplicates, len(calls)) == (3, 1, 1)
    assert await stored(store_dsn) == [(0, 0, 0.5), (0, 1, 1.0), (0, 2, 2.0), (1, 2, 2.0)]
    assert await rows_of(store_dsn, "SELECT (SELECT count(*) FROM alarm), (SELECT count(*) FROM outbox)") == [(1, 1)]
    assert await rows_of(store_dsn, "SELECT epoch, group_seq FROM shard_state") == [(1, 2)]


async def test_a_connection_cut_before_the_commit_loses_and_doubles_nothing(store_dsn: str) -> None:
    async with faulty(store_dsn) as (dsn, proxy):
        writer = writer_of(dsn, commit_timeout_s=5.0)
        await writer.open()

        def cut(_: ReadingBatch) -> tuple[list, list]:
            proxy.cut()
            return [], []

        group = group_of(1, [(0, 1, 1.0), (0, 0, 0.0, LATE)])
        with pytest.raises(TransientError):
            await writer.commit(group, cut)
        outcome, _ = await persist(writer, group)
        await writer.close()
    assert outcome.n_stored == 2
    assert await stored(store_dsn) == [(0, 0, 0.0), (0, 1, 1.0)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_under_random_faults_every_reading_is_stored_exactly_once(store_dsn: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    n_groups, per_group = 30, 50
    failures = 0
    async with faulty(store_dsn) as (dsn, proxy):
        writer = writer_of(dsn, commit_timeout_s=0.5)
        await writer.open()
        for n in range(1, n_groups + 1):
            rows = [(c, n, float(n)) for c in range(per_group)]
            rows += [(c, n - 1, float(n - 1), LATE) for c in range(per_group) if n > 1]  # a broker's redelivery
            fault = chance.choice([None, proxy.cut, proxy.stall, proxy.refuse, proxy.lose_next_commit_answer])
            if fault is not None:
                asyncio.get_running_loop().call_later(chance.random() * 0.01, fault)
            outcome, failed = await persist(writer, group_of(n, rows), proxy)
            failures += failed
            assert outcome.n_duplicates == (per_group if n > 1 else 0)
            proxy.resume()
        await writer.close()
    assert failures > 3
    assert await rows_of(store_dsn, "SELECT count(*), count(DISTINCT (channel, ts)) FROM reading") == [
        (n_groups * per_group, n_groups * per_group)
    ]
    assert await rows_of(store_dsn, "SELECT count(*)::int, max(group_seq % (1::bigint << 40)) FROM commit_group") == [
        (n_groups, n_groups)
    ]


async def test_a_stalled_network_costs_one_timeout_and_no_reading(store_dsn: str) -> None:
    async with faulty(store_dsn) as (dsn, proxy):
        writer = writer_of(dsn, commit_timeout_s=0.3)
        await writer.open()
        proxy.stall()
        group = group_of(1, [(0, 1, 1.0)])
        with pytest.raises(TransientError):
            await writer.commit(group, nothing_late)
        proxy.resume()
        await persist(writer, group)
        await writer.close()
    assert await stored(store_dsn) == [(0, 1, 1.0)]


async def test_a_session_that_only_the_server_believes_in_does_not_lock_its_owner_out(store_dsn: str) -> None:
    async with faulty(store_dsn) as (dsn, proxy):
        writer = writer_of(dsn, commit_timeout_s=5.0)
        await writer.open()
        proxy.orphan()
        group = group_of(1, [(0, 1, 1.0)])
        outcome, _ = await persist(writer, group)
        assert outcome.n_stored == 1
        await writer.close()
    assert await rows_of(store_dsn, "SELECT epoch FROM shard_state") == [(1,)]


async def test_an_administrator_may_end_the_session(store_dsn: str) -> None:
    writer = writer_of(store_dsn)
    await writer.open()
    await rows_of(
        store_dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lifeline s1'"
    )
    outcome, _ = await persist(writer, group_of(1, [(0, 1, 1.0)]))
    await writer.close()
    assert outcome.n_stored == 1


async def test_a_writer_with_a_higher_epoch_fences_the_first(store_dsn: str) -> None:
    async with faulty(store_dsn) as (dsn, proxy):
        first, second = writer_of(dsn), writer_of(store_dsn)
        await first.open()
        await first.commit(group_of(1, [(0, 1, 1.0)]), nothing_late)
        taking = asyncio.create_task(second.open())
        proxy.refuse()
        shard = await asyncio.wait_for(taking, DEADLINE_S)
        assert (shard.epoch, shard.group_seq) == (2, 1)
        proxy.resume()
        assert first.epoch_is_good
        with pytest.raises(FatalError, match="taken over"):
            await first.commit(group_of(2, [(0, 2, 99.0)]), nothing_late)
        assert not first.epoch_is_good
        await second.commit(group_of(2, [(0, 2, 2.0)]), nothing_late)
        with pytest.raises(FatalError):
            await first.commit(group_of(2, [(0, 2, 99.0)]), nothing_late)
        await first.close()
        await second.close()
    assert await stored(store_dsn) == [(0, 1, 1.0), (0, 2, 2.0)]


async def test_the_transaction_itself_is_fenced_by_the_epoch(store_dsn: str) -> None:
    writer = writer_of(store_dsn)
    await writer.open()
    await rows_of(store_dsn, "UPDATE shard_state SET epoch = epoch + 1")
    with pytest.raises(FatalError, match="taken over"):
        await writer.commit(group_of(1, [(0, 1, 1.0)]), nothing_late)
    await writer.close()
    assert await stored(store_dsn) == []


async def test_a_standby_waits_and_takes_over_when_the_holder_goes(store_dsn: str) -> None:
    holder, standby = writer_of(store_dsn), writer_of(store_dsn)
    await holder.open()
    waiting = asyncio.create_task(standby.open())
    await holder.commit(group_of(1, [(0, 1, 1.0)]), nothing_late)
    assert not waiting.done()
    await holder.close()
    shard = await asyncio.wait_for(waiting, DEADLINE_S)
    assert (shard.epoch, shard.group_seq) == (2, 1)
    await standby.commit(group_of(2, [(0, 2, 2.0)]), nothing_late)
    await standby.close()
    assert await stored(store_dsn) == [(0, 1, 1.0), (0, 2, 2.0)]


async def test_a_holder_that_reconnects_at_once_keeps_the_shard_before_a_standby(store_dsn: str) -> None:
    async with faulty(store_dsn) as (dsn, proxy):
        holder, standby = writer_of(dsn), writer_of(store_dsn, standby_wait_s=3.0)
        await holder.open()
        waiting = asyncio.create_task(standby.open())
        await until(lambda: standby._lease._is_standby)
        for n in range(1, 6):
            proxy.cut()
            await persist(holder, group_of(n, [(0, n, float(n))]))
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await standby.close()
        await holder.close()
    assert await rows_of(store_dsn, "SELECT epoch, group_seq FROM shard_state") == [(1, 5)]


async def test_a_database_that_is_away_is_transient(store_dsn: str) -> None:
    async with faulty(store_dsn) as (dsn, proxy):
        writer = writer_of(dsn, commit_timeout_s=2.0)
        proxy.refuse()
        with pytest.raises(TransientError):
            await writer.open()
        proxy.resume()
        assert (await writer.open()).epoch == 1
        proxy.refuse()
        with pytest.raises(TransientError):
            await writer.commit(group_of(1), nothing_late)
        assert writer.epoch_is_good
        await writer.close()


async def test_another_content_under_a_written_number_is_not_taken_for_it(store_dsn: str) -> None:
    writer = writer_of(store_dsn)
    await writer.open()
    mine, other = group_of(1, [(0, 1, 1.0)]), group_of(1, [(0, 1, 1.0)])
    await writer.commit(mine, nothing_late)
    assert await writer.is_committed(mine)
    assert not await writer.is_committed(other)
    assert (await writer.commit(mine, nothing_late)).n_stored == 1
    with pytest.raises(FatalError):
        await writer.commit(other, nothing_late)
    await writer.close()


async def test_a_commit_that_is_cancelled_leaves_no_half_open_transaction(store_dsn: str) -> None:
    writer = writer_of(store_dsn)
    await writer.open()
    group = group_of(1, [(0, 1, 1.0)])
    blocked = asyncio.Event()

    async def hold_the_row() -> None:
        async with connected(store_dsn) as connection, connection.transaction():
            await connection.execute("SELECT * FROM shard_state FOR UPDATE")
            blocked.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold_the_row())
    await blocked.wait()
    committing = asyncio.create_task(writer.commit(group, nothing_late))
    query = "SELECT count(*)::int FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(DEADLINE_S):
        while await rows_of(store_dsn, query) == [(0,)]:
            await asyncio.sleep(0.01)
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    outcome, _ = await persist(writer, group)
    await writer.close()
    assert outcome.n_stored == 1
    assert await stored(store_dsn) == [(0, 1, 1.0)]
